"""Before a GPU is booked: would every clip of a data set be found and decoded?

Every clip is held against the chunk index, every chunk file against its recorded size, and a sample of
clips is really decoded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import ClipTable, load_questions
from avion_core.media import MediaError
from avion_core.media.crop import center_crop
from avion_core.media.sample import frame_range, segment_frames
from avion_core.progress import Progress

FRAMES, SIZE_PX = 4, 224
"""What a sampled clip is decoded to."""


@dataclass(frozen=True)
class Problem:
    """Something that would fail, and how many clips or chunks it concerns."""

    where: str
    what: str
    count: int
    example: str


@dataclass(frozen=True)
class Preflight:
    """What was looked at in a data set and what is wrong with it."""

    dataset: str
    clips: int
    chunks: int
    decoded: int
    clips_per_second: float
    """Of the decoded sample, one process, reading from the disk as it is."""
    problems: list[Problem]


def check_dataset(
    name: str, chunks: Path, tables: Mapping[str, Path], *, samples: int, seed: int
) -> Preflight:
    """Check the clip tables (name to file) of a data set; `samples` clips of each are decoded.

    Raises ValueError for a table or an index that cannot be read at all.
    """
    index = ChunkIndex.load(chunks)
    problems = list(_chunk_problems(index))
    clips = decoded = 0
    seconds = 0.0
    with Progress(f"preflight {name}", len(tables) * samples, unit="clips") as progress:
        for table, path in tables.items():
            rows = _clips_of(path)
            clips += len(rows)
            problems += _row_problems(table, rows, index)
            rng = np.random.default_rng(seed)
            failures = []
            start = time.monotonic()
            for row in rng.choice(len(rows), size=min(samples, len(rows)), replace=False).tolist():
                try:
                    _decode(rows, row, index)
                except MediaError as error:
                    failures.append(str(error))
                decoded += 1
                progress.advance()
            seconds += time.monotonic() - start
            if failures:
                problems.append(Problem(table, "sampled clips cannot be decoded", len(failures), failures[0]))
    return Preflight(name, clips, index.chunk_count, decoded, decoded / max(seconds, 1e-9), problems)


def _clips_of(path: Path) -> ClipTable:
    """Rows of a clip table, or every choice of a multiple-choice table."""
    if "video_ids" not in pq.read_schema(path).names:
        return ClipTable.load(path)
    return ClipTable.from_rows(
        {"video_id": video_id, "start_s": start_s, "end_s": end_s, "texts": [question.text]}
        for question in load_questions(path)
        for video_id, start_s, end_s in zip(
            question.video_ids, question.starts_s, question.ends_s, strict=True
        )
    )


def _chunk_problems(index: ChunkIndex) -> Iterator[Problem]:
    bad = list(index.changed_chunks())
    if bad:
        yield Problem("chunks", "chunk files are gone or changed", len(bad), bad[0])


def _row_problems(table: str, rows: ClipTable, index: ChunkIndex) -> Iterator[Problem]:
    """Clips of videos without chunks, and clips that end after their video."""
    videos = rows.arrow()["video_id"].combine_chunks().dictionary_encode()
    names = videos.dictionary.to_pylist()
    durations = np.array([index.duration_s(name) if index.has(name) else np.nan for name in names])
    duration_s = durations[videos.indices.to_numpy()]
    unknown = np.flatnonzero(np.isnan(duration_s))
    if len(unknown):
        example = f"row {unknown[0]}: {rows.video_id(int(unknown[0]))}"
        yield Problem(table, "clips are of videos that have no chunks", len(unknown), example)
    end_s = rows.arrow()["end_s"].to_numpy()
    late = np.flatnonzero(end_s > duration_s + 1)
    if len(late):
        row = int(late[0])
        example = f"row {row}: ends at {end_s[row]:.2f} s, {rows.video_id(row)} at {duration_s[row]:.2f} s"
        yield Problem(table, "clips end more than a second after their video", len(late), example)
    empty = np.flatnonzero(end_s <= rows.arrow()["start_s"].to_numpy())
    if len(empty):
        yield Problem(table, "clips end before they begin", len(empty), f"row {empty[0]}")


def _decode(rows: ClipTable, row: int, index: ChunkIndex) -> None:
    video = rows.video_id(row)
    if not index.has(video):
        raise MediaError(video, "the video is not in the chunk index")
    start, end = frame_range(
        rows.start_s(row), rows.end_s(row), fps=float(index.fps(video)), frame_count=index.frame_count(video)
    )
    crop = center_crop(*index.size(video))
    index.read(video, segment_frames(start, end, FRAMES), crop=crop, size_px=SIZE_PX)
