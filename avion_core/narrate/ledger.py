"""A journal without its texts and replies: a mark for each narration of a line, and the bill.

Reading a million answers takes seconds, so the result is kept in an index beside each file. An index covers
the file up to some byte; the rest is read again. It may be deleted at any time, and is ignored if the file
was edited.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
from numpy.typing import NDArray

from avion_core.files import publish
from avion_core.narrate.bill import Account, Bill, total, total_usd
from avion_core.narrate.journal import damaged, parse_line

JOURNAL, INDEX = "*.jsonl", ".index"
VERSION = 2
"""Format version of the index."""
BLOCK_BYTES = 4 << 20
"""Size of one read; an index is written once this much was read."""
PARSED_BYTES = 1 << 20
"""Bytes parsed by one thread at a time."""
CHECKED_BYTES = 4096
"""Bytes before the end of an index's range whose checksum must match the file."""

MOST = 1e15
"""Larger numbers in a journal are taken as invalid."""
UNJUDGED, USABLE, UNUSABLE, DEAD = range(4)
"""States of a mark; answers of earlier versions are not judged."""
MARK = np.dtype(
    [
        ("key", "<u8"),
        ("start", "<i8"),  # the line's offset in the file, in bytes
        ("length", "<u4"),
        ("state", "u1"),
        ("parser", "<u4"),  # digest of the parser that set the state
        ("limit", "<u4"),  # token limit of an answer that was cut off by it; otherwise 0
        ("reasons", "?"),  # whether the limit had room for reasoning
        ("tries", "<u2"),  # of a dead letter; otherwise 1
        ("attempts", "<u2"),  # of a dead letter; otherwise 1
    ]
)
"""What a line says about one narration."""
_LINE = pa.schema(
    [
        ("try", pa.int64()),
        ("answers", pa.int64()),
        ("cancelled", pa.int64()),
        ("keys", pa.list_(pa.string())),
        ("usable", pa.list_(pa.bool_())),
        ("parser", pa.string()),
        ("dead", pa.string()),
        ("tries", pa.int64()),
        ("attempts", pa.int64()),
        ("model", pa.string()),
        ("day", pa.string()),
        ("prices", pa.string()),
        ("input_tokens", pa.int64()),
        ("cached_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("measured", pa.bool_()),
        ("usd", pa.float64()),
        ("finish", pa.string()),
        ("limit", pa.int64()),
        ("reasons", pa.bool_()),
    ]
)
"""The fields of a journal's lines that are read in bulk."""


@dataclass
class Ledger:
    """Content of one file up to byte `end`."""

    end: int = 0
    next_try: int = 0
    answered: dict[Account, Bill] = field(default_factory=dict)
    """Without lost tries."""
    unsettled: dict[int, tuple[Account, float]] = field(default_factory=dict)
    """Account and highest price of each try without answer or cancellation."""
    marks: list[NDArray[Any]] = field(default_factory=list)
    """Arrays of MARK, in the file's order."""

    def spend(self) -> dict[Account, Bill]:
        """What was used, lost tries included."""
        lost = [{account: Bill(lost=1, usd=usd)} for account, usd in self.unsettled.values()]
        return total([self.answered, *lost])

    def bills(self) -> dict[str, Bill]:
        """What each model's requests have used, lost tries included."""
        return total({account.model: bill} for account, bill in self.spend().items())

    @property
    def usd(self) -> float:
        """Upper bound on the dollars spent."""
        return total_usd(self.spend())


def read_ledgers(folder: Path) -> Iterator[tuple[Path, Ledger]]:
    """Each file of a journal with its ledger."""
    for path in sorted(folder.glob(JOURNAL)):
        yield path, read_ledger(path)


def journal_folders(folder: Path) -> list[Path]:
    """A data set's journal, and those of the same provider for other data sets, which hold answers too.

    A journal's path is `<data>/<data set>/narrations/<provider>/journal`; any other has no others beside it.
    """
    if folder.parent.parent.name != "narrations":
        return [folder]
    found = folder.parents[3].glob(f"*/narrations/{folder.parent.name}/{folder.name}")
    return [folder, *sorted(other for other in found if other != folder)]


def every_ledger(folder: Path) -> Iterator[tuple[Path, Ledger]]:
    """Each file of the journals of all data sets with its ledger."""
    for journal in journal_folders(folder):
        yield from read_ledgers(journal)


def read_ledger(path: Path) -> Ledger:
    """Read a file, and write an index if much was read. JournalError names a damaged line.

    An incomplete last line is left out: it is still being written, or a kill cut it short.
    """
    index = path.with_suffix(INDEX)
    with path.open("rb") as stream:
        ledger = _load(index, stream)
        begin = ledger.end
        stream.seek(begin)
        rest = b""
        while block := stream.read(BLOCK_BYTES):
            lines, end, rest = (rest + block).rpartition(b"\n")
            if end:
                _add(ledger, lines + end, path)
        if ledger.end - begin >= BLOCK_BYTES:
            with suppress(OSError):  # a folder or disk that cannot be written
                _save(ledger, index, stream)
    return ledger


def journal_summary(folder: Path) -> dict[str, Any]:
    """The bill of a journal by model, and what each shard spent on each day, for a summary in JSON."""
    shards = [(path.stem, ledger.spend()) for path, ledger in read_ledgers(folder)]
    models = total({account.model: bill} for _, spend in shards for account, bill in spend.items())
    return {
        "bill": {model: {**asdict(bill), "requests": bill.requests} for model, bill in models.items()},
        "spend": [
            {"shard": shard, **account._asdict(), "requests": bill.requests, "usd": bill.usd}
            for shard, spend in shards
            for account, bill in sorted(spend.items())
        ],
    }


def journal_spend(folder: Path) -> dict[Account, Bill]:
    """The bill of a journal by model, day and price."""
    return total(ledger.spend() for _, ledger in read_ledgers(folder))


def key_numbers(keys: Sequence[str]) -> NDArray[np.uint64]:
    """Keys of 16 hex digits as numbers. ValueError for others."""
    data = bytes.fromhex("".join(keys))
    if len(data) != 8 * len(keys):
        raise ValueError("a key has 16 hex digits")
    return np.frombuffer(data, ">u8").astype(np.uint64)


def _add(ledger: Ledger, data: bytes, path: Path) -> None:
    """Add complete lines to a ledger that ends where they begin."""
    table, keys = _table(data, path, ledger.end)
    ends = ledger.end + 1 + np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    starts = np.concatenate([[ledger.end], ends[:-1]])
    has_keys = np.asarray(pc.greater(pc.fill_null(pc.list_value_length(table["keys"]), 0), 0))
    answers = np.asarray(pc.is_null(table["dead"])) & has_keys
    ledger.answered = total([ledger.answered, _bills(table.filter(pa.array(answers)))])
    _settle(ledger, table)
    marks = _marks(table.filter(pa.array(has_keys)), keys, starts=starts[has_keys], ends=ends[has_keys])
    ledger.marks.append(marks)
    ledger.end += len(data)


def _table(data: bytes, path: Path, begin: int) -> tuple[pa.Table, NDArray[np.uint64]]:
    """The fields _LINE of complete lines, and all keys in one array.

    Arrow reads the lines that this version writes. If it fails, Python reads them one by one: an odd value of
    an earlier version counts as absent, but a line that is not a journal entry is an error.
    """
    parsing = pj.ParseOptions(explicit_schema=_LINE, unexpected_field_behavior="ignore")
    reading = pj.ReadOptions(block_size=PARSED_BYTES)
    try:
        table = pj.read_json(pa.BufferReader(data), read_options=reading, parse_options=parsing)
        if table.num_rows == data.count(b"\n"):
            return table, _all_keys(table)
    except ValueError:  # pa.ArrowInvalid is one
        pass
    rows, start = [], begin
    for line in data[:-1].split(b"\n"):
        raw = parse_line(line, path, start=start)
        if not _has_keys_or_none(raw):
            raise damaged(path, start=start)
        rows.append({field.name: _value(raw.get(field.name), field.type) for field in _LINE})
        start += len(line) + 1
    table = pa.Table.from_pylist(rows, schema=_LINE)
    return table, _all_keys(table)


def _all_keys(table: pa.Table) -> NDArray[np.uint64]:
    return key_numbers(pc.list_flatten(table["keys"]).to_pylist())


def _has_keys_or_none(raw: Mapping[str, Any]) -> bool:
    keys = raw.get("keys", [])
    return isinstance(keys, list) and all(re.fullmatch("[0-9a-f]{16}", str(key)) for key in keys)


def _value(value: Any, kind: pa.DataType) -> Any:
    """The value if it has its column's type, else None."""
    if kind == pa.list_(pa.string()):
        return value
    if kind == pa.list_(pa.bool_()):
        return value if isinstance(value, list) and all(isinstance(item, bool) for item in value) else None
    if kind == pa.string():
        return value.encode(errors="replace").decode() if isinstance(value, str) else None
    if kind == pa.bool_():
        return value if isinstance(value, bool) else None
    if not isinstance(value, (int, float)) or not abs(value) < MOST:
        return None
    return float(value) if kind == pa.float64() else int(value)


def _bills(answers: pa.Table) -> dict[Account, Bill]:
    """The bill of answers. An earlier version recorded whatever a server counted."""
    counted = ("input_tokens", "cached_tokens", "output_tokens")
    tokens = {name: np.clip(_numbers(answers, name), 0, MOST) for name in counted}
    usd = np.nan_to_num(np.clip(_numbers(answers, "usd"), 0, MOST))
    estimated = ~_numbers(answers, "measured", default=True).astype(bool)
    accounts, codes = _accounts(answers)
    found = {}
    for place, account in enumerate(accounts):
        chosen = codes == place
        found[account] = Bill(
            answers=int(chosen.sum()),
            estimated=int(estimated[chosen].sum()),
            **{name: int(values[chosen].sum()) for name, values in tokens.items()},
            usd=float(usd[chosen].sum()),
        )
    return found


def _accounts(rows: pa.Table) -> tuple[list[Account], NDArray[np.int64]]:
    """The accounts of lines, and the index of each line's."""
    columns = [
        pc.fill_null(rows[name], absent).combine_chunks().dictionary_encode()
        for name, absent in (("model", "unknown"), ("day", ""), ("prices", ""))
    ]
    each = np.stack([np.asarray(column.indices) for column in columns], axis=1)
    distinct, codes = np.unique(each, axis=0, return_inverse=True)
    names = [column.dictionary.to_pylist() for column in columns]
    return [
        Account(*(names[at][number] for at, number in enumerate(row))) for row in distinct.tolist()
    ], codes.reshape(-1)


def _settle(ledger: Ledger, table: pa.Table) -> None:
    """Add tries, and remove those that were answered or cancelled."""
    tries = table.filter(pc.is_valid(table["try"]))
    settled = pa.concat_tables(
        [table.select([name]).rename_columns(["number"]).drop_null() for name in ("answers", "cancelled")]
    )["number"]
    begun = np.asarray(tries["try"])
    if len(begun):
        ledger.next_try = max(ledger.next_try, int(begun.max()) + 1)
    for number in settled.filter(pc.invert(pc.is_in(settled, tries["try"]))).to_pylist():
        ledger.unsettled.pop(number, None)
    left = tries.filter(pc.invert(pc.is_in(tries["try"], settled)))
    for row in left.select(["try", "model", "day", "usd"]).to_pylist():
        usd, account = row["usd"] or 0.0, Account(row["model"] or "unknown", row["day"] or "")
        ledger.unsettled[row["try"]] = (account, usd if 0 <= usd < MOST else 0.0)


def _marks(
    rows: pa.Table, keys: NDArray[np.uint64], *, starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[Any]:
    """The marks of lines with keys, in order."""
    counts = np.asarray(pc.list_value_length(rows["keys"]))
    line = np.repeat(np.arange(len(counts)), counts)
    found = np.empty(len(keys), MARK)
    found["key"], found["start"], found["length"] = keys, starts[line], (ends - starts)[line]
    judged = np.asarray(pc.fill_null(pc.list_value_length(rows["usable"]), -1)) == counts
    verdicts = np.asarray(pc.fill_null(pc.list_flatten(rows.filter(pa.array(judged))["usable"]), False))
    found["state"] = UNJUDGED
    found["state"][judged[line]] = np.where(verdicts, USABLE, UNUSABLE)
    found["state"][np.asarray(pc.is_valid(rows["dead"]))[line]] = DEAD
    parsers = pc.fill_null(rows["parser"], "").combine_chunks().dictionary_encode()
    numbers = np.array([_parser_number(name) for name in parsers.dictionary.to_pylist()], np.uint32)
    found["parser"] = numbers[np.asarray(parsers.indices)][line]
    cut = np.asarray(pc.fill_null(pc.equal(rows["finish"], "length"), False))
    limit = np.where(cut, _numbers(rows, "limit", default=0), 0)
    limit = np.where(cut & (limit <= 0), _numbers(rows, "output_tokens"), limit)  # earlier versions
    found["limit"] = np.clip(limit, 0, 2**32 - 1)[line]
    found["reasons"] = _numbers(rows, "reasons", default=False)[line]
    for name in ("tries", "attempts"):
        found[name] = np.clip(_numbers(rows, name, default=1), 0, 2**16 - 1)[line]
    return found


def _numbers(table: pa.Table, name: str, *, default: Any = 0) -> NDArray[Any]:
    return np.asarray(pc.fill_null(table[name], default))


def _parser_number(name: str) -> int:
    return int(name, 16) if re.fullmatch("[0-9a-f]{8}", name) else 0


def _load(index: Path, journal: IO[bytes]) -> Ledger:
    """The ledger from an index; an empty one if there is no index that matches the journal."""
    try:
        with index.open("rb") as stream:
            facts = json.loads(stream.readline())
            if facts["version"] != VERSION or facts["check"] != _check(journal, facts["end"]):
                return Ledger()
            marks = np.fromfile(stream, MARK)
            if len(marks) != facts["marks"]:
                return Ledger()
        return Ledger(
            end=facts["end"],
            next_try=facts["next_try"],
            answered={Account(*account): Bill(**bill) for account, bill in facts["answered"]},
            unsettled={number: (Account(*account), usd) for number, account, usd in facts["unsettled"]},
            marks=[marks],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return Ledger()


def _save(ledger: Ledger, index: Path, journal: IO[bytes]) -> None:
    facts = {
        "version": VERSION,
        "end": ledger.end,
        "check": _check(journal, ledger.end),
        "next_try": ledger.next_try,
        "answered": [[account, asdict(bill)] for account, bill in ledger.answered.items()],
        "unsettled": [[number, account, usd] for number, (account, usd) in ledger.unsettled.items()],
        "marks": sum(map(len, ledger.marks)),
    }
    with publish(index) as draft, draft.open("wb") as stream:
        stream.write(json.dumps(facts).encode() + b"\n")
        for piece in ledger.marks:
            piece.tofile(stream)


def _check(journal: IO[bytes], end: int) -> int:
    """Checksum of the bytes before `end`, to detect an edited file."""
    begin = max(0, end - CHECKED_BYTES)
    journal.seek(begin)
    return zlib.crc32(journal.read(end - begin))
