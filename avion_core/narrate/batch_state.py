"""Batches in flight, on disk, so that a kill at any moment loses no answer and repeats no paid request.

    <journal>/batches/<shard>/<number>/state.json       how far it is (`State`)
                                      /requests.jsonl   the requests without their messages, one per line
                                      /input.jsonl      the file that is uploaded

The state is written before each step, and the folder is removed when every result is in the journal. The
requests' tries have consecutive numbers in the journal, from `first_try`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from avion_core.files import read_json, write_json
from avion_core.narrate.exchange import Request
from avion_core.narrate.ledger import key_numbers

BATCHES = "batches"
"""Folder of all batches in flight, in a journal's folder."""
STATE, REQUESTS, INPUT = "state.json", "requests.jsonl", "input.jsonl"
REQUEST_FIELDS = [field.name for field in fields(Request) if field.name not in ("messages", "schema")]
"""Fields of a request in REQUESTS."""


class Stage(StrEnum):
    """What may have happened to a batch."""

    PREPARING = "preparing"
    """The file is being written or uploaded; there is no batch."""
    CREATING = "creating"
    """The server may have created the batch; its number is unknown."""
    CREATED = "created"
    """The server has the batch."""


@dataclass(frozen=True)
class State:
    """Content of STATE."""

    server: str
    """Address of the server."""
    price_share: float
    """Price of its requests, relative to the normal price."""
    first_try: int
    """Number in the journal of the first request's try."""
    token: str
    """Mark of the batch on the server."""
    stage: Stage = Stage.PREPARING
    input_file: str = ""
    """Number of the uploaded file."""
    batch: str = ""
    """Number of the batch."""
    created_at: float = 0.0
    """Seconds since 1970."""


@dataclass(frozen=True)
class Row:
    """A request of a batch."""

    request: Request
    """Without its messages and its schema."""
    token_limit: int
    digest: str
    """Digest of its content, part of its name in the batch."""
    start: int
    length: int
    """Its line in the input file, in bytes."""


@dataclass(eq=False)
class Flight:
    """A batch in flight. The input file stays readable after `remove`, as long as this object exists."""

    folder: Path
    state: State
    earlier: bool = False
    """Whether an earlier session sent it, so that its outcomes go to the journal alone."""
    rows: dict[int, Row] = field(default_factory=dict)
    """Requests without a result so far, by their index; empty between `unload` and `load`."""
    size: int = 0
    """All requests of the batch."""
    length: int = 0
    """Length of the input file."""
    said_at: float = 0.0
    """When its progress was last shown."""
    seen: tuple[object, ...] = ()
    """The progress that was last shown."""
    unknown: int = 0
    """How often in a row the server did not know it."""
    cancelled_at: float = 0.0
    """When it was cancelled for taking too long, in seconds since 1970; 0 if it was not."""
    _files: tuple[IO[bytes], IO[bytes]] | None = None
    _descriptor: int = -1

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    @property
    def input(self) -> Path:
        """The file to upload."""
        return self.folder / INPUT

    @property
    def keys(self) -> NDArray[np.uint64]:
        """Keys of the requests."""
        return _keys(self.folder)

    def load(self) -> None:
        """Read the requests from disk, unless they are in memory."""
        if not self.rows:
            self.rows = dict(enumerate(_rows(self.folder)))
            self.size = len(self.rows)

    def unload(self) -> None:
        """Free the memory of the requests: batches take hours."""
        self.rows = {}

    def try_number(self, place: int) -> int:
        """Number in the journal of a request's try."""
        return self.state.first_try + place

    def note(self, **changes: Any) -> None:
        """Publish a changed state."""
        self.state = replace(self.state, **changes)
        write_json(self.folder / STATE, asdict(self.state))

    def full(self, row: Row) -> Request:
        """A row's request with its messages and schema."""
        body = self.body(row)
        bound = body.get("response_format") or {}
        schema = bound.get("json_schema", {}).get("schema")
        return replace(row.request, messages=tuple(body["messages"]), schema=schema)

    def body(self, row: Row) -> dict[str, Any]:
        """What was sent for a row."""
        body: dict[str, Any] = json.loads(os.pread(self._descriptor, row.length, row.start))["body"]
        return body

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write both files in the body by `add`; they are on disk afterwards."""
        with self.input.open("wb") as lines, (self.folder / REQUESTS).open("wb") as kept:
            self._files = lines, kept
            yield
            for stream in self._files:
                stream.flush()
                os.fsync(stream.fileno())
        self._files = None
        self.open_input()

    def add(self, request: Request, line: bytes, *, token_limit: int, digest: str) -> None:
        """Add a request and its line of the input file."""
        assert self._files is not None, "add is for the body of writing"
        lines, kept = self._files
        lines.write(line)
        light = replace(request, messages=(), schema=None)
        about = {name: getattr(request, name) for name in REQUEST_FIELDS}
        kept.write(json.dumps({**about, "token_limit": token_limit, "digest": digest}).encode() + b"\n")
        self.rows[self.size] = Row(light, token_limit, digest, self.length, len(line))
        self.size, self.length = self.size + 1, self.length + len(line)

    def open_input(self) -> None:
        """Make the finished input file readable."""
        self._descriptor = os.open(self.input, os.O_RDONLY)

    def remove(self) -> None:
        """Remove the folder; the state first, since a folder without one counts as removed."""
        (self.folder / STATE).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # it holds other batches
            self.folder.parent.rmdir()


def new_flight(home: Path, *, server: str, price_share: float, first_try: int) -> Flight:
    """An empty batch in the shard's folder `home`."""
    home.mkdir(parents=True, exist_ok=True)
    taken = [int(path.name) for path in home.iterdir() if path.name.isdecimal()]
    flight = Flight(
        home / f"{max(taken, default=0) + 1:06}",
        State(server, price_share, first_try, token=uuid4().hex),
    )
    flight.folder.mkdir()
    flight.note()
    return flight


