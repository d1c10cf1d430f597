"""The journal of a language model's answers: what was paid for is never lost and never asked again.

One folder a data set, one file a shard, one JSON line an answered request, synced to disk before the
next step. After a kill the last line may be torn; it is dropped, and only its request is repeated. All
files of the folder are read, so a new number of shards asks nothing twice. The lines are kept for ever:
they are also the bill.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Container, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType


class JournalError(ValueError):
    """A journal is damaged or in use. The message names the file and the way out."""


@dataclass(frozen=True)
class Entry:
    """One answered request."""

    keys: list[str]
    """`prompts.answer_key` of each narration the request held, in its order."""
    texts: list[str]
    """The narrations."""
    reply: str
    """The model's words as they came; parsed when read."""
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    measured: bool
    """Whether the tokens are the server's count; else they are estimated from the lengths."""
    usd: float
    """Price of the request at the time."""
    seconds: float
    """From the first try to the answer."""
    finish: str
    """Why the model stopped: `stop`, or `length` at the token limit."""


@dataclass(frozen=True)
class Bill:
    """What a folder's requests have used."""

    requests: int
    input_tokens: int
    output_tokens: int
    usd: float


class Journal:
    """Appends to one file and holds what all files of the folder say. A context manager."""

    def __init__(self, folder: Path, name: str, *, wanted: Container[str] | None = None) -> None:
        """Open `folder/name.jsonl` for appending; JournalError if another process has it open.

        With `wanted`, only the answers to these keys are held in memory; all are counted.
        """
        self._wanted = wanted
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.jsonl"
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock()
        self._drop_torn_line()
        self._of_key: dict[str, list[Entry]] = {}
        self.usd_by_file: dict[str, float] = {}
        """Spent according to each file of the folder, by name without suffix, when it was opened."""
        for path in sorted(folder.glob("*.jsonl")):
            self.usd_by_file[path.stem] = sum(self._remember(read_entries(path)))
        self.usd_here = self.usd_by_file[name]
        """Spent according to this file."""

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def answers(self, key: str) -> list[Entry]:
        """Every answer there is to a key, oldest first."""
        return self._of_key.get(key, [])

    def append(self, entry: Entry) -> None:
        """Add an entry; on return it is on disk."""
        line = json.dumps(asdict(entry), ensure_ascii=False) + "\n"
        _write_all(self._descriptor, line.encode())
        os.fsync(self._descriptor)
        self.usd_here += sum(self._remember([entry]))

    def _remember(self, entries: Iterable[Entry]) -> Iterator[float]:
        for entry in entries:
            for key in entry.keys:
                if self._wanted is None or key in self._wanted:
                    self._of_key.setdefault(key, []).append(entry)
            yield entry.usd

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise JournalError(
                f"{self.path}: another process is answering this shard; wait for it or stop it first"
            ) from None
        except OSError:
            # Some network file systems have no locks. Snakemake runs one job a shard, so go on without.
            return

    def _drop_torn_line(self) -> None:
        content = self.path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.ftruncate(self._descriptor, content.rfind(b"\n") + 1)
            os.fsync(self._descriptor)


def bill(folder: Path) -> Bill:
    """Sum over every request that a folder's journals have, whatever it was asked with."""
    entries = [entry for path in sorted(folder.glob("*.jsonl")) for entry in read_entries(path)]
    return Bill(
        len(entries),
        sum(entry.input_tokens for entry in entries),
        sum(entry.output_tokens for entry in entries),
        sum(entry.usd for entry in entries),
    )


def entries_by_key(folder: Path) -> dict[str, list[Entry]]:
    """Every answer of a folder's journals, by key; {} if there is no folder."""
    found: dict[str, list[Entry]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for entry in read_entries(path):
            for key in entry.keys:
                found.setdefault(key, []).append(entry)
    return found


def read_entries(path: Path) -> Iterator[Entry]:
    """Entries of one file in their order. A last line without its end is left out: it is being written
    or was torn by a kill. JournalError names a damaged line."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield Entry(**json.loads(line))
            except (ValueError, TypeError):
                raise JournalError(
                    f"{path}, line {number}: not a journal entry; delete the line to have it asked again"
                ) from None


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
