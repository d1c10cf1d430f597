"""Clips per CPU second of our decoder against decord used as AVION's loader uses it.

Three requests on the same footage: 4 frames of 1 second and 16 frames of 3 seconds (segments with
jitter), and Kinetics' window of 16 frames at a distance of 4. decord opens the file twice, decodes whole
frames, and torch crops and resizes them, on chunks of the format `avion`; ours reads the packet index of
`random_access` and of `all_intra` chunks. One thread; every round times all of them on the same clips,
and the medians of the rounds are compared. Picture quality is measured against a lossless transcoding.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from avion_core.config import TranscodeSettings
from avion_core.data.chunks import ChunkIndex
from avion_core.media.crop import random_resized_crop
from avion_core.media.decode import Scaler, decode_packets
from avion_core.media.sample import segment_frames, window_frames
from avion_core.media.transcode import gather_chunks, transcode_shard
from benchmarks import write_result
from benchmarks.footage import street

SECONDS, FPS, SIZE_PX = 60, 30, 224
ROUNDS, CLIPS = 7, 24
REQUESTS = ("four_frames", "sixteen_frames", "kinetics_window")


@dataclass(frozen=True)
class Chunks:
    """One transcoding of the footage."""

    index: ChunkIndex
    paths: list[Path]
    frames: list[int]

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths)


def transcode(source: Path, folder: Path, **settings: Any) -> Chunks:
    """Chunks of the footage with these settings."""
    folder.mkdir()
    pq.write_table(pa.table({"video_id": ["street"], "path": [str(source)], "bytes": [0]}), folder / "videos")
    shard, refused = folder / "shard.parquet", folder / "shard.json"
    transcode_shard(
        folder / "videos",
        settings=TranscodeSettings(**settings),
        shard="1-of-1",
        chunks_dir=folder,
        index=shard,
        quarantine=refused,
    )
    gather_chunks([shard], [refused], index=folder / "chunks.parquet", quarantine=folder / "refused.json")
    table = pq.read_table(folder / "chunks.parquet")
    paths = [Path(path) for path in table["path"].to_pylist()]
    return Chunks(ChunkIndex.load(folder / "chunks.parquet"), paths, table["frames"].to_pylist())


def request(name: str, rng: np.random.Generator) -> NDArray[np.int64]:
    """Frame numbers of a random clip that lies within one chunk."""
    length = {"four_frames": FPS, "sixteen_frames": 3 * FPS, "kinetics_window": 10 * FPS}[name]
    chunk = int(rng.integers(SECONDS // 15))
    start = chunk * 15 * FPS + int(rng.integers(15 * FPS - length + 1))
    if name == "kinetics_window":
        return window_frames(start, start + length, 16, stride=4, rng=rng)
    return segment_frames(start, start + length, 4 if name == "four_frames" else 16, rng=rng)


def with_decord(chunks: Chunks, numbers: Sequence[int]) -> None:
    """As AVION's loader: length from a first opening, frames from a second, then torchvision's crop."""
    import decord

    chunk, local = divmod(np.asarray(numbers), 15 * FPS)
    path = str(chunks.paths[int(chunk[0])])
    len(decord.VideoReader(path, num_threads=1))
    frames = decord.VideoReader(path, num_threads=1).get_batch(local.tolist()).asnumpy()
    clip = torch.from_numpy(frames.astype(np.float32)).permute(0, 3, 1, 2)
    RandomResizedCrop(SIZE_PX, scale=(0.5, 1.0), interpolation=InterpolationMode.BILINEAR)(clip)


def with_packets(chunks: Chunks, numbers: Sequence[int], rng: np.random.Generator) -> None:
    """As our loader."""
    crop = random_resized_crop(*chunks.index.size("street"), scale=(0.5, 1.0), rng=rng)
    chunks.index.read("street", np.asarray(numbers), crop=crop, size_px=SIZE_PX)


def clips_per_second(read: Callable[[NDArray[np.int64]], None], name: str, seed: int) -> float:
    """Clips per second of this process's CPU time."""
    rng = np.random.default_rng(seed)
    wanted = [request(name, rng) for _ in range(CLIPS)]
    start = time.process_time()
    for numbers in wanted:
        read(numbers)
    return CLIPS / (time.process_time() - start)