def load_flights(home: Path) -> Iterator[Flight]:
    """The batches in a shard's folder, in the order in which they were sent."""
    for leftover in {*home.glob("*")} - {*_folders(home)}:  # of a kill during `remove`
        shutil.rmtree(leftover, ignore_errors=True)
    for folder in _folders(home):
        raw = read_json(folder / STATE)
        flight = Flight(folder, State(**{**raw, "stage": Stage(raw["stage"])}), earlier=True)
        if flight.state.stage is not Stage.PREPARING:
            flight.open_input()
        yield flight


def shards_in_flight(journal_dir: Path) -> list[str]:
    """Names of the shards that have batches in flight."""
    return sorted(path.name for path in journal_dir.glob(f"{BATCHES}/*") if _folders(path))


def keys_in_flight(journal_dir: Path, *shards: str) -> NDArray[np.uint64]:
    """Keys of everything that batches in flight of these shards, or of all, may answer."""
    found = [np.empty(0, np.uint64)]
    for shard in shards or shards_in_flight(journal_dir):
        for folder in _folders(journal_dir / BATCHES / shard):
            with suppress(FileNotFoundError):  # another process has just collected it
                if read_json(folder / STATE)["stage"] != Stage.PREPARING:
                    found.append(_keys(folder))
    return np.concatenate(found)


def _keys(folder: Path) -> NDArray[np.uint64]:
    return key_numbers([key for line in _kept(folder) for key in line["keys"]])


def _rows(folder: Path) -> Iterator[Row]:
    start = 0
    with (folder / INPUT).open("rb") as stream:
        for kept, line in zip(_kept(folder), stream, strict=True):
            limit, digest = kept.pop("token_limit"), kept.pop("digest")
            known = {name: kept[name] for name in REQUEST_FIELDS if name in kept}
            lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
            request = Request(messages=(), **{**known, **lists})
            yield Row(request, limit, digest, start, len(line))
            start += len(line)


def _kept(folder: Path) -> Iterator[dict[str, Any]]:
    with (folder / REQUESTS).open("rb") as stream:
        yield from map(json.loads, stream)


def _folders(home: Path) -> list[Path]:
    """Folders of batches, in order."""
    return sorted(path.parent for path in home.glob(f"*/{STATE}"))


def now() -> float:
    """Seconds since 1970."""
    return time.time()
