"""EgoVLP's `egoclip.csv`: verb and noun tags of Ego4D's narrations, or its own clips.

The file is tab-separated and has a few malformed lines, which are skipped and counted. Tags are classes of
Ego4D's narration taxonomy, 118 verbs and 582 nouns, written as lists: `[12, 40]`. A narration finds its tags
by its video, time and text.
"""

from __future__ import annotations

import ast
import csv
import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from avion_core.data.annotation_files import ascii_number
from avion_core.data.clips import CLIPS
from avion_core.data.source_videos import SourceError
from avion_core.data.tables import BATCH_ROWS

EGOCLIP = "egoclip.csv"
COLUMNS = ("video_uid", "narration_time", "clip_text", "tag_verb", "tag_noun")
"""Columns that are read."""
CLIP_COLUMNS = ("video_uid", "clip_start", "clip_end", "clip_text", "tag_verb", "tag_noun")
"""Columns that are read if the file's own clips are used."""
EGOCLIP_CLIPS = pa.schema(
    [
        CLIPS.field(name)
        for name in ("video_id", "start_s", "end_s", "texts", "narration_id", "verb_tags", "noun_tags")
    ]
)
CELLS_PER_S = 10
"""Times that differ by a tenth of a second are the same narration, as copies of the file may be rounded."""
LARGEST_TAG = 9999
"""A line with a larger class number counts as malformed."""

_MALFORMED = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)

Tags = tuple[tuple[int, ...], tuple[int, ...]]
"""Verb and noun classes."""
NONE: Tags = ((), ())


@dataclass
class EgoClip:
    """The tags of some videos' narrations."""

    rows: int = 0
    """Lines that could be read, of all videos."""
    malformed: int = 0
    """Lines that could not."""
    _tags: dict[int, Tags] = field(default_factory=dict)
    """By the hash of video, tenth of a second and text: texts of 4 million rows would take a GB."""

    def add(self, video_uid: str, time_s: float, text: str, tags: Tags) -> None:
        """Add a narration's tags; the first of two rows for one narration counts."""
        self._tags.setdefault(_key(video_uid, round(CELLS_PER_S * time_s), text), tags)

    def tags(self, video_uid: str, time_s: float, text: str) -> Tags:
        """Tags of a narration; none if the file does not have it."""
        cell = round(CELLS_PER_S * time_s)
        for near in (cell, cell - 1, cell + 1):
            if (found := self._tags.get(_key(video_uid, near, text))) is not None:
                return found
        return NONE


def _key(video_uid: str, cell: int, text: str) -> int:
    return hash((video_uid, cell, " ".join(text.split())))


def read_egoclip(path: Path, *, videos: Collection[str] = ()) -> EgoClip:
    """Read the whole file and keep the tags of these videos.

    Raises SourceError without the file or a column that is read, and unless most lines can be read.
    """
    found = EgoClip()
    for values in _lines(path):
        try:
            uid, time, text, verbs, nouns = values
            time_s, tags = ascii_number(time), (_classes(verbs), _classes(nouns))
            if not math.isfinite(time_s):
                raise ValueError(time)
        except _MALFORMED:
            found.malformed += 1
            continue
        found.rows += 1
        if uid in videos:
            found.add(uid, time_s, text, tags)
    _refuse_unless_most(path, found.rows, found.malformed)
    return found


def read_egoclip_clips(path: Path) -> tuple[pa.Table, int]:
    """The file's clips with their texts and tags, in its order, and the number of malformed lines.

    Raises SourceError without the file or a column that is read, and unless most lines can be read.
    """
    batches, rows, malformed = [EGOCLIP_CLIPS.empty_table()], [], 0
    for number, values in enumerate(_lines(path, CLIP_COLUMNS), start=2):
        try:
            uid, start, end, text, verbs, nouns = values
            rows.append(
                (
                    uid,
                    ascii_number(start),
                    ascii_number(end),
                    [text],
                    f"line {number}",
                    _classes(verbs),
                    _classes(nouns),
                )
            )
        except _MALFORMED:
            malformed += 1
        if len(rows) == BATCH_ROWS:
            batches.append(_clips(rows))
            rows = []
    clips = pa.concat_tables([*batches, _clips(rows)])
    _refuse_unless_most(path, len(clips), malformed)
    return clips, malformed


def _clips(rows: Sequence[Sequence[Any]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [[]] * len(EGOCLIP_CLIPS)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, EGOCLIP_CLIPS, strict=True)]
    return pa.table(arrays, schema=EGOCLIP_CLIPS)


def _refuse_unless_most(path: Path, rows: int, malformed: int) -> None:
    """Raise SourceError unless most lines can be read."""
    if malformed > rows or not rows:
        raise SourceError(
            f"{path}: {malformed} of its {rows + malformed} rows cannot be read; fetch the file again"
        )


def check_header(path: Path) -> None:
    """Raise SourceError unless the file is there and has the columns that are read."""
    next(_lines(path), None)


def _lines(path: Path, columns: Sequence[str] = COLUMNS) -> Iterator[Sequence[str]]:
    """Values of these columns in every line; an empty list for a line with fewer or more than the header."""
    try:
        stream = path.open(encoding="utf-8-sig", errors="replace", newline="\n")
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); correct the path") from None
    with stream:
        header = _split(stream.readline())
        missing = [name for name in columns if name not in header]
        if missing:
            raise SourceError(
                f"{path}: column '{missing[0]}' is missing; EgoVLP's file is tab-separated and has "
                f"{', '.join(columns)}"
            )
        places = [header.index(name) for name in columns]
        for line in stream:
            values = _split(line)
            yield [values[place] for place in places] if len(values) == len(header) else []


def _split(line: str) -> list[str]:
    line = line.rstrip("\r\n")
    if '"' not in line:
        return line.split("\t")
    try:
        return next(csv.reader([line], delimiter="\t", strict=True), [])
    except csv.Error:
        return []


@lru_cache(2**16)
def _classes(text: str) -> tuple[int, ...]:
    """Class numbers of a list written as text; none for an empty field. Raises ValueError for others."""
    try:
        numbers = json.loads(text)
    except ValueError:
        numbers = ast.literal_eval(text.strip()) if text.strip() else []
    if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n <= LARGEST_TAG for n in numbers):
        raise ValueError(text)
    return tuple(numbers)
