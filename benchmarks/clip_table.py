"""A table of 35 million clips, built in a stream and opened by eight workers, against a pickled list.

The rows are synthetic but of Ego4D's form: 36-character video ids, times, one narration of 5 to 12 words.
The parent opens the table, eight workers are forked as in the loader, and each reads the metadata of 10,000
random rows, all at once, on all available cores; `alone` is one process that does both, `cold` the same
without the file in the page cache. LaViLa and AVION keep such rows as a pickled list of tuples, measured here
on a tenth of them, and ten times its seconds and memory are compared (`ratios`: list over table).

A worker's memory is its growth since the fork: `private` is unshared (USS), of which `anonymous` is not
backed by the file; `mapped` are the file's pages that it has touched, which workers share and the kernel
reclaims when memory is short.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from avion_core.data.clips import ClipTable, write_clips
from avion_core.data.tables import BATCH_ROWS
from benchmarks import write_result

CLIPS, VIDEOS, WORKERS, SAMPLES, LIST_SHARE = 35_000_000, 9_600, 8, 10_000, 10
TEXT = """C picks up puts down the a cup knife board onion pan lid left right hand from on table drawer and
with opens closes fridge door turns tap washes plate slowly cuts stirs pours water into bowl looks"""


def batches(clips: int) -> Iterator[pa.RecordBatch]:
    """The rows, video by video."""
    rng = np.random.default_rng(0)
    vocabulary = pa.array(TEXT.split())
    videos = pa.array([f"{k:08x}-8d2f-4c1e-9b7a-{k:012x}" for k in range(VIDEOS)])
    for first in range(0, clips, BATCH_ROWS):
        rows = np.arange(first, min(first + BATCH_ROWS, clips))
        lengths = rng.integers(5, 13, len(rows))
        words = [
            vocabulary.take(pa.array(rng.integers(len(vocabulary), size=len(rows)), mask=lengths <= place))
            for place in range(12)
        ]
        text = pc.binary_join_element_wise(*words, " ", null_handling="skip")
        start_s = rng.uniform(0, 1800, len(rows))
        columns = {
            "video_id": videos.take(pa.array(rows * VIDEOS // clips)),
            "start_s": pa.array(start_s),
            "end_s": pa.array(start_s + rng.uniform(0.5, 2, len(rows))),
            "texts": pa.ListArray.from_arrays(np.arange(len(rows) + 1, dtype=np.int32), text),
        }
        yield pa.record_batch(columns)


def memory_mb() -> dict[str, float]:
    """Memory of this process; `peak` since its start."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    names = {"anonymous": "RssAnon", "mapped": "RssFile", "peak": "VmHWM"}
    pages = {name: int(status[key].split()[0]) * 1024 / 1e6 for name, key in names.items()}
    return {"private": psutil.Process().memory_full_info().uss / 1e6, **pages}


def added_mb(before: dict[str, float], *names: str) -> dict[str, float]:
    """Growth of this process's memory."""
    now = memory_mb()
    return {f"{name}_mb": now[name] - before[name] for name in names}


def build(path: Path) -> dict[str, float]:
    """Write the table."""
    start = time.monotonic()
    write_clips(path, batches(CLIPS))
    return {"seconds": time.monotonic() - start, "peak_mb": memory_mb()["peak"]}


def draw(clips: ClipTable, seed: int) -> dict[str, float]:
    """Read the metadata of random rows."""
    rows = np.random.default_rng(seed).integers(len(clips), size=SAMPLES).tolist()
    start, cpu_start = time.monotonic(), time.process_time()
    for row in rows:
        clips.video_id(row), clips.start_s(row), clips.end_s(row), clips.texts(row)
    return {"draw_seconds": time.monotonic() - start, "draw_cpu_seconds": time.process_time() - cpu_start}


def alone(path: Path) -> dict[str, float]:
    """Open and draw in one process."""
    start = time.monotonic()
    clips = ClipTable.load(path)
    return {"open_seconds": time.monotonic() - start, **draw(clips, seed=0)}


def alone_cold(path: Path) -> dict[str, float]:
    """The same without the file in the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return alone(path)


def with_workers(path: Path) -> dict[str, Any]:
    """Open in this process, draw in forked ones; the median and the worst of the workers."""
    clips = ClipTable.load(path)
    fork = multiprocessing.get_context("fork")
    barrier, answers = fork.Barrier(WORKERS), fork.SimpleQueue()

    def work(seed: int) -> None:
        before = memory_mb()
        barrier.wait()
        spent = draw(clips, seed)
        barrier.wait()  # measure memory once all have drawn and none has ended
        answers.put({**spent, **added_mb(before, "private", "anonymous", "mapped")})
        barrier.wait()

    workers = [fork.Process(target=work, args=(seed,)) for seed in range(WORKERS)]
    for worker in workers:
        worker.start()
    found = [answers.get() for _ in workers]
    for worker in workers:
        worker.join()
    return {
        "median": {name: statistics.median(entry[name] for entry in found) for name in found[0]},
        "worst": {name: max(entry[name] for entry in found) for name in found[0]},
    }


def build_list(path: Path) -> None:
    """Pickle a tenth of the rows as a list of tuples."""
    rows: list[tuple[str, float, float, str]] = []
    for batch in batches(CLIPS // LIST_SHARE):
        texts = batch["texts"].flatten()
        columns = [batch["video_id"], batch["start_s"], batch["end_s"], texts]
        rows += zip(*(column.to_pylist() for column in columns), strict=True)
    with path.open("wb") as file:
        pickle.dump(rows, file, protocol=pickle.HIGHEST_PROTOCOL)


def open_list(path: Path) -> dict[str, float]:
    """Load the pickled list."""
    before, start = memory_mb(), time.monotonic()
    with path.open("rb") as file:
        rows = pickle.load(file)
    seconds = time.monotonic() - start
    return {"rows": len(rows), "open_seconds": seconds, **added_mb(before, "private")}


def in_fresh_process(function: Callable[[Path], Any], path: Path) -> Any:
    """`function(path)` in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, path).result()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="avion-clip-table-") as name:
        table, pickled = Path(name) / "train.arrow", Path(name) / "train.pkl"
        figures = {
            "clips": CLIPS,
            "build": in_fresh_process(build, table),
            "bytes": table.stat().st_size,
            "alone_cold": in_fresh_process(alone_cold, table),
            "alone": in_fresh_process(alone, table),
            "workers": in_fresh_process(with_workers, table),
        }
        in_fresh_process(build_list, pickled)
        tenth = {**in_fresh_process(open_list, pickled), "bytes": pickled.stat().st_size}
    figures["list_of_a_tenth"] = tenth
    figures["list_scaled"] = {key: LIST_SHARE * value for key, value in tenth.items()}
    ratios = {
        "open_seconds": figures["list_scaled"]["open_seconds"] / figures["alone"]["open_seconds"],
        "memory": figures["list_scaled"]["private_mb"] / figures["workers"]["worst"]["private_mb"],
    }
    write_result("clip_table", figures=figures, ratios=ratios)


if __name__ == "__main__":
    main()
