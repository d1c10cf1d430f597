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
        """Names that no record may have, as settings beside its section have them."""
        self._record = record
        self._needs = needs
        self._records: dict[str, Record] = {}

    def register(self, name: str, record: Record) -> Record:
        """Add a record and return it. Raises ValueError for an unusable name or record."""
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise ValueError(
                f"{name!r} cannot be the name of a {self.what}; write a name of letters, digits, '_' and '-'"
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
        if self._record and not isinstance(record, self._record):
            raise ValueError(f"{where} is {record!r}; register {self._record.__name__}(…)")
        if self.base and not is_subclass(record, self.base):
            raise ValueError(f"{where} is {record!r}; register a subclass of {self.base.__name__}")
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


def is_subclass(found: object, base: type) -> bool:
    """Whether this is a class, and a subclass of `base`."""
    return isinstance(found, type) and issubclass(found, base)


def source_file(reference: str) -> Path:
    """The file of the module of `package.module:Name`, which is not imported."""
    module = importlib.util.find_spec(reference.partition(":")[0])
    assert module is not None and module.origin is not None, f"{reference}: a plug-in has imported it"
    return Path(module.origin)


def load(reference: str, *, record: type | None = None, base: type | None = None) -> Any:
    """Import the module of `package.module:Name` and return the object.

    Raises ValueError unless it is an instance of `record`, a subclass of `base`, or without these callable.
    """
    module, _, name = reference.partition(":")
    imported = importlib.import_module(module)
    if not hasattr(imported, name):
        raise ValueError(f"{reference}: the module has no '{name}'; correct the reference")
    found = getattr(imported, name)
    if record:
        fits, expected = isinstance(found, record), f"{record.__name__}(…)"
    elif base:
        fits, expected = is_subclass(found, base), f"a subclass of {base.__name__}"
    else:
        fits, expected = callable(found), "a function or class"
    if not fits:
        raise ValueError(f"{reference} is {found!r}; {expected} is expected")
    return found
