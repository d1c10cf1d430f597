"""Parquet tables that name files, such as the chunk index, and move together with their folder.

On disk, the column `path` is relative to the table's folder for files inside it, and absolute for others.
In memory, paths are absolute.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from avion_core.files import publish

_RELATIVE = {b"paths": b"relative to the folder of this file"}
"""Marks a table whose relative paths start at its folder. Earlier versions wrote paths relative to the
working directory, without a mark."""


def write_file_table(path: str | Path, table: pa.Table) -> None:
    """Publish a table whose `path` column holds absolute paths or paths from the working directory."""
    home = Path(path).absolute().parent
    names = pa.array([portable(name, home) for name in table["path"].to_pylist()], pa.string())
    table = table.set_column(table.column_names.index("path"), "path", names)
    with publish(path) as draft:
        pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **_RELATIVE}), draft)


def read_file_table(path: str | Path, **options: Any) -> pa.Table:
    """Read a table with absolute paths; `options` are pyarrow's. FileNotFoundError, pa.ArrowInvalid."""
    table = pq.read_table(path, **options)
    if "path" not in table.column_names:
        return table
    names = table["path"]
    home = _home(Path(path), names) if is_relocatable(table) else Path.cwd()
    beside = pc.binary_join_element_wise(str(home), names, "/")
    paths = pc.if_else(pc.starts_with(names, "/"), names, beside)
    return table.set_column(table.column_names.index("path"), "path", paths)


def is_relocatable(table: pa.Table) -> bool:
    """Whether the table was written with paths relative to its folder."""
    return (table.schema.metadata or {}).items() >= _RELATIVE.items()


def portable(file: str | Path, home: Path) -> str:
    """A file's path as written in a table of the folder `home`, an absolute path."""
    absolute = os.path.join(Path.cwd(), file)  # noqa: PTH118 (a Path is slower)
    if absolute.startswith(f"{home}/"):
        return absolute.removeprefix(f"{home}/")
    real, real_home = Path(file).resolve(), home.resolve()
    return str(real.relative_to(real_home)) if real.is_relative_to(real_home) else absolute


def _home(path: Path, names: pa.ChunkedArray) -> Path:
    """The table's folder; for a symlinked table, the folder of its target."""
    home = path.absolute().parent
    linked = path.is_symlink() and len(names) and not (home / names[0].as_py()).exists()
    return path.resolve().parent if linked else home
