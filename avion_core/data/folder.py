"""The user's own videos: a folder and a CSV `video,start,end,text[,split]`, checked before any work."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from avion_core.data.annotation import Annotation, human_clips
from avion_core.data.annotation_files import Row, ascii_number, read_rows
from avion_core.data.layout_files import LayoutReader
from avion_core.data.source_videos import (
    SourceError,
    canonical_name,
    find_file,
    names_of,
    video_id_of,
)

COLUMNS = ("video", "start", "end", "text")
SPLITS = ("train", "validation")
NARRATIONS = "narrations.csv"
"""Name of the CSV's copy in the raw folder."""


@dataclass(frozen=True)
class Narration:
    """One line of the CSV."""

    line: int
    video: str
    """Path within the videos' folder, in canonical form."""
    start_s: float
    end_s: float
    text: str
    split: str
    """Train, validation, or empty if the CSV does not say."""


def parse_time(value: str) -> float:
    """Seconds from `12.5`, `mm:ss` or `hh:mm:ss.sss`. Raises ValueError for anything else."""
    parts = value.strip().split(":")
    if not 1 <= len(parts) <= 3 or not all(part.strip() for part in parts):
        raise ValueError(value)
    numbers = [ascii_number(part) for part in parts]
    if any(number < 0 or not math.isfinite(number) for number in numbers):
        raise ValueError(value)
    if any(number >= 60 for number in numbers[1:]) or any(number % 1 for number in numbers[:-1]):
        raise ValueError(value)
    seconds = 0.0
    for number in numbers:
        seconds = seconds * 60 + number
    return seconds


def read_narrations(path: Path, *, videos: Path | None, away: Collection[str] = ()) -> list[Narration]:
    """All lines of a narrations CSV; the folder `videos` must hold each line's video, except those `away`.

    Raises SourceError naming file, line, column, value and a way out, for a missing column, a bad time, an
    end that is not after its start, an empty text, an unknown split, or missing videos.
    """
    narrations = [_narration(row) for row in read_rows(path, columns=COLUMNS)]
    if not narrations:
        raise SourceError(f"{path}: no narrations after the header; add a line {','.join(COLUMNS)}")
    if videos is not None:
        lines = {row.video: row.line for row in reversed(narrations)}
        wanted = [name for name in sorted(lines, key=lines.__getitem__) if video_id_of(name) not in away]
        gone = [name for name in wanted if find_file(videos, name) is None]
        if gone:
            others = f", nor are {names_of(gone[1:])}" if gone[1:] else ""
            raise SourceError(
                f"{path}: line {lines[gone[0]]}: column 'video': '{gone[0]}' is not in {videos}{others}; "
                f"correct the name or add the file"
            )
    return narrations


def _narration(row: Row) -> Narration:
    start_s, end_s = _time(row, "start"), _time(row, "end")
    if end_s <= start_s:
        start, end = row.values["start"], row.values["end"]
        raise row.error("end", f"'{end}' is not after the start '{start}'; swap or correct them")
    if not any(character.isalnum() for character in row.values["text"]):
        raise row.error("text", "it says nothing; write a sentence or remove the line")
    if not row.values["video"]:
        raise row.error("video", "it is empty; name a file of the videos' folder")
    split = row.values.get("split", "")
    if split and split not in SPLITS:
        raise row.error("split", f"'{split}' is unknown; write {' or '.join(SPLITS)}, or leave it empty")
    video = canonical_name(row.values["video"])
    return Narration(row.line, video, start_s, end_s, row.values["text"], split)


def _time(row: Row, column: str) -> float:
    """Seconds; spreadsheets that separate with `;` write a decimal comma."""
    value = row.values[column]
    try:
        return parse_time(value.replace(",", ".") if row.separator == ";" else value)
    except ValueError:
        raise row.error(column, f"'{value}' is not a time; write seconds (12.5) or hh:mm:ss") from None


def split_of(video: str, *, validation_fraction: float) -> str:
    """Split of a video by a hash of its name: the same on every machine and for any set of videos."""
    share = int.from_bytes(hashlib.sha256(video.encode()).digest()[:8], "big") / 2**64
    return "validation" if share < validation_fraction else "train"


def annotate(annotation: Annotation) -> None:
    """Write the user's narrations; without a `split` in the CSV, whole videos are held out by name."""
    fraction = annotation.recipe["validation_fraction"]
    narrations = read_narrations(annotation.raw_dir / NARRATIONS, videos=None)
    splits = [row.split or split_of(row.video, validation_fraction=fraction) for row in narrations]
    for split in SPLITS:
        rows = [row for row, chosen in zip(narrations, splits, strict=True) if chosen == split]
        columns = human_clips(
            annotation,
            split,
            [video_id_of(row.video) for row in rows],
            [row.start_s for row in rows],
            [row.end_s for row in rows],
            [row.text for row in rows],
            [f"line {row.line}" for row in rows],
        )
        annotation.write_clips(split, pa.table(columns))


READER = LayoutReader(annotate=annotate)
