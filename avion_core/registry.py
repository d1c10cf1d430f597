"""Registries of records by name, for everything that grows (layouts, tasks, towers, providers …)."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

Record = TypeVar("Record")

LIBRARY = Path(__file__).parent
"""This package, to which a record's `code` is relative."""


class Registry(Generic[Record]):
    """Records by name, in order of registration.

    A record is an instance of `record` or a subclass of `base`. It has the attributes `needs` and `refers`;
    the latter hold references to code, `package.module:Name`.
    """

    def __init__(
        self,
        what: str,
        *,
        record: type | None = None,
        base: type | None = None,
        needs: tuple[str, ...] = (),
        refers: tuple[str, ...] = (),
    ) -> None:
        self.what = what
        self.base = base
        self.refers = refers
        self.reserved: frozenset[str] = frozenset()
        """Names that no record may have: those of settings beside its section."""
        self._record = record
        self._needs = needs
        self._records: dict[str, Record] = {}

    def register(self, name: str, record: Record) -> Record:
        """Add a record and return it. Raises ValueError for an unusable name or record."""
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise ValueError(
                f"{name!r} cannot be the name of a {self.what}; write letters, digits, '_' and '-', the "
                "first a letter or digit"
            )
        if name in self._records:
            raise ValueError(f"a {self.what} '{name}' is registered already; choose another name")
        if name in self.reserved:
            raise ValueError(f"a {self.what} cannot be called '{name}'; choose another name")
        self._check(record, f"the {self.what} '{name}'")
        self._records[name] = record
        registered.append((self, name))
        return record

    def _check(self, record: Any, where: str) -> None:
        if expected := misfit(record, record=self._record, base=self.base):
            raise ValueError(f"{where} is {record!r}; register {expected}")
        owner = record if isinstance(record, type) else type(record)
        for attribute in (*self._needs, *self.refers):
            value = getattr(record, attribute, None)
            if not value:
                raise ValueError(f"{where}: {owner.__name__} has no `{attribute}`; set it")
            if attribute in self.refers and not re.fullmatch(r"[\w.]+:\w+", str(value)):
                raise ValueError(f"{where}: `{attribute}` is {value!r}; write 'package.module:Name'")

    def __getitem__(self, name: str) -> Record:
        """The record of this name; raises ValueError with the nearest known name."""
        if name not in self:
            raise ValueError(f"unknown {self.what} '{name}'{nearest(str(name), self._records)}")
        return self._records[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._records

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


registered: list[tuple[Registry[Any], str]] = []
"""Records of all registries, in order of registration."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """End of a message about an unknown name: the nearest known name, or all."""
    choices = list(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(choices)}" if choices else ""


def misfit(found: object, *, record: type | None, base: type | None) -> str:
    """What is expected instead: an instance of `record` or a subclass of `base`; empty if this is one."""
    if record and not isinstance(found, record):
        return f"{record.__name__}(…)"
    if base and not (isinstance(found, type) and issubclass(found, base)):
        return f"a subclass of {base.__name__}"
    return ""


def source_file(reference: str) -> Path:
    """The file of the module of `package.module:Name`, which is not imported."""
    module = importlib.util.find_spec(reference.partition(":")[0])
    assert module is not None and module.origin is not None, f"{reference}: a plug-in has imported it"
    return Path(module.origin)


def code_files(names: Iterable[str]) -> list[Path]:
    """Files that a record lists as its `code`. Raises ValueError for one that does not exist."""
    if isinstance(names, str):
        raise ValueError(f"`code` is a tuple of files; write ({names!r},)")
    for name in names:
        if not (LIBRARY / name).is_file():
            raise ValueError(f"`code` names {name}: no such file in {LIBRARY}")
    return [LIBRARY / name for name in names]


def load(reference: str, *, record: type | None = None, base: type | None = None) -> Any:
    """Import the module of `package.module:Name` and return the object.

    Raises ValueError if the module cannot be imported, and unless the object is an instance of `record`, a
    subclass of `base`, or without these callable.
    """
    module, _, name = reference.partition(":")
    try:
        imported = importlib.import_module(module)
    except Exception as error:
        raise ValueError(
            f"{reference}: the module cannot be imported ({type(error).__name__}: {error}); correct it, or "
            "install what it imports"
        ) from error
    if not hasattr(imported, name):
        raise ValueError(f"{reference}: the module has no '{name}'; correct the reference")
    found = getattr(imported, name)
    expected = misfit(found, record=record, base=base)
    if record is None and base is None and not callable(found):
        expected = "a function or class"
    if expected:
        raise ValueError(f"{reference} is {found!r}; {expected} is expected")
    return found
