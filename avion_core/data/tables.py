"""Tables as Arrow files: written batch by batch, memory-mapped, checked against a schema.

A mapped table needs no memory of its own: the kernel reads pages on access, and processes that read the same
file share them.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from avion_core.files import publish
from avion_core.layouts import SUFFIX as SUFFIX

BATCH_ROWS = 65536
"""Largest number of rows in a record batch; a writer holds one batch in memory."""

Row = Mapping[str, Any]
Rows: TypeAlias = pa.Table | Iterable[Row] | Iterable[pa.Table] | Iterable[pa.RecordBatch]
"""Input for a table; an iterable is written as it comes and may be larger than memory."""


class TableError(ValueError):
    """A table cannot be read, lacks a column or has one of another type. Names file and column."""


def write_table(path: str | Path, rows: Rows, schema: pa.Schema) -> None:
    """Publish the rows in the schema's types.

    The first batch decides which nullable columns the file has; later batches that lack one get nulls.
    Raises TableError, and publishes nothing, for an unknown or missing column, a column missing from the
    first batch, and values that do not fit.
    """
    batches = _batches(rows, schema)
    first = conform(next(batches, table_of([], schema)), schema, str(path))
    with publish(path) as draft, pa.ipc.new_file(str(draft), first.schema) as writer:
        for batch in chain([first], batches):
            known = conform(batch, schema, str(path))
            late = [name for name in known.column_names if name not in first.column_names]
            if late:
                raise TableError(f"{path}: column '{late[0]}' is not in the first batch of rows")
            writer.write_table(with_nulls(known, first.schema), max_chunksize=BATCH_ROWS)


def map_table(path: str | Path, schema: pa.Schema) -> pa.Table:
    """Map the table of a file, without reading it.

    Raises TableError, with a way out, if it is missing, is not a whole Arrow file, or lacks the schema's
    columns.
    """
    table = _map(path)
    try:
        _check_names(table, schema, str(path))
        for field in table.schema:
            expected = schema.field(field.name).type
            if field.type != expected:
                raise TableError(f"{path}: column '{field.name}' is {field.type} and not {expected}")
    except TableError as error:
        raise TableError(f"{error}; {_WAY_OUT}") from None
    return table.select([name for name in schema.names if name in table.column_names])


def column_names(path: str | Path) -> list[str]:
    """Columns of a table file. Raises TableError when it cannot be read."""
    return list(_map(path).column_names)


def row_count(path: str | Path) -> int:
    """Rows of a table file. Raises TableError when it cannot be read."""
    return int(_map(path).num_rows)


_MAKE_IT = "run the stage that makes it (annotate, for narrations narrate)"
_WAY_OUT = f"delete it and {_MAKE_IT}"


def _map(path: str | Path) -> pa.Table:
    if not Path(path).exists():
        raise TableError(f"{path}: no such table; {_MAKE_IT}")
    with Path(path).open("rb") as file:
        try:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            # Opening touches the metadata of every batch, all over the file, so that the kernel's read-ahead
            # would read everything; pyarrow.memory_map even requests that.
            pages.madvise(mmap.MADV_RANDOM)
            table = pa.ipc.open_file(pa.py_buffer(pages)).read_all()
            pages.madvise(mmap.MADV_NORMAL)
        except (ValueError, OSError, NotImplementedError) as error:
            raise TableError(f"{path}: not a whole Arrow file ({error}); {_WAY_OUT}") from None
    return table


def _batches(rows: Rows, schema: pa.Schema) -> Iterator[pa.Table]:
    if isinstance(rows, pa.Table):
        yield rows
        return
    pending: list[Row] = []
    for row in rows:
        if isinstance(row, Mapping):
            pending.append(row)
            if len(pending) == BATCH_ROWS:
                yield table_of(pending, schema)
                pending = []
        else:
            yield row if isinstance(row, pa.Table) else pa.Table.from_batches([row])
    if pending:
        yield table_of(pending, schema)


def table_of(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """Rows as a table with the columns that occur in them and the required ones."""
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


def conform(table: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    """The columns of `table` in the schema's order and types. Raises TableError, beginning with `name`."""
    _check_names(table, schema, name)
    used = pa.schema([field for field in schema if field.name in table.column_names])
    try:
        return table.select(used.names).cast(used)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise TableError(f"{name}: a column has the wrong type: {error}") from None


def _check_names(table: pa.Table, schema: pa.Schema, name: str) -> None:
    """Check that all columns are known, and required ones present with a value in every row."""
    missing = [field.name for field in schema if not field.nullable and field.name not in table.column_names]
    if missing:
        raise TableError(f"{name}: missing column '{missing[0]}'; it has {', '.join(table.column_names)}")
    unknown = [column for column in table.column_names if column not in schema.names]
    if unknown:
        raise TableError(f"{name}: unknown column '{unknown[0]}'; known: {', '.join(schema.names)}")
    for field in schema:
        if not field.nullable and table.column(field.name).null_count:
            raise TableError(f"{name}: column '{field.name}' has rows without a value")


def with_nulls(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with all columns of the schema; missing ones are null, from one short array repeated."""
    for field in schema:
        if field.name not in table.column_names:
            block = pa.nulls(min(len(table), BATCH_ROWS), field.type)
            whole, rest = divmod(len(table), BATCH_ROWS)
            table = table.append_column(field, pa.chunked_array([*[block] * whole, block[:rest]], field.type))
    return table.select(schema.names)  # pa.table would touch the end of every batch
