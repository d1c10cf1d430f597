"""The journal of a language model's answers: no paid answer is lost or requested twice.

One folder per data set, one file per shard, one JSON object per line (ended by "\\n" alone):

    {"try": 7, "usd": 0.0002, "model": "m", …}       a request is about to be sent; its highest price, the day
    {"answers": 7, "keys": […], …, "reply": "…"}     its answer, and the real price (`Entry`)
    {"cancelled": 7}                                 the server did not serve it
    {"dead": "a reason", "keys": […], …}             a narration was given up (`DeadLetter`)

A try with neither an answer nor a cancellation may have been billed, and keeps counting at its highest price.
Lines are written immediately, so that a kill loses none, and synced to disk within SYNC_SECONDS or when the
journal is closed. A line that a kill cut short is dropped: if it was a try, that was not sent; if it was an
answer, its try is still there. Journals of earlier versions have answers without tries. Lines are never
deleted: they are also the bill.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

SYNC_SECONDS = 1.0
"""Most work that a power failure can lose."""


class JournalError(ValueError):
    """A journal is damaged or in use. The message names the file and the way out."""


@dataclass(frozen=True)
class Entry:
    """One answered request."""

    answers: int | None
    """Number of the try; None in journals of earlier versions."""
    keys: list[str]
    """Keys of the request's narrations, or of its clip, in order: 16 hex digits."""
    usable: list[bool]
    """Whether `parser` found a usable sentence for each key."""
    parser: str
    """Digest of the parser, 8 hex digits."""
    provider: str
    model: str
    input_tokens: int
    cached_tokens: int
    """Of the input, those that the server had in its cache."""
    output_tokens: int
    measured: bool
    """Whether the server counted the tokens; otherwise they are estimated from the lengths."""
    usd: float
    """Price at the time of the request."""
    prices: str
    """What a token cost, and where that is from (`Prices`)."""
    day: str
    """Of the answer, in UTC: 2026-01-31."""
    seconds: float
    """From the first try to the answer."""
    finish: str
    """Why the model stopped: `stop`, or `length` at the token limit."""
    limit: int
    """The request's token limit."""
    reasons: bool
    """Whether the limit had room for reasoning."""
    texts: list[str]
    """The narrations, or the clip's video and seconds."""
    reply: str | list[str]
    """The model's unparsed reply, or its choices where several were sampled."""


@dataclass(frozen=True)
class DeadLetter:
    """A narration or clip that got no answer."""

    dead: str
    """The reason, in one line."""
    keys: list[str]
    texts: list[str]
    tries: int
    """Requests sent for it."""
    attempts: int
    """It is requested again when `max_attempts` exceeds this."""


class Journal:
    """Appends to one file. A context manager; safe to call from any thread."""

    def __init__(self, folder: Path, name: str) -> None:
        """Open `folder/name.jsonl` for appending; JournalError if another process has it open."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.jsonl"
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock_file()
        self._size = _whole_lines(self._descriptor)
        os.ftruncate(self._descriptor, self._size)
        self._writing = threading.Lock()
        self._unsynced, self._closing = False, threading.Event()
        self._sync_error: OSError | None = None
        self._syncing = threading.Thread(target=self._sync_often, daemon=True)
        self._syncing.start()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._syncing.join()
        with self._writing:
            descriptor, self._descriptor = self._descriptor, -1
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def begin(self, number: int, *, usd: float, model: str) -> None:
        """Record a try, with its highest price, before it is sent."""
        self._append({"try": number, "usd": usd, "model": model, "day": today()})

    def cancel(self, number: int) -> None:
        """Record that the server did not serve a try."""
        self._append({"cancelled": number})

    def add(self, line: object) -> None:
        """Add a dataclass as a line: an answer, or a narration that was given up."""
        self._append(vars(line))

    def sync(self) -> None:
        """Write all lines to disk."""
        os.fsync(self._descriptor)

    def _append(self, line: dict[str, Any]) -> None:
        data = json.dumps(line, ensure_ascii=False).encode(errors="replace") + b"\n"
        with self._writing:
            if self._descriptor < 0:
                raise JournalError(f"{self.path}: closed")
            if self._sync_error is not None:
                raise self._sync_error
            try:
                _write_all(self._descriptor, data)
            except OSError as error:
                os.ftruncate(self._descriptor, self._size)  # half a line would spoil the next one
                raise OSError(error.errno, error.strerror, str(self.path)) from None
            self._size += len(data)
            self._unsynced = True

    def _sync_often(self) -> None:
        """Sync periodically in a thread of its own, as a network disk can be slow."""
        while not self._closing.wait(SYNC_SECONDS):
            if self._unsynced:
                self._unsynced = False
                try:
                    os.fsync(self._descriptor)
                except OSError as error:
                    self._sync_error = OSError(error.errno, error.strerror, str(self.path))
                    return

    def _lock_file(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise JournalError(
                f"{self.path}: another process is answering this shard; wait for it or stop it first"
            ) from None
        except OSError:
            # Some network file systems have no locks. Snakemake runs one job per shard, so go on without one.
            return


def today() -> str:
    """The day in UTC, such as 2026-01-31."""
    return datetime.now(UTC).date().isoformat()


def parse_line(line: bytes, path: Path, *, start: int) -> dict[str, Any]:
    """The JSON object in a line that begins at byte `start`. JournalError if there is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise damaged(path, start=start)
    return found


def damaged(path: Path, *, start: int) -> JournalError:
    """The error for a line that begins at byte `start`, with the way out."""
    with path.open("rb") as stream:
        number = stream.read(start).count(b"\n") + 1
    return JournalError(f"{path}, line {number}: not a journal entry; delete the line to request it again")


def _whole_lines(descriptor: int) -> int:
    """Size of a file up to the end of its last complete line."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 65536)
        place = os.pread(descriptor, end - start, start).rfind(b"\n")
        if place >= 0:
            return start + place + 1
        end = start
    return 0


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
