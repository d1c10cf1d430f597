"""Schemas of the tables between annotation and training: clips, sentences, multiple-choice questions.

Stages after `annotate` read these files only, never a data set's own formats. Columns that a layout does not
have are absent. This module defines what each column means.

The files are uncompressed Arrow IPC (`avion_core.data.tables`), which all worker processes map and share.
Parquet is smaller, but every process would decode its own copy. `pd.read_feather` reads them too.

Clip table, one row per clip (`clips/<split>.arrow`, `narrations/<provider>/train.arrow`):

| column | type | meaning |
|---|---|---|
| `video_id` | string | source video, as in the chunk index |
| `start_s`, `end_s` | float64 | the clip within the video, seconds, 0 <= start_s < end_s <= duration |
| `texts` | list of string | sentences for the clip; the first is the original one; empty for labels only |
| `narration_id` | string | the annotation the clip was made of |
| `verb`, `noun` | int32 | class numbers of EPIC-KITCHENS-100; `noun` is the first noun |
| `nouns` | list of int32 | every noun class, the first noun first |
| `label` | int32 | class to predict: Kinetics' or EGTEA's class, or the action class of EPIC-KITCHENS-100 |
| `labels` | list of int32 | every class of a clip that may have several or none (Charades-Ego's test clips) |
| `source` | string | who wrote the row's texts: `human`, `rephrased` or `narrated` |
| `scores` | list of float64 | of each narrated text, if its provider gives any: lower is surer |
| `verb_tags`, `noun_tags` | list of int32 | classes of Ego4D's narration taxonomy, by EgoClip |

Sentences (`clips/sentences_{train,test}.arrow`): `sentence_id` int32, the row number; `text`; `verb`;
`nouns`. A clip's own sentence is the one with the same text.

Questions (`clips/egomcq.arrow`): `question_id`; `type` int32, 1 inter-video, 2 intra-video; `text`;
`answer` int32, the correct choice; `video_ids`, `starts_s`, `ends_s`, one entry for each of the
five choices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avion_core.data.tables import (
    Row,
    Rows,
    TableError,
    column_names,
    conform,
    map_table,
    table_of,
    with_nulls,
    write_table,
)

CLIPS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("texts", pa.list_(pa.string()), nullable=False),
        pa.field("narration_id", pa.string()),
        pa.field("verb", pa.int32()),
        pa.field("noun", pa.int32()),
        pa.field("nouns", pa.list_(pa.int32())),
        pa.field("label", pa.int32()),
        pa.field("labels", pa.list_(pa.int32())),
        pa.field("source", pa.string()),
        pa.field("scores", pa.list_(pa.float64())),
        pa.field("verb_tags", pa.list_(pa.int32())),
        pa.field("noun_tags", pa.list_(pa.int32())),
    ]
)
"""Columns of a clip table, in order; nullable ones may also be absent."""

SENTENCES = pa.schema(
    [
        pa.field("sentence_id", pa.int32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("verb", pa.int32(), nullable=False),
        pa.field("nouns", pa.list_(pa.int32()), nullable=False),
    ]
)
"""Columns of a sentence table."""

TAGS = {"verb": ("verb_tags", "verb"), "noun": ("noun_tags", "nouns")}
"""Columns that may hold a clip's verb and noun tags; the first that a table has counts."""

QUESTIONS = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("type", pa.int32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("answer", pa.int32(), nullable=False),
        pa.field("video_ids", pa.list_(pa.string()), nullable=False),
        pa.field("starts_s", pa.list_(pa.float64()), nullable=False),
        pa.field("ends_s", pa.list_(pa.float64()), nullable=False),
    ]
)
"""Columns of a multiple-choice table."""


@dataclass(frozen=True)
class BadClip:
    """A clip that could not be read, and why."""

    video_id: str
    row: int
    start_s: float
    end_s: float
    reason: str


