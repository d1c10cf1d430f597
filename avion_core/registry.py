"""Registries of records by name, for everything that grows (layouts, tasks, towers, providers …)."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

Record = TypeVar("Record")

PLUGINS_VARIABLE = "AVION_PLUGINS"
"""Plug-in modules, separated by commas; the workflow sets it for its jobs."""


class Registry(Generic[Record]):
    """Records of one class by name, in order of registration."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._records: dict[str, Record] = {}

    def register(self, name: str, record: Record) -> Record:
        """Add a record and return it; raises ValueError for a name that is taken."""
        if name in self._records:
            raise ValueError(f"a {self._what} '{name}' is registered already; choose another name")
        self._records[name] = record
        return record

    def __getitem__(self, name: str) -> Record:
        """The record of this name; raises ValueError with the nearest known name."""
        if name not in self._records:
            raise ValueError(f"unknown {self._what} '{name}'{nearest(name, self._records)}")
        return self._records[name]

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def values(self) -> Iterable[Record]:
        """Records."""
        return self._records.values()

    def items(self) -> Iterable[tuple[str, Record]]:
        """Names and records."""
        return self._records.items()


def nearest(name: str, choices: Iterable[str]) -> str:
    """End of a message about an unknown name: the nearest known name, or all."""
    choices = list(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(choices)}" if choices else ""


def plugin_names(modules: Iterable[str] = ()) -> list[str]:
    """These modules and those of PLUGINS_VARIABLE."""
    return list(dict.fromkeys([*modules, *filter(None, os.environ.get(PLUGINS_VARIABLE, "").split(","))]))


def load_plugins(modules: Iterable[str] = ()) -> None:
    """Import these modules and those of PLUGINS_VARIABLE, which register their records.

    They may be in the working directory. Raises ValueError for one that cannot be imported.
    """
    for module in plugin_names(modules):
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(f"the module '{module}' cannot be imported ({error})") from None


def source_file(reference: str) -> Path:
    """The file of the module of `package.module:Name`, which is not imported."""
    module = importlib.util.find_spec(reference.partition(":")[0])
    assert module is not None and module.origin is not None, f"{reference}: a plug-in has imported it"
    return Path(module.origin)


def load(reference: str) -> Any:
    """Import the module of `package.module:Name` and return the object."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
