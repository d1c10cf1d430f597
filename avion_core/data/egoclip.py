"""EgoVLP's `egoclip.csv`: verb and noun tags of Ego4D's narrations.

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

from avion_core.data.annotation_files import ascii_number
from avion_core.data.source_videos import SourceError

EGOCLIP = "egoclip.csv"
COLUMNS = ("video_uid", "narration_time", "clip_text", "tag_verb", "tag_noun")
"""Columns that are read."""
CELLS_PER_S = 10
"""Times that differ by a tenth of a second are the same narration, as copies of the file may be rounded."""
LARGEST_TAG = 9999
"""A line with a larger class number counts as malformed."""

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
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            found.malformed += 1
            continue
        found.rows += 1
        if uid in videos:
            found.add(uid, time_s, text, tags)
    if found.malformed > found.rows or not found.rows:
        lines = found.rows + found.malformed
        raise SourceError(
            f"{path}: {found.malformed} of its {lines} rows cannot be read; fetch the file again"
        )
    return found


def check_header(path: Path) -> None:
    """Raise SourceError unless the file is there and has the columns that are read."""
    next(_lines(path), None)


def _lines(path: Path) -> Iterator[Sequence[str]]:
    """Values of COLUMNS in every line; an empty list for a line that has not as many values as the header."""
    try:
        stream = path.open(encoding="utf-8-sig", errors="replace", newline="\n")
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); correct the path") from None
    with stream:
        header = _split(stream.readline())
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise SourceError(
                f"{path}: column '{missing[0]}' is missing; EgoVLP's file is tab-separated and has "
                f"{', '.join(COLUMNS)}"
            )
        places = [header.index(name) for name in COLUMNS]
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
