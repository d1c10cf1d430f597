"""Read annotation files; every error is a SourceError with the file, the place and a way out.

Text is UTF-8, with or without a byte-order mark, or UTF-16 with one. CSV files may be as spreadsheets write
them: any usual separator, a `sep=` line, empty columns and rows at the end. A row is one line, so that an
unclosed quotation mark cannot swallow the rows after it.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avion_core.data.source_videos import SourceError
from avion_core.plain_text import plain

SEPARATORS = (",", ";", "\t", "|")
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""First bytes of Excel files."""


def read_text(path: Path) -> str:
    """Content of a text file, without its byte-order mark. Raises SourceError with the bad line."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file; add it or correct the path") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from None
    if data.startswith(WORKBOOKS):
        raise SourceError(f"{path}: an Excel workbook; save it as 'CSV UTF-8'")
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        name = "UTF-16" if utf16 else "UTF-8"
        raise SourceError(
            f"{path}: line {line}: not {name} text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise SourceError(f"{path}: line {line}: a zero byte, so not UTF-8 text; save it as UTF-8")
    return text


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Lines of a text file that are not empty, stripped, with their numbers. Raises SourceError."""
    lines = enumerate(map(str.strip, read_text(path).splitlines()), start=1)
    return [(number, line) for number, line in lines if line]


def read_json(path: Path) -> Any:
    """Value of a JSON file. Raises SourceError with line and column."""
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_without_repeated)
    except json.JSONDecodeError as error:
        raise SourceError(
            f"{path}: line {error.lineno}, column {error.colno}: not valid JSON ({error.msg}); "
            f"correct it, or fetch the file again if it was cut short"
        ) from None
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: cannot be read as JSON ({error}); fetch the file again") from None


def _without_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError for a repeated name, of which Python would keep the last value."""
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in value if names.count(name) > 1)
        raise ValueError(f"'{repeated}' is there more than once in one object")
    return value


def expect_object(value: Any, where: str) -> dict[str, Any]:
    """`value` if it is a JSON object; else SourceError, beginning with `where`."""
    if not isinstance(value, dict):
        raise SourceError(f"{where}: {json_type(value)} where an object is expected")
    return value


def expect_list(value: Any, where: str) -> list[Any]:
    """`value` if it is a JSON list; else SourceError, beginning with `where`."""
    if not isinstance(value, list):
        raise SourceError(f"{where}: {json_type(value)} where a list is expected")
    return value


def json_type(value: Any) -> str:
    """Type of a JSON value, for a message."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return json.dumps(value)[:40]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a CSV file, its values stripped."""

    path: Path
    line: int
    values: Mapping[str, str]
    separator: str

    def error(self, column: str, problem: str) -> SourceError:
        """The error to raise for a value of this row."""
        return SourceError(f"{self.path}: line {self.line}: column '{column}': {plain(problem)}")


def ascii_number(value: str) -> float:
    """A number in a file. Raises ValueError, also for forms that only Python accepts, such as 1_5."""
    if "_" in value or not value.isascii():
        raise ValueError(value)
    return float(value)


def read_rows(path: Path, *, columns: Sequence[str]) -> list[Row]:
    """Rows of a CSV file that must have `columns`; skips empty rows.

    Raises SourceError with the line for a missing or repeated column, a row that is too short or too long,
    and quotation marks that do not pair up.
    """
    lines = re.split(r"\r\n|\n|\r", read_text(path))
    declared = re.fullmatch(r"(?i)\"?sep=(.)\"?", lines[0])
    top = 1 if declared and len(lines) > 1 else 0
    separator = declared[1] if declared else _separator(lines[0], columns)
    header = [name.strip() for name in _split(path, top + 1, lines[top], separator)]
    where = f"{path}: line {top + 1}"
    for name in columns:
        if name not in header:
            raise SourceError(
                f"{where}: column '{name}' is missing; the columns are {', '.join(header) or 'none'}, "
                f"needed are {', '.join(columns)}"
            )
    repeated = next((name for name in header if name and header.count(name) > 1), None)
    if repeated is not None:
        raise SourceError(f"{where}: column '{repeated}' is there more than once; rename or remove one")
    rows = []
    for number, line in enumerate(lines[top + 1 :], start=top + 2):
        values = [value.strip() for value in _split(path, number, line, separator)]
        if any(values):
            rows.append(Row(path, number, _named(path, number, values, header, columns), separator))
    return rows


def _separator(header: str, columns: Sequence[str]) -> str:
    """The separator that finds most of the columns in the header."""
    return max(SEPARATORS, key=lambda one: sum(name.strip(' "') in columns for name in header.split(one)))


def _split(path: Path, number: int, line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error as error:
        if len(line) > csv.field_size_limit() and "field limit" in str(error):
            raise SourceError(
                f"{path}: line {number}: a value has more than {csv.field_size_limit():,} characters; "
                "shorten it, or close its quotation mark"
            ) from None
        raise SourceError(
            f"{path}: line {number}: a quotation mark is not closed on its line, or text follows the closing "
            f'one ({error}); close it, or write "" for one inside quotes; a value cannot span lines'
        ) from None


def _named(
    path: Path, number: int, values: Sequence[str], header: Sequence[str], columns: Sequence[str]
) -> dict[str, str]:
    """A row's values by column; optional ones missing at the end are empty."""
    if any(values[len(header) :]) or any(
        value and not name for name, value in zip(header, values, strict=False)
    ):
        raise SourceError(
            f'{path}: line {number}: more values than columns; put a text with the separator into "quotes"'
        )
    lacking = [name for name in header[len(values) :] if name in columns]
    if lacking:
        raise SourceError(
            f"{path}: line {number}: the row ends before column '{lacking[0]}' "
            f"({len(values)} values, {len(header)} columns); complete or remove it"
        )
    return dict.fromkeys(header, "") | dict(zip(header, values, strict=False))
