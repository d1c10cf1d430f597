"""Does the loader keep up with its decoder? Clips per second of the whole loader against bare decoding.

Batches of 4-frame clips as in contrastive pretraining: sampled, decoded, cropped, collated and passed on by 1
and by 2 DataLoader workers; against as many plain processes that only decode the same clips. Wall clock, so
the machine must be quiet; rounds alternate, medians are compared.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from avion_core.data.clips import ClipTable
from avion_core.data.dataset import ClipDataset, training_crop
from avion_core.data.loader import BatchLoader
from avion_core.media.sample import frame_range, segment_frames
from benchmarks import write_result
from benchmarks.footage import VIDEO, Chunks, street, transcode
from benchmarks.footage_av import RECIPE_VIEW as VIEW

SECONDS, CLIPS, BATCH, ROUNDS = 60, 1024, 32, 5


def clip_table() -> ClipTable:
    """Clips of one second at random places."""
    starts = np.random.default_rng(0).uniform(0, SECONDS - 1, CLIPS)
    return ClipTable.from_rows(
        {"video_id": VIDEO, "start_s": start, "end_s": start + 1, "texts": []} for start in starts.tolist()
    )


def decode(chunks: Chunks, clips: ClipTable, rows: range) -> None:
    """Only read the clips: choose frames and crop, decode."""
    rng = np.random.default_rng(0)
    for row in rows:
        start, end = frame_range(clips.start_s(row), clips.end_s(row), fps=30.0, frame_count=30 * SECONDS)
        numbers = segment_frames(start, end, VIEW.frames, rng=rng)
        crop = training_crop(*chunks.index.size(VIDEO), view=VIEW, rng=rng)
        chunks.index.read(VIDEO, numbers, crop=crop, size_px=VIEW.image_size_px)


def decoding_rate(chunks: Chunks, clips: ClipTable, processes: int) -> float:
    """Clips per second of `processes` that share the clips, from the first's start to the last's end."""
    gate = multiprocessing.Barrier(processes + 1)

    def work(first: int) -> None:
        decode(chunks, clips, range(first, CLIPS // 8, processes))  # caches and allocators warm
        gate.wait()
        decode(chunks, clips, range(first, CLIPS, processes))

    workers = [multiprocessing.Process(target=work, args=(first,)) for first in range(processes)]
    for worker in workers:
        worker.start()
    gate.wait()
    start = time.monotonic()
    for worker in workers:
        worker.join()
    return CLIPS / (time.monotonic() - start)


class LoaderRate:
    """Clips per second of one pass with warm workers, which end with the object."""

    def __init__(self, chunks: Chunks, clips: ClipTable, workers: int) -> None:
        self._loader = BatchLoader(
            ClipDataset(clips, chunks.index, VIEW),
            batch_size=BATCH,
            seed=0,
            workers=workers,
            shuffle=True,
            drop_last=True,
            clip_timeout_s=60.0,
        )
        self._epoch = 0
        self()

    def __call__(self) -> float:
        """Rate of the next epoch, from requesting its first batch to receiving its last."""
        batches = self._loader.epoch(self._epoch)
        self._epoch += 1
        start = time.monotonic()
        count = sum(len(batch["rows"]) for batch in batches)
        return count / (time.monotonic() - start)


def main() -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork")
    with tempfile.TemporaryDirectory(prefix="avion-loader-") as name:
        folder = Path(name)
        chunks = transcode(street(folder / "street.mp4", seconds=SECONDS), folder / "chunks")
        clips = clip_table()
        loaders = {workers: LoaderRate(chunks, clips, workers) for workers in (1, 2)}
        measured: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for workers, loader in loaders.items():
                measured.setdefault(f"decoder_{workers}", []).append(decoding_rate(chunks, clips, workers))
                measured.setdefault(f"loader_{workers}", []).append(loader())
    rates = {key: statistics.median(values) for key, values in measured.items()}
    ratios = {
        f"loader_over_decoder_{workers}": rates[f"loader_{workers}"] / rates[f"decoder_{workers}"]
        for workers in loaders
    }
    write_result("loader", figures={"clips_per_second": rates}, ratios=ratios)


if __name__ == "__main__":
    main()
