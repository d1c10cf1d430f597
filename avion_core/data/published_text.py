"""LaViLa's published texts: pickles of Ego4D's clips with human, rephrased and narrated sentences.

| form | file | a row |
|---|---|---|
| `human` | `ego4d_train.pkl` | `(video, start_s, end_s, narration)` |
| `rephrased` | the rephraser's | `(video, start_s, end_s, [text, …])`, the first text the original |
| `narrated` | the narrator's | `(video, start_s, end_s, [text, …], [score, …])`; a lower score is surer |

Rows are read in batches, as record batches of a clip table's columns, and written back to pickles of the same
content. The forms are those that LaViLa documents; the published files themselves were not at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from avion_core.data.annotation import one_text_each
from avion_core.data.clips import CLIPS
from avion_core.data.plain_pickle import read_list, write_list
from avion_core.data.source_videos import SourceError
from avion_core.data.tables import BATCH_ROWS
from avion_core.files import publish

EGO4D_TRAIN = "ego4d_train.pkl"
FORMS = {
    "human": ("video_id", "start_s", "end_s", "texts"),
    "rephrased": ("video_id", "start_s", "end_s", "texts"),
    "narrated": ("video_id", "start_s", "end_s", "texts", "scores"),
}
"""Columns of a row by form, which is also the column `source` of a clip table."""
EXPECTED = {
    "human": "(video, start_s, end_s, text)",
    "rephrased": "(video, start_s, end_s, [text, …])",
    "narrated": "(video, start_s, end_s, [text, …], [score, …])",
}


def read_rows(path: Path, form: str) -> Iterator[pa.RecordBatch]:
    """The rows of a pickle in batches: FORMS' columns in the types of a clip table.

    Times may be NaN or lie outside the video. Raises SourceError for a file that is refused or damaged, and
    for the first row of another form.
    """
    first = 0
    for rows in read_list(path):
        try:
            yield _batch(rows, form)
        except (ValueError, TypeError, pa.ArrowException):
            _name_the_bad_row(path, rows, form, first)
            raise
        first += len(rows)


def check_rows(path: Path, form: str) -> None:
    """Raise SourceError unless every opcode of a pickle is admitted and its first rows have this form."""
    next(read_rows(path, form), None)


def _batch(rows: Sequence[Any], form: str) -> pa.RecordBatch:
    names = FORMS[form]
    _expect_types(rows, {tuple, list})
    if {*map(len, rows)} - {len(names)}:
        raise ValueError("rows of another length")
    values = dict(zip(names, zip(*rows, strict=True), strict=True))
    arrays = {}
    for name, column in values.items():
        if pa.types.is_list(CLIPS.field(name).type) and form != "human":
            _expect_types(column, {list, tuple})
        listed = name == "texts" and form == "human"
        arrays[name] = one_text_each(column) if listed else pa.array(column, CLIPS.field(name).type)
    if form == "narrated":
        lengths = (pc.list_value_length(arrays[name]) for name in ("texts", "scores"))
        if not pc.all(pc.equal(*lengths)).as_py():
            raise ValueError("texts and scores differ in number")
    return pa.record_batch([arrays[name] for name in names], names=list(names))


def _expect_types(values: Sequence[Any], types: set[type]) -> None:
    """Arrow takes a text for a list of characters."""
    if {*map(type, values)} - types:
        raise TypeError("values of another type")


def _name_the_bad_row(path: Path, rows: Sequence[Any], form: str, first: int) -> None:
    for place, row in enumerate(rows, start=first):
        try:
            _batch([row], form)
        except (ValueError, TypeError, pa.ArrowException):
            shown = repr(row)
            shown = shown if len(shown) <= 200 else f"{shown[:200]}…"
            raise SourceError(
                f"{path}: row {place}: {shown} is not {EXPECTED[form]}, the form of LaViLa's {form} texts; "
                "name the file of this form"
            ) from None


def write_pickle(path: Path, clips: pa.Table, form: str) -> None:
    """Publish the rows of a clip table as a pickle of a form, in their order.

    `human` writes a clip's first text only. Raises SourceError if a column is missing or a row has no text.
    """
    missing = [name for name in FORMS[form] if name not in clips.column_names]
    if missing:
        raise SourceError(
            f"the clip table has no column '{missing[0]}', so that it cannot be written as {form}"
        )
    if pc.any(pc.equal(pc.list_value_length(clips["texts"]), 0)).as_py():
        raise SourceError(f"a clip of the table has no text, so that it cannot be written as {form}")
    with publish(path) as draft, draft.open("wb") as stream:
        write_list(stream, _rows(clips.select(list(FORMS[form])), form))


def _rows(clips: pa.Table, form: str) -> Iterable[list[tuple[Any, ...]]]:
    for batch in clips.to_batches(max_chunksize=BATCH_ROWS):
        columns = [column.to_pylist() for column in batch.columns]
        if form == "human":
            columns[3] = [texts[0] for texts in columns[3]]
        yield list(zip(*columns, strict=True))
