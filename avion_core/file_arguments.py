"""Files on a command line: `--files chunks=data/chunks.parquet clips=…`, written by the rules."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

VALIDATION = "validation_"
"""Prefix of the validation's files."""


ENSEMBLE = "ensemble_"
"""Prefix, before a number from 1, of the outputs of evaluations that are averaged with another."""


def file_words(files: Mapping[str, str]) -> str:
    """`name=path` of every file, quoted for a shell."""
    return shlex.join(f"{name}={path}" for name, path in files.items())


def named_files(items: Iterable[tuple[str, object]], leave_out: Sequence[str] = ()) -> dict[str, str]:
    """A rule's inputs by name, without absent and left-out ones; several of one name as `name`, `name_2` …"""
    return {
        numbered(name, place): str(path)
        for name, paths in items
        if name not in leave_out and paths
        for place, path in enumerate([paths] if isinstance(paths, str) else cast(Iterable[object], paths))
    }


def numbered(name: str, place: int) -> str:
    """The name of the file at this place, from 0, among several of one name."""
    return f"{name}_{place + 1}" if place else name


def parse_files(words: Sequence[str], *, required: Sequence[str]) -> dict[str, Path]:
    """Files by name. Raises ValueError for a word without `=`, and a name given twice or missing."""
    files: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise ValueError(f"--files {word}: write name=path")
        if name in files:
            raise ValueError(f"--files: '{name}' is given twice")
        files[name] = Path(path)
    for name in required:
        if name not in files:
            raise ValueError(f"--files: '{name}' is missing; add {name}=path")
    return files


def add_files(parser: argparse.ArgumentParser, text: str) -> None:
    """The option `--files`, whose words `parse_files` reads."""
    parser.add_argument("--files", nargs="+", default=[], metavar="NAME=PATH", help=text)
