"""The ledger of a journal: every request billed once, whatever the lines hold, with an index or without."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avion_core.narrate import ledger as module
from avion_core.narrate.bill import Account, Bill, total
from avion_core.narrate.journal import JournalError
from avion_core.narrate.ledger import DEAD, UNJUDGED, UNUSABLE, USABLE, Ledger, read_ledger

OLD = {
    "keys": ["00000000000000aa"],
    "texts": ["a"],
    "reply": "[]",
    "provider": "openai",
    "model": "m",
    "input_tokens": 10,
    "output_tokens": 5,
    "measured": True,
    "usd": 0.5,
    "seconds": 0.1,
    "finish": "stop",
}
"""A line of an earlier version."""


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_bytes(b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines))
    return path


def marks(ledger: Ledger) -> list[tuple[str, int]]:
    return [(f"{mark['key']:016x}", int(mark["state"])) for piece in ledger.marks for mark in piece]


def answer(number: int, *keys: str, usd: float = 0.5, **changes: Any) -> dict[str, Any]:
    entry = {**OLD, "answers": number, "keys": list(keys), "usable": [True] * len(keys), "usd": usd}
    return {**entry, "parser": "00000001", "limit": 200, **changes}


def test_a_try_counts_at_its_highest_price_until_it_is_settled(tmp_path):
    path = tmp_path / "1-of-1.jsonl"
    tries = [{"try": number, "usd": 1.0, "model": "m"} for number in range(4)]
    write(path, *tries)
    assert read_ledger(path).bills() == {"m": Bill(lost=4, usd=4.0)}
    write(path, *tries, {"cancelled": 0}, answer(2, "00000000000000aa", usd=0.25))
    found = read_ledger(path)
    assert found.bills() == {"m": Bill(answers=1, lost=2, input_tokens=10, output_tokens=5, usd=2.25)}
    assert found.usd == 2.25 and found.bills()["m"].requests == 3 and found.next_try == 4


def test_journals_of_earlier_versions_are_read(tmp_path):
    path = write(tmp_path / "1-of-1.jsonl", OLD, {**OLD, "finish": "length", "measured": False})
    found = read_ledger(path)
    assert found.bills() == {"m": Bill(answers=2, estimated=1, input_tokens=20, output_tokens=10, usd=1.0)}
    assert marks(found) == [("00000000000000aa", UNJUDGED)] * 2 and found.next_try == 0
    assert [int(mark["limit"]) for mark in found.marks[0]] == [0, 5], (
        "a reply that was cut off used its limit"
    )


def test_verdicts_are_those_of_the_line_for_each_narration(tmp_path):
    keys = [f"{number:016x}" for number in range(4)]
    path = write(
        tmp_path / "s.jsonl",
        answer(0, *keys[:3], usable=[True, False, True]),
        answer(1, keys[0], usable=[]),
        {"dead": "too long", "keys": [keys[3]], "texts": ["t"], "tries": 3, "attempts": 7},
    )
    found = read_ledger(path)
    states = [USABLE, UNUSABLE, USABLE, UNJUDGED, DEAD]
    assert marks(found) == list(zip([*keys[:3], keys[0], keys[3]], states, strict=True))
    last = found.marks[0][-1]
    assert (int(last["tries"]), int(last["attempts"])) == (3, 7)
    data = path.read_bytes()
    for mark in found.marks[0]:
        line = json.loads(data[mark["start"] : mark["start"] + mark["length"]])
        assert f"{mark['key']:016x}" in line["keys"]


@pytest.mark.parametrize(
    "change",
    [
        {"input_tokens": -1_000_000_000, "output_tokens": -50, "usd": -150.0},
        {"input_tokens": "many", "output_tokens": None, "usd": "free"},
        {"input_tokens": 10**30, "output_tokens": 1e300, "usd": 1e300},
        {"input_tokens": 100.0, "output_tokens": [5], "usd": 0.5},
        {"reply": "\u2028\u0085\x1c"},
        {"reply": "[" * 100_000},
        {"usable": "yes", "parser": 7, "limit": -3, "model": None},
        {"finish": "length", "output_tokens": -50},
    ],
)
def test_no_value_makes_the_bill_negative_or_absurd_or_stops_it(tmp_path, change):
    path = write(tmp_path / "s.jsonl", {**OLD, **change}, answer(0, "00000000000000bb"))
    found = total([read_ledger(path).bills()])
    assert sum(bill.answers for bill in found.values()) == 2
    for bill in found.values():
        assert 0 <= bill.usd <= 1e15 and 0 <= bill.input_tokens <= 2e15 and 0 <= bill.output_tokens <= 2e15
    assert sum(bill.usd for bill in found.values()) >= 0.5


def test_a_lone_surrogate_of_an_earlier_version_is_read(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps({**OLD, "reply": "\ud83d", "model": "m\ud83d"}) + "\n")
    assert sum(bill.answers for bill in read_ledger(path).bills().values()) == 1


@pytest.mark.parametrize(
    "line", ["", "[]", '{"keys": ["x"]}', '{"keys": 3}', "{", '{"a": 1}{"b": 2}', "\0\0"]
)
def test_a_damaged_line_in_the_middle_is_named(tmp_path, line):
    path = tmp_path / "s.jsonl"
    path.write_text(f"{json.dumps(OLD)}\n{line}\n{json.dumps(OLD)}\n")
    with pytest.raises(JournalError, match=r"s\.jsonl, line 2: .* delete the line"):
        read_ledger(path)


def test_a_last_line_without_an_end_is_left_out(tmp_path):
    path = write(tmp_path / "s.jsonl", OLD)
    path.write_bytes(path.read_bytes() + b'{"try": 5, "us')
    assert read_ledger(path).bills()["m"].requests == 1


def random_lines(count: int, seed: int) -> list[dict[str, Any]]:
    """Lines of many threads: tries, settled in any order or never."""
    chance, lines, flying = random.Random(seed), [], []
    for number in range(count):
        day = chance.choice([{}, {"day": "2026-01-30"}, {"day": "2026-01-31"}])
        usd, model = chance.choice([0.25, 0.5]), chance.choice("mn")
        lines.append({"try": number, "usd": usd, "model": model, **day})
        flying.append(number)
        while len(flying) > 5:
            done = flying.pop(chance.randrange(len(flying)))
            kind = chance.random()
            key = f"{chance.randrange(count):016x}"
            if kind < 0.2:
                lines.append({"cancelled": done})
            elif kind < 0.9:
                model = lines[[line.get("try") for line in lines].index(done)]["model"]
                usable = [chance.random() < 0.8]
                lines.append(answer(done, key, usd=0.125, model=model, usable=usable, prices="p", **day))
            if chance.random() < 0.1:
                lines.append({"dead": "no", "keys": [key], "texts": ["t"], "tries": 2, "attempts": 5})
    return lines


def naive_spend(lines: list[dict[str, Any]]) -> dict[Account, Bill]:
    tries = {line["try"]: line for line in lines if "try" in line}
    for line in lines:
        tries.pop(line.get("cancelled", line.get("answers")), None)
    answered = [
        (line, Bill(1, input_tokens=10, output_tokens=5, usd=line["usd"]))
        for line in lines
        if "answers" in line
    ]
    lost = [(line, Bill(lost=1, usd=line["usd"])) for line in tries.values()]
    return total(
        {Account(line["model"], line.get("day", ""), line.get("prices", "")): bill}
        for line, bill in answered + lost
    )


@pytest.mark.parametrize("block_bytes", [1 << 23, 700])
def test_the_bill_and_marks_are_those_of_a_naive_reading_with_an_index_or_without(
    tmp_path, monkeypatch, block_bytes
):
    monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    path, lines = tmp_path / "s.jsonl", random_lines(200, seed=1)
    for end in (0, 40, 41, 150, len(lines)):  # a file that grows; below 700 bytes no index is made
        write(path, *lines[:end])
        found = read_ledger(path)
        assert found.spend() == naive_spend(lines[:end])
        expected = [key for line in lines[:end] for key in line.get("keys", ())]
        assert [key for key, _ in marks(found)] == expected
    assert path.with_suffix(".index").exists() == (block_bytes == 700)
    again = read_ledger(path)
    assert again.spend() == found.spend() and len(found.spend()) > 6 and marks(again) == marks(found)
    assert again.next_try == found.next_try == 200


def test_an_index_is_not_used_for_an_edited_file_and_may_be_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 100)
    path, index = tmp_path / "s.jsonl", tmp_path / "s.index"
    entries = [answer(number, f"{number:016x}") for number in range(50)]
    write(path, *entries)
    read_ledger(path)
    write(path, *entries[:10], *entries[11:])  # "delete the line"
    assert (f"{10:016x}", USABLE) not in marks(read_ledger(path)) and len(marks(read_ledger(path))) == 49
    write(path, *entries[:20])
    assert len(marks(read_ledger(path))) == 20
    content = index.read_bytes()
    for damage in (
        b"",
        content[:-40],
        b"{}\n",
        b"[1]\n",
        b'{"version": 1}\n',
        b"\xff" * 90,
        content + b"x" * 33,
    ):
        index.write_bytes(damage)
        assert len(marks(read_ledger(path))) == 20


def test_a_folder_that_cannot_be_written_is_read(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(module, "BLOCK_BYTES", 10)
    monkeypatch.setattr(module, "publish", refuse)
    assert marks(read_ledger(write(tmp_path / "s.jsonl", OLD)))
    assert np.dtype(module.MARK).itemsize < 40