def rates(baseline: Chunks, ours: Chunks, intra: Chunks) -> dict[str, dict[str, float]]:
    """Median clips per CPU second by request and reader."""
    rng = np.random.default_rng(0)
    readers: dict[str, Callable[[NDArray[np.int64]], None]] = {
        "decord_avion": lambda numbers: with_decord(baseline, numbers.tolist()),
        "avion": lambda numbers: with_packets(baseline, numbers.tolist(), rng),
        "random_access": lambda numbers: with_packets(ours, numbers.tolist(), rng),
        "all_intra": lambda numbers: with_packets(intra, numbers.tolist(), rng),
    }
    measured: dict[str, dict[str, list[float]]] = {name: {r: [] for r in readers} for name in REQUESTS}
    for round_number in range(ROUNDS + 1):
        for name in REQUESTS:
            for reader, read in readers.items():
                rate = clips_per_second(read, name, round_number)
                if round_number:  # the first warms caches up
                    measured[name][reader].append(rate)
    return {
        name: {reader: statistics.median(values) for reader, values in entry.items()}
        for name, entry in measured.items()
    }


def where_time_goes(chunks: Chunks) -> dict[str, dict[str, float]]:
    """Milliseconds a clip: the packets alone through libavcodec, with scaling, and all of a read."""
    result = {}
    for name in REQUESTS:
        rng = np.random.default_rng(1)
        wanted = [request(name, rng) for _ in range(4 * CLIPS)]
        spent = {"decode": 0.0, "crop_and_scale": 0.0, "whole_read": 0.0}
        decoded = 0
        for numbers in wanted:
            crop = random_resized_crop(*chunks.index.size("street"), scale=(0.5, 1.0), rng=rng)
            row, local = int(numbers[0]) // (15 * FPS), sorted(set((numbers % (15 * FPS)).tolist()))
            index = chunks.index.packet_index(row)
            assert index is not None
            packets = [
                av.Packet(_bytes(chunks.paths[row], index.packets[place]))
                for run in index.runs(local)
                for place in run
            ]
            decoded += len(packets)
            start = time.process_time()
            context: Any = av.CodecContext.create(index.codec, "r")
            context.extradata, context.thread_count = index.extradata, 1
            for packet in packets:
                context.decode(packet)
            context.decode(None)
            spent["decode"] += time.process_time() - start
            frames = [frame for _, frame in decode_packets(chunks.paths[row], index, local)]
            start = time.process_time()
            scale = Scaler(crop, SIZE_PX)
            for frame in frames:
                scale(frame)
            spent["crop_and_scale"] += time.process_time() - start
            start = time.process_time()
            chunks.index.read("street", numbers, crop=crop, size_px=SIZE_PX)
            spent["whole_read"] += time.process_time() - start
        milliseconds = {f"{part}_ms": 1000 * seconds / len(wanted) for part, seconds in spent.items()}
        rest = milliseconds["whole_read_ms"] - milliseconds["decode_ms"] - milliseconds["crop_and_scale_ms"]
        result[name] = {**milliseconds, "everything_else_ms": rest, "frames_decoded": decoded / len(wanted)}
    return result


def _bytes(path: Path, record: np.void) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), int(record["size"]), int(record["offset"]))


def luma(path: Path) -> NDArray[np.uint8]:
    """Brightness of every frame, T,H,W."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])


def psnr_db(chunks: Chunks, reference: Chunks) -> float:
    """Of all frames' brightness together."""
    squares = [
        np.square(luma(ours).astype(np.float32) - luma(theirs)).mean()
        for ours, theirs in zip(chunks.paths, reference.paths, strict=True)
    ]
    return float(10 * np.log10(255**2 / np.average(squares, weights=reference.frames)))


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="avion-decode-") as name:
        folder = Path(name)
        source = street(folder / "street.mp4", seconds=SECONDS)
        formats = {
            key: transcode(source, folder / key, format=key)
            for key in ("avion", "random_access", "all_intra")
        }
        lossless = transcode(source, folder / "lossless", format="all_intra", crf=0)
        quality = {key: psnr_db(chunks, lossless) for key, chunks in formats.items()}
        speed = rates(formats["avion"], formats["random_access"], formats["all_intra"])
        parts = where_time_goes(formats["random_access"])
        size = {key: chunks.bytes / formats["avion"].bytes for key, chunks in formats.items()}
    ratios = {key: entry["random_access"] / entry["decord_avion"] for key, entry in speed.items()}
    ratios |= {
        "all_intra_four_frames": speed["four_frames"]["all_intra"] / speed["four_frames"]["decord_avion"]
    }
    ratios |= {"bytes": size["random_access"], "all_intra_bytes": size["all_intra"]}
    figures = {
        "clips_per_cpu_second": speed,
        "milliseconds_a_clip": parts,
        "psnr_db": quality,
        "psnr_difference_db": quality["random_access"] - quality["avion"],
    }
    write_result("decode", figures=figures, ratios=ratios)


if __name__ == "__main__":
    main()
