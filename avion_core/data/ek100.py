"""EPIC-KITCHENS-100: its annotation CSVs, class lists, and the sentences of multi-instance retrieval."""

from __future__ import annotations

import ast
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avion_core.data.sources import SourceError, SourceVideo, names_of, require_files

SPLITS = {"train": "EPIC_100_train.csv", "validation": "EPIC_100_validation.csv"}
SENTENCES = {
    "train": "retrieval_annotations/EPIC_100_retrieval_train_sentence.csv",
    "test": "retrieval_annotations/EPIC_100_retrieval_test_sentence.csv",
}
CLASSES = {"verb": "EPIC_100_verb_classes.csv", "noun": "EPIC_100_noun_classes.csv"}
ANNOTATIONS = (*SPLITS.values(), *SENTENCES.values(), *CLASSES.values())
"""Files that the layout needs beside the videos."""


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
    """A verb or noun class and the words that mean it."""

    key: str
    instances: tuple[str, ...]
    """Words, parts joined as the owners do: `pick-up`, `board:chopping`."""


def clock_seconds(value: str) -> float:
    """Seconds from the files' `hh:mm:ss.ss`."""
    hours, minutes, seconds = value.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def read_segments(path: Path) -> list[Segment]:
    """Rows of an annotation CSV. Raises SourceError naming line and column that cannot be read."""
    return [_segment(path, line, row) for line, row in _rows(path)]


def _segment(path: Path, line: int, row: Mapping[str, str]) -> Segment:
    column = ""
    try:
        values: dict[str, Any] = {}
        for column, parse in (
            ("narration_id", str),
            ("video_id", str),
            ("start_timestamp", clock_seconds),
            ("stop_timestamp", clock_seconds),
            ("narration", str),
            ("verb_class", int),
            ("noun_class", int),
            ("all_noun_classes", ast.literal_eval),
        ):
            values[column] = parse(row[column])
    except KeyError:
        raise SourceError(f"{path}: column '{column}' is missing; it has {', '.join(row)}") from None
    except (ValueError, SyntaxError):
        raise SourceError(f"{path}: line {line}: column '{column}': '{row[column]}' cannot be read") from None
    narration_id, video_id, start_s, end_s, text, verb, noun, nouns = values.values()
    return Segment(narration_id, video_id, start_s, end_s, text, verb, noun, tuple(nouns))


def read_sentences(path: Path, segments: Mapping[str, Segment]) -> list[dict[str, Any]]:
    """Rows of a sentence table: each sentence has the classes of the clip that its file names.

    A clip that is not among `segments` (by narration_id) must have its classes in the file itself, as
    the training file does; else SourceError.
    """
    rows: list[dict[str, Any]] = []
    for line, row in _rows(path):
        segment = segments.get(row["narration_id"])
        if segment is not None:
            verb, nouns = segment.verb, list(segment.nouns)
        elif row.get("verb_class") and row.get("noun_classes"):
            verb, nouns = int(row["verb_class"]), list(ast.literal_eval(row["noun_classes"]))
        else:
            raise SourceError(
                f"{path}: line {line}: narration_id '{row['narration_id']}' is in none of "
                f"{', '.join(SPLITS.values())}"
            )
        rows.append({"sentence_id": len(rows), "text": row["narration"], "verb": verb, "nouns": nouns})
    return rows


def read_class_list(path: Path) -> list[ClassEntry]:
    """Classes in the order of their numbers. Raises SourceError when the numbers have gaps."""
    entries: list[ClassEntry] = []
    for line, row in _rows(path):
        if int(row["id"]) != len(entries):
            raise SourceError(f"{path}: line {line}: class {row['id']} where {len(entries)} should be")
        entries.append(ClassEntry(row["key"], tuple(ast.literal_eval(row["instances"]))))
    return entries


def action_classes(*splits: Sequence[Segment]) -> list[str]:
    """Names of the action classes, the label being the place: the strings `verb:noun`, sorted as text.

    Over training and validation of EPIC-KITCHENS-100 there are 3806.
    """
    return sorted({segment.action for segments in splits for segment in segments})


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        for row in reader:
            yield reader.line_num, row


def check(folder: Path) -> None:
    """Raise SourceError unless the layout's annotation files are in `folder`."""
    require_files(folder, ANNOTATIONS, what="the EPIC-KITCHENS-100 annotations and <participant>/videos")


def find_videos(folder: Path) -> tuple[list[SourceVideo], str]:
    """The annotated videos that are in `<participant>/videos`, and the names of those that are not."""
    wanted = {segment.video_id for name in SPLITS.values() for segment in read_segments(folder / name)}
    found, gone = [], []
    for video_id in sorted(wanted):
        stem = folder / video_id.split("_")[0] / "videos" / video_id
        there = [file for suffix in (".MP4", ".mp4") if (file := stem.with_suffix(suffix)).is_file()]
        if there:
            found.append(SourceVideo(video_id, there[0]))
        else:
            gone.append(video_id)
    return found, names_of(gone)