class ClipTable:
    """Rows of one or more memory-mapped clip tables; a row is read on access."""

    def __init__(self, table: pa.Table, *, name: str = "clip table") -> None:
        """`table` has columns of CLIPS, in their types; error messages begin with `name`."""
        self._table, self._name = table, name
        self._columns = dict(zip(table.column_names, table.columns, strict=True))

    @classmethod
    def load(cls, *paths: str | Path) -> ClipTable:
        """Open tables and join their rows in the order given, without copying any.

        A column that only some files have is null in the rows of the others. Raises TableError for an
        unreadable file and for a missing or mistyped column.
        """
        if not paths:
            raise ValueError("ClipTable.load needs at least one file")
        tables = [map_table(path, CLIPS) for path in paths]
        found = {name for table in tables for name in table.column_names}
        schema = pa.schema([field for field in CLIPS if field.name in found])
        joined = pa.concat_tables([with_nulls(table, schema) for table in tables], promote_options="default")
        return cls(joined, name=" + ".join(map(str, paths)))

    @classmethod
    def from_rows(cls, rows: Iterable[Row]) -> ClipTable:
        """A table in memory, for example the choices of a question."""
        return cls(conform(table_of(rows, CLIPS), CLIPS, "clip table"))

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def has(self, column: str) -> bool:
        """Whether every row has a value in `column`."""
        return column in self._columns and self._columns[column].null_count == 0

    def video_id(self, row: int) -> str:
        """Source video of a row."""
        return str(self._columns["video_id"][row].as_py())

    def start_s(self, row: int) -> float:
        """Start of a row's clip in seconds."""
        return float(self._columns["start_s"][row].as_py())

    def end_s(self, row: int) -> float:
        """End of a row's clip in seconds."""
        return float(self._columns["end_s"][row].as_py())

    def bad(self, row: int, reason: str) -> BadClip:
        """Record of a row that could not be read, for this reason."""
        return BadClip(self.video_id(row), row, self.start_s(row), self.end_s(row), reason)

    def texts(self, row: int) -> list[str]:
        """Sentences of a row, the original first."""
        return list(self._columns["texts"][row].as_py())

    def first_without_text(self) -> int | None:
        """The first row without a sentence; None if all have one."""
        first = 0
        for texts in self._columns["texts"].chunks:
            place = pc.index(pc.list_value_length(texts), 0).as_py()
            if place >= 0:
                return int(first + place)
            first += len(texts)
        return None

    def nouns(self, row: int) -> list[int]:
        """Noun classes of a row, the first noun first."""
        return list(self._required("nouns")[row].as_py())

    def labels(self, row: int) -> list[int]:
        """All classes of a row."""
        return list(self._required("labels")[row].as_py())

    def is_narrated(self, row: int) -> bool:
        """Whether a narrator wrote the row's texts from its frames."""
        return "source" in self._columns and self._columns["source"][row].as_py() == "narrated"

    def tags(self, row: int, word: str) -> list[int]:
        """Tags of a row, classes of EgoClip or of EPIC-KITCHENS-100; `word` is `verb` or `noun`."""
        column = self._tag_column(word)
        value = None if column is None else column[row].as_py()
        return [value] if isinstance(value, int) else value or []

    def tag_classes(self, word: str) -> int:
        """Number of classes, so that all tags are below it; 0 if no row has any."""
        column = self._tag_column(word)
        if column is None:
            return 0
        largest = pc.max(pc.list_flatten(column) if pa.types.is_list(column.type) else column).as_py()
        return 0 if largest is None else int(largest) + 1

    def _tag_column(self, word: str) -> pa.ChunkedArray | None:
        return next((self._columns[name] for name in TAGS[word] if name in self._columns), None)

    def column(self, name: str) -> np.ndarray:
        """An integer column as int64[rows]. Raises TableError if a row has no value in it."""
        return np.asarray(self._required(name).to_numpy(), dtype=np.int64)

    def arrow(self) -> pa.Table:
        """The rows as an Arrow table."""
        return self._table

    def _required(self, name: str) -> pa.ChunkedArray:
        if not self.has(name):
            raise TableError(
                f"{self._name}: no column '{name}' in every row; it has {', '.join(self._table.column_names)}"
            )
        return self._columns[name]


@dataclass(frozen=True)
class Sentences:
    """The distinct sentences that multi-instance retrieval ranks, with their classes."""

    texts: list[str]
    """Sentence of each row."""
    verbs: np.ndarray
    """Verb class of each row, int64[sentences]."""
    nouns: list[list[int]]
    """Noun classes of each row."""

    @classmethod
    def load(cls, path: str | Path) -> Sentences:
        """Read a sentence table. Raises TableError for a missing or mistyped column."""
        table = map_table(path, SENTENCES)
        return cls(
            texts=table.column("text").to_pylist(),
            verbs=np.asarray(table.column("verb").to_numpy(), dtype=np.int64),
            nouns=table.column("nouns").to_pylist(),
        )


@dataclass(frozen=True)
class Question:
    """One sentence and five clips, one of which it describes (EgoMCQ)."""

    question_id: str
    type: int
    """1 inter-video, 2 intra-video."""
    text: str
    answer: int
    """Index of the correct choice."""
    video_ids: list[str]
    starts_s: list[float]
    ends_s: list[float]


def load_questions(path: str | Path) -> list[Question]:
    """Read a multiple-choice table. Raises TableError for a missing or mistyped column."""
    return [Question(**row) for row in map_table(path, QUESTIONS).to_pylist()]


def read_places(*paths: str | Path) -> pa.Table:
    """`video_id`, `start_s` and `end_s` of all clips of clip tables and of multiple-choice tables.

    Raises TableError as `map_table` does.
    """
    names = ["video_id", "start_s", "end_s"]
    found = []
    for path in paths:
        if "video_ids" in column_names(path):
            questions = map_table(path, QUESTIONS)
            lists = [questions[name] for name in ("video_ids", "starts_s", "ends_s")]
            columns = [pc.list_flatten(own) for own in lists]
        else:
            columns = [map_table(path, CLIPS)[name] for name in names]
        found.append(pa.table(columns, names))
    return pa.concat_tables(found)


def write_clips(path: str | Path, rows: Rows) -> None:
    """Publish a clip table; columns missing from its first batch are left out (see `write_table`)."""
    write_table(path, rows, CLIPS)


def write_sentences(path: str | Path, rows: Rows) -> None:
    """Publish a sentence table; `sentence_id` must be the row number."""
    write_table(path, rows, SENTENCES)


def write_questions(path: str | Path, rows: Rows) -> None:
    """Publish a multiple-choice table."""
    write_table(path, rows, QUESTIONS)
