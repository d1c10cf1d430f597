"""The tables between annotation and training: clips, sentences, multiple-choice questions; their schema.

Everything below `annotate` reads these Parquet files and nothing of a data set's own formats. Columns
that a layout does not have are absent; this module is the one place that says what a column means.

Clip table, one row a clip (`clips/<split>.parquet`, `narrations/<provider>/train.parquet`):

| column | type | meaning |
|---|---|---|
| `video_id` | string | source video, as in the chunk index |
| `start_s`, `end_s` | float64 | the clip within the video, seconds, 0 <= start_s < end_s <= duration |
| `texts` | list of string | sentences for the clip; the first is the original one; empty for labels only |
| `narration_id` | string | the annotation the clip was made of |
| `verb`, `noun` | int32 | class numbers of EPIC-KITCHENS-100; `noun` is the first noun |
| `nouns` | list of int32 | every noun class, the first noun first |
| `label` | int32 | class to predict: Kinetics' class, or the action class of EPIC-KITCHENS-100 |
| `source` | string | who wrote the row's texts: `human` or `rephrased` |

Sentences (`clips/sentences_{train,test}.parquet`): `sentence_id` int32, the row number; `text`; `verb`;
`nouns`. A clip's own sentence is the one with the same text.

Questions (`clips/egomcq.parquet`): `question_id`; `type` int32, 1 inter-video, 2 intra-video; `text`;
`answer` int32, the right one of the choices; `video_ids`, `starts_s`, `ends_s`, one entry for each of the
five choices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from avion_core.files import publish

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
        pa.field("source", pa.string()),
    ]
)
"""Columns of a clip table, in their order; those that may be null may also be absent."""

SENTENCES = pa.schema(
    [
        pa.field("sentence_id", pa.int32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("verb", pa.int32(), nullable=False),
        pa.field("nouns", pa.list_(pa.int32()), nullable=False),
    ]
)
"""Columns of a sentence table."""

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


class TableError(ValueError):
    """A table lacks a column or holds one of another type. The message names file and column."""


class ClipTable:
    """Rows of one or more clip tables, kept as Arrow arrays: millions of texts never become Python lists."""

    def __init__(self, table: pa.Table, *, name: str = "clip table") -> None:
        self._table = _conform(table, CLIPS, name)
        self._name = name
        self._start_s = self._table.column("start_s").to_numpy()
        self._end_s = self._table.column("end_s").to_numpy()

    @classmethod
    def load(cls, *paths: str | Path) -> ClipTable:
        """Read tables (memory-mapped, then decoded) and join their rows in the order given.

        A column that only some files have is null in the others' rows. Raises TableError for a
        missing or mistyped column.
        """
        if not paths:
            raise ValueError("ClipTable.load needs at least one file")
        tables = [_conform(pq.read_table(path, memory_map=True), CLIPS, str(path)) for path in paths]
        return cls(pa.concat_tables(tables, promote_options="default"), name=" + ".join(map(str, paths)))

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> ClipTable:
        """A table in memory, for example the choices of a question."""
        return cls(_as_table(rows, CLIPS))

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def has(self, column: str) -> bool:
        """Whether every row has a value in `column`."""
        present = column in self._table.column_names
        return bool(present and self._table.column(column).null_count == 0)

    def video_id(self, row: int) -> str:
        """Source video of a row."""
        return str(self._table.column("video_id")[row].as_py())

    def start_s(self, row: int) -> float:
        """Start of a row's clip in seconds."""
        return float(self._start_s[row])

    def end_s(self, row: int) -> float:
        """End of a row's clip in seconds."""
        return float(self._end_s[row])

    def texts(self, row: int) -> list[str]:
        """Sentences of a row, the original first."""
        return list(self._table.column("texts")[row].as_py())

    def text_counts(self) -> np.ndarray:
        """Number of sentences of every row, int64[rows]."""
        return np.asarray(pc.list_value_length(self._table.column("texts")).to_numpy(), dtype=np.int64)

    def nouns(self, row: int) -> list[int]:
        """Noun classes of a row, the first noun first."""
        return list(self._required("nouns")[row].as_py())

    def column(self, name: str) -> np.ndarray:
        """An integer column as int64[rows]. Raises TableError if a row has no value in it."""
        return np.asarray(self._required(name).to_numpy(), dtype=np.int64)

    def arrow(self) -> pa.Table:
        """The rows as they are kept."""
        return self._table

    def _required(self, name: str) -> pa.ChunkedArray:
        if not self.has(name):
            raise TableError(
                f"{self._name}: no column '{name}' in every row; it has {', '.join(self._table.column_names)}"
            )
        return self._table.column(name)


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
        table = _conform(pq.read_table(path, memory_map=True), SENTENCES, str(path))
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
    """Index of the right choice."""
    video_ids: list[str]
    starts_s: list[float]
    ends_s: list[float]


def load_questions(path: str | Path) -> list[Question]:
    """Read a multiple-choice table. Raises TableError for a missing or mistyped column."""
    table = _conform(pq.read_table(path, memory_map=True), QUESTIONS, str(path))
    return [Question(**row) for row in table.to_pylist()]


def write_clips(path: str | Path, rows: pa.Table | Iterable[Mapping[str, Any]]) -> None:
    """Publish a clip table. Columns that no row has are left out; an unknown one is a TableError."""
    _write(path, rows, CLIPS)


def write_sentences(path: str | Path, rows: pa.Table | Iterable[Mapping[str, Any]]) -> None:
    """Publish a sentence table; `sentence_id` must be the row number."""
    _write(path, rows, SENTENCES)


def write_questions(path: str | Path, rows: pa.Table | Iterable[Mapping[str, Any]]) -> None:
    """Publish a multiple-choice table."""
    _write(path, rows, QUESTIONS)


def _write(path: str | Path, rows: pa.Table | Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    table = _conform(rows if isinstance(rows, pa.Table) else _as_table(rows, schema), schema, str(path))
    with publish(path) as draft:
        pq.write_table(table, draft, compression="zstd")


def _as_table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table with the columns that occur in them; required ones are there even without rows."""
    listed = list(rows)
    unknown = {name for row in listed for name in row} - set(schema.names)
    if unknown:
        raise TableError(f"unknown columns {sorted(unknown)}; known: {', '.join(schema.names)}")
    used = [field for field in schema if not field.nullable or any(field.name in row for row in listed)]
    try:
        arrays = [pa.array([row.get(field.name) for row in listed], type=field.type) for field in used]
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise TableError(f"a value does not fit its column: {error}") from None
    return pa.table(arrays, schema=pa.schema(used))


def _conform(table: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    """The known columns of `table`, in the schema's order and types."""
    missing = [field.name for field in schema if not field.nullable and field.name not in table.column_names]
    if missing:
        raise TableError(f"{name}: missing column '{missing[0]}'; it has {', '.join(table.column_names)}")
    unknown = [column for column in table.column_names if column not in schema.names]
    if unknown:
        raise TableError(f"{name}: unknown column '{unknown[0]}'; known: {', '.join(schema.names)}")
    used = pa.schema([field for field in schema if field.name in table.column_names])
    for field in used:
        if not field.nullable and table.column(field.name).null_count:
            raise TableError(f"{name}: column '{field.name}' has rows without a value")
    try:
        return table.select(used.names).cast(used)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise TableError(f"{name}: a column has the wrong type: {error}") from None
