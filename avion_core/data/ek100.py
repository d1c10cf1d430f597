"""EPIC-KITCHENS-100: its annotation CSVs, class lists, and the sentences of multi-instance retrieval."""

from __future__ import annotations

import ast
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from avion_core.data.annotation import Annotation, human_clips
from avion_core.data.annotation_files import Row, ascii_number, read_rows
from avion_core.data.clips import write_sentences
from avion_core.data.ek100_files import (
    CLASSES,
    SENTENCES,
    SPLITS,
    annotation_files,
    require_annotations,
    require_videos,
)
from avion_core.data.ek100_files import find_videos as find_wanted
from avion_core.data.layout_files import LayoutReader, OfficialFiles
from avion_core.data.source_videos import SourceError, SourceVideo, VideosOfClips
from avion_core.data.tables import SUFFIX
from avion_core.files import write_json
from avion_core.layouts import CLASSES as CLASSES_FILE
from avion_core.plain_text import plain

T = TypeVar("T")

SEGMENT_COLUMNS = (
    "narration_id",
    "video_id",
    "start_timestamp",
    "stop_timestamp",
    "narration",
    "verb_class",
    "noun_class",
    "all_noun_classes",
)
"""Columns read from an annotation CSV."""


@dataclass(frozen=True)
class Segment:
    """One row of an annotation CSV."""

    narration_id: str
    video_id: str
    start_s: float
    end_s: float
    text: str
    verb: int
    noun: int
    nouns: tuple[int, ...]
    """Every noun class, the direct object first."""

    @property
    def action(self) -> str:
        """Name of the action class."""
        return f"{self.verb}:{self.noun}"


@dataclass(frozen=True)
class ClassEntry:
    """A verb or noun class and its words."""

    key: str
    instances: tuple[str, ...]
    """Words in the owners' form: `pick-up`, `board:chopping`."""


@dataclass(frozen=True)
class Annotations:
    """All annotation files of the layout, read and checked against each other."""

    verbs: list[ClassEntry]
    nouns: list[ClassEntry]
    segments: dict[str, list[Segment]]
    """By split, as in SPLITS."""
    sentences: dict[str, list[dict[str, Any]]]
    """Rows of a sentence table, by split, as in SENTENCES."""


def read_annotations(folder: Path) -> Annotations:
    """Read everything. Raises SourceError naming the file, line and column of an error."""
    files = annotation_files(folder)
    verbs, nouns = (read_class_list(files[name]) for name in CLASSES.values())
    segments = {
        split: read_segments(files[name], verbs=len(verbs), nouns=len(nouns))
        for split, name in SPLITS.items()
    }
    if not segments["train"]:
        raise SourceError(f"{files[SPLITS['train']]}: it has no rows after the header; fetch the file again")
    by_id = {row.narration_id: row for rows in segments.values() for row in rows}
    sentences = {
        split: read_sentences(files[name], by_id, own_texts=split == "test")
        for split, name in SENTENCES.items()
    }
    return Annotations(verbs, nouns, segments, sentences)


def clock_seconds(value: str) -> float:
    """Seconds from the files' `hh:mm:ss.ss`. Raises ValueError for anything else."""
    hours, minutes, seconds = value.split(":")
    if not (hours.isdecimal() and minutes.isdecimal()):
        raise ValueError(value)
    parts = [ascii_number(part) for part in (hours, minutes, seconds)]
    if not (math.isfinite(sum(parts)) and 0 <= parts[1] < 60 and 0 <= parts[2] < 60):
        raise ValueError(value)
    return parts[0] * 3600 + parts[1] * 60 + parts[2]


@cache
def class_numbers(value: str) -> tuple[int, ...]:
    """Class numbers from the files' `[2, 60]`. Raises ValueError for anything else."""
    numbers = ast.literal_eval(value)
    if not isinstance(numbers, list) or not numbers or not all(type(number) is int for number in numbers):
        raise ValueError(value)
    return tuple(numbers)


def words(value: str) -> tuple[str, ...]:
    """Words from the files' `['take', 'grab']`. Raises ValueError for anything else."""
    listed = ast.literal_eval(value)
    if not isinstance(listed, list) or not all(isinstance(word, str) for word in listed):
        raise ValueError(value)
    return tuple(listed)


def read_segments(path: Path, *, verbs: int | None = None, nouns: int | None = None) -> list[Segment]:
    """Rows of an annotation CSV; `verbs` and `nouns` are the numbers of classes, if known.

    Raises SourceError naming the line and column of an error.
    """
    return [_segment(row, verbs, nouns) for row in read_rows(path, columns=SEGMENT_COLUMNS)]


def _segment(row: Row, verbs: int | None, nouns: int | None) -> Segment:
    for column in ("narration_id", "video_id"):
        if not row.values[column]:
            raise row.error(column, "it is empty; restore the owner's file")
    return Segment(
        narration_id=row.values["narration_id"],
        video_id=row.values["video_id"],
        start_s=_value(row, "start_timestamp", clock_seconds, "a time hh:mm:ss.ss"),
        end_s=_value(row, "stop_timestamp", clock_seconds, "a time hh:mm:ss.ss"),
        text=row.values["narration"],
        verb=_classes(row, "verb_class", int, verbs),
        noun=_classes(row, "noun_class", int, nouns),
        nouns=_classes(row, "all_noun_classes", class_numbers, nouns),
    )


def _value(row: Row, column: str, parse: Callable[[str], T], expected: str) -> T:
    try:
        return parse(row.values[column])
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise row.error(
            column, f"'{row.values[column]}' is not {expected}; restore the owner's file or correct the line"
        ) from None


