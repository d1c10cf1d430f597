"""Checks before booking a GPU: are there enough clips, and can they be found and decoded?

Checks every table against the runs' needs, every clip against the chunk index and every chunk file against
its recorded size, and decodes a sample of clips.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avion_core.data.chunks import ChunkIndex, durations_s
from avion_core.data.clips import ClipTable, load_questions
from avion_core.data.deadline import time_limit
from avion_core.data.tables import column_names
from avion_core.files import read_json
from avion_core.media import MediaError
from avion_core.media.crop import center_crop
from avion_core.media.sample import frame_range, segment_frames
from avion_core.progress import Progress

FRAMES, SIZE_PX = 4, 224
"""Size of a decoded sample clip."""


@dataclass(frozen=True)
class Problem:
    """A problem, and the number of clips or chunks it affects."""

    where: str
    what: str
    count: int
    example: str


@dataclass(frozen=True)
class TableCount:
    """A clip table: its clips, and those that annotation left out, by reason."""

    name: str
    clips: int
    dropped: Mapping[str, int]


@dataclass(frozen=True)
class Preflight:
    """Result of checking a data set."""

    dataset: str
    tables: list[TableCount]
    chunks: int
    decoded: int
    clips_per_second: float
    """For the decoded sample, in one process, from disk."""
    problems: list[Problem]


def check_dataset(
    name: str,
    chunks: Path,
    tables: Mapping[str, Path],
    *,
    dropped: Path,
    needed: Mapping[str, int],
    samples: int,
    seed: int,
    clip_timeout_s: float,
) -> Preflight:
    """Check the clip tables (name to file) of a data set; `samples` clips of each are decoded.

    `dropped` is annotation's `dropped.json`, `needed` the number of clips a table must have (at least 1).
    A clip that is not read within `clip_timeout_s` seconds counts as undecodable.

    Raises ValueError for an unreadable table or index.
    """
    index = ChunkIndex.load(chunks)
    problems = list(_chunk_problems(index))
    reasons = read_json(dropped).get("tables", {})
    counts: list[TableCount] = []
    decoded = 0
    seconds = 0.0
    with Progress(f"preflight {name}", len(tables) * samples, unit="clips") as progress:
        for table, path in tables.items():
            rows = _clips_of(path)
            counts.append(TableCount(table, len(rows), reasons.get(path.stem, {})))
            problems += _too_few(counts[-1], needed.get(table, 1))
            problems += _row_problems(table, rows, index)
            rng = np.random.default_rng(seed)
            failures = []
            start = time.monotonic()
            for row in rng.choice(len(rows), size=min(samples, len(rows)), replace=False).tolist():
                try:
                    with time_limit(clip_timeout_s, rows.video_id(row)):
                        _decode(rows, row, index)
                except MediaError as error:
                    failures.append(str(error))
                decoded += 1
                progress.advance()
            seconds += time.monotonic() - start
            if failures:
                problems.append(Problem(table, "sampled clips cannot be decoded", len(failures), failures[0]))
    return Preflight(name, counts, index.chunk_count, decoded, decoded / max(seconds, 1e-9), problems)


def _too_few(table: TableCount, needed: int) -> Iterator[Problem]:
    """A table that is empty or does not fill a batch."""
    if table.clips < needed:
        what = "clips do not fill a batch" if table.clips else "clips: the table is empty"
        dropped = "; ".join(f"{reason}: {count}" for reason, count in table.dropped.items())
        yield Problem(table.name, what, table.clips, f"{needed} are needed; left out: {dropped or 'none'}")


def _clips_of(path: Path) -> ClipTable:
    """Rows of a clip table, or every choice of a multiple-choice table."""
    if "video_ids" not in column_names(path):
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
    """Clips of videos without chunks, clips that end after their video, clips that end before they begin."""
    counts: Counter[str] = Counter()
    examples: dict[str, int] = {}
    first = 0
    for batch in rows.arrow().to_batches():
        duration_s, end_s = durations_s(batch["video_id"], index), batch["end_s"].to_numpy()
        wrong = {
            "clips are of videos that have no chunks": np.isnan(duration_s),
            "clips end more than a second after their video": end_s > duration_s + 1,
            "clips end before they begin": end_s <= batch["start_s"].to_numpy(),
        }
        for what, clips in wrong.items():
            if clips.any():
                counts[what] += int(clips.sum())
                examples.setdefault(what, first + int(clips.argmax()))
        first += len(batch)
    for what, count in counts.items():
        yield Problem(table, what, count, _example(rows, examples[what], index))


def _example(rows: ClipTable, row: int, index: ChunkIndex) -> str:
    video = rows.video_id(row)
    length = f", which has {index.duration_s(video):.2f} s" if index.has(video) else ""
    return f"row {row}: {rows.start_s(row):.2f} to {rows.end_s(row):.2f} s of {video}{length}"


def _decode(rows: ClipTable, row: int, index: ChunkIndex) -> None:
    video = rows.video_id(row)
    if not index.has(video):
        raise MediaError(video, "the video is not in the chunk index")
    start, end = frame_range(
        rows.start_s(row), rows.end_s(row), fps=float(index.fps(video)), frame_count=index.frame_count(video)
    )
    crop = center_crop(*index.size(video))
    index.read(video, segment_frames(start, end, FRAMES), crop=crop, size_px=SIZE_PX)