def _classes(row: Row, column: str, parse: Callable[[str], T], count: int | None) -> T:
    """One class number or several, checked against the class list."""
    expected = "a class number" if parse is int else "a list of class numbers such as [2, 60]"
    found = _value(row, column, parse, expected)
    numbers = found if isinstance(found, tuple) else (found,)
    limit = sys.maxsize if count is None else count
    if not all(number in range(limit) for number in numbers):
        raise row.error(
            column,
            f"{row.values[column]} is not in the class list; restore the owner's files, of one release",
        )
    return found


def read_sentences(
    path: Path, segments: Mapping[str, Segment], *, own_texts: bool = False
) -> list[dict[str, Any]]:
    """Rows of a sentence table: each sentence has the classes of the clip that its file names.

    With `own_texts` it also has that clip's narration: the published figures embed it, and in the official
    test file the last texts are shifted by a line (from P22_04_144 on). Training draws the file's own texts.
    Raises SourceError for a clip that is neither among `segments` (by narration_id) nor has its classes in
    the file itself, as in the training file.
    """
    rows: list[dict[str, Any]] = []
    for row in read_rows(path, columns=("narration_id", "narration")):
        segment = segments.get(row.values["narration_id"])
        text = row.values["narration"]
        if segment is not None:
            verb, nouns = segment.verb, segment.nouns
            text = segment.text if own_texts else text
        elif row.values.get("verb_class") and row.values.get("noun_classes"):
            verb = _value(row, "verb_class", int, "a class number")
            nouns = _value(row, "noun_classes", class_numbers, "a list of class numbers such as [2, 60]")
        else:
            names = ", ".join(SPLITS.values())
            raise row.error(
                "narration_id",
                f"'{row.values['narration_id']}' is in none of {names}; use files of one release",
            )
        if not text:
            raise row.error("narration", "it is empty; restore the owner's file")
        rows.append({"sentence_id": len(rows), "text": text, "verb": verb, "nouns": list(nouns)})
    return rows


def read_class_list(path: Path) -> list[ClassEntry]:
    """Classes in order of their numbers. Raises SourceError if the numbers have gaps."""
    entries: list[ClassEntry] = []
    for row in read_rows(path, columns=("id", "key", "instances")):
        if row.values["id"] != str(len(entries)):
            raise row.error(
                "id", f"class {row.values['id']} where {len(entries)} should be; sort the rows by id"
            )
        instances = _value(row, "instances", words, "a list of words such as ['take', 'grab']")
        entries.append(ClassEntry(row.values["key"], instances))
    return entries


def action_classes(*splits: Sequence[Segment]) -> list[str]:
    """Names of the action classes, `verb:noun`, sorted as text; a name's place is its label.

    Training and validation of EPIC-KITCHENS-100 have 3806.
    """
    return sorted({segment.action for segments in splits for segment in segments})


def check(folder: Path) -> None:
    """Raise SourceError unless `folder` has the layout's annotation files and they can be read."""
    require_annotations(folder)
    read_annotations(folder)


def video_ids(folder: Path) -> set[str]:
    """All annotated videos."""
    return {segment.video_id for rows in read_annotations(folder).segments.values() for segment in rows}


def check_videos(folder: Path, videos: Path) -> None:
    """Raise SourceError unless an annotated video is in the folder `videos`."""
    require_videos(videos, video_ids(folder))


def find_videos(folder: Path, videos: Path) -> tuple[list[SourceVideo], list[SourceVideo]]:
    """Annotated videos found in the folder `videos`, and expected paths of missing ones."""
    return find_wanted(videos, video_ids(folder))


def clips(folder: Path, videos: Path) -> tuple[VideosOfClips, list[str]]:
    """The video of each clip, by split, and the videos on disk."""
    segments = read_annotations(folder).segments
    rows = {split: [(row.video_id,) for row in rows] for split, rows in segments.items()}
    found, _ = find_wanted(videos, {row.video_id for rows in segments.values() for row in rows})
    return rows, [video.video_id for video in found]


def annotate(annotation: Annotation) -> None:
    """Write both splits, the sentences of multi-instance retrieval, and the class lists."""
    annotations = read_annotations(annotation.raw_dir)
    actions = action_classes(*annotations.segments.values())
    label = {name: number for number, name in enumerate(actions)}
    for split, rows in annotations.segments.items():
        columns = human_clips(
            annotation,
            split,
            [row.video_id for row in rows],
            [row.start_s for row in rows],
            [row.end_s for row in rows],
            [row.text for row in rows],
            [row.narration_id for row in rows],
        )
        columns |= {
            "verb": pa.array([row.verb for row in rows], pa.int32()),
            "noun": pa.array([row.noun for row in rows], pa.int32()),
            "nouns": pa.array([list(row.nouns) for row in rows], pa.list_(pa.int32())),
            "label": pa.array([label[row.action] for row in rows], pa.int32()),
        }
        annotation.write_clips(split, pa.table(columns))
    for split, sentences in annotations.sentences.items():
        table = f"sentences_{split}"
        texts = annotation.plain(table, (row["text"] for row in sentences))
        shown = [row | {"text": text} for row, text in zip(sentences, texts, strict=True)]
        write_sentences(annotation.clips_dir / f"{table}{SUFFIX}", shown)
    classes = {"verb": annotations.verbs, "noun": annotations.nouns}
    names = {part: [plain(entry.key) for entry in entries] for part, entries in classes.items()}
    write_json(annotation.clips_dir / CLASSES_FILE, {**names, "action": actions})


READER = LayoutReader(
    annotate=annotate,
    official=OfficialFiles(
        check=lambda folder, _: check(folder),
        annotation_files=annotation_files,
        find_videos=find_videos,
        check_videos=check_videos,
        clips=clips,
    ),
)
