"""The journal: what was written is there after kills, full disks and torn lines, once."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from avion_core.narrate import journal as module
from avion_core.narrate.journal import DeadLetter, Entry, Journal, JournalError


def answer(number: int | None = 0, key: str = "a" * 16, reply: str = "[]") -> Entry:
    return Entry(
        answers=number,
        keys=[key],
        usable=[False],
        parser="0" * 8,
        provider="openai",
        model="m",
        input_tokens=10,
        cached_tokens=0,
        output_tokens=5,
        measured=True,
        usd=0.5,
        prices="as set",
        day="2026-01-31",
        seconds=0.1,
        finish="stop",
        limit=200,
        reasons=False,
        texts=["a text"],
        reply=reply,
    )


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def test_lines_are_written_as_they_are_and_at_once(tmp_path):
    with Journal(tmp_path, "1-of-2") as journal:
        journal.begin(7, usd=0.25, model="m")
        assert lines(journal.path) == [{"try": 7, "usd": 0.25, "model": "m", "day": module.today()}]
        journal.cancel(7)
        journal.add(answer(7))
        journal.add(DeadLetter("too long", ["b" * 16], ["a text"], 3, 5))
        found = lines(journal.path)
    assert found[1] == {"cancelled": 7} and found[2]["answers"] == 7
    assert found[3] == {
        "dead": "too long",
        "keys": ["b" * 16],
        "texts": ["a text"],
        "tries": 3,
        "attempts": 5,
    }


@pytest.mark.parametrize("reply", ["a\u2028b\u2029c\u0085d\x0b\x0c\x1c", "[" * 5000, "\ud83d", '"\\\n\0'])
def test_a_reply_is_one_line_whatever_it_holds(tmp_path, reply):
    with Journal(tmp_path, "s") as journal:
        journal.add(answer(reply=reply))
        journal.add(answer(1))
        assert [entry["answers"] for entry in lines(journal.path)] == [0, 1]
        assert lines(journal.path)[0]["reply"] == reply.encode(errors="replace").decode()


@pytest.mark.parametrize("cut", [1, 7, 40, 70000])
def test_a_torn_last_line_is_dropped_and_the_next_one_is_whole(tmp_path, cut):
    with Journal(tmp_path, "s") as journal:
        journal.add(answer(0))
        journal.add(answer(1, reply="x" * 100_000))
    path = tmp_path / "s.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(tmp_path, "s") as journal:
        journal.add(answer(2))
    assert [entry["answers"] for entry in lines(path)] == [0, 2]


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    whole = os.write

    def half(descriptor: int, data: bytes) -> int:
        whole(descriptor, data[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(tmp_path, "s") as journal:
        journal.add(answer(0))
        monkeypatch.setattr(module.os, "write", half)
        with pytest.raises(OSError, match="No space left") as error:
            journal.add(answer(1))
        assert error.value.filename == str(journal.path)
        monkeypatch.setattr(module.os, "write", whole)
        journal.add(answer(2))
    assert [entry["answers"] for entry in lines(tmp_path / "s.jsonl")] == [0, 2]


def test_many_threads_write_whole_lines(tmp_path):
    with Journal(tmp_path, "s") as journal, ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: journal.add(answer(number)), range(500)))
    assert sorted(entry["answers"] for entry in lines(tmp_path / "s.jsonl")) == list(range(500))


def test_what_comes_after_the_end_is_refused(tmp_path):
    with Journal(tmp_path, "s") as journal:
        journal.add(answer(0))
    with pytest.raises(JournalError, match="closed"):
        journal.begin(1, usd=0.1, model="m")


def test_the_disk_is_asked_to_keep_the_lines_without_the_writers_waiting(tmp_path, monkeypatch):
    synced: list[str] = []
    monkeypatch.setattr(module, "SYNC_SECONDS", 0.01)
    with Journal(tmp_path, "s") as journal:
        real = os.fsync
        import threading

        done = threading.Event()

        def fsync(descriptor: int) -> None:
            synced.append(threading.current_thread().name)
            real(descriptor)
            done.set()

        monkeypatch.setattr(module.os, "fsync", fsync)
        journal.add(answer(0))
        assert done.wait(30)
        assert threading.current_thread().name not in synced


def test_two_processes_do_not_write_one_journal(tmp_path):
    program = (
        "import sys; from pathlib import Path; from avion_core.narrate.journal import Journal, JournalError\n"
        "try: Journal(Path(sys.argv[1]), 's')\n"
        "except JournalError as error: print(error)"
    )
    with Journal(tmp_path, "s"):
        root = Path(__file__).parents[3]
        said = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    assert "another process" in said.stdout
    with Journal(tmp_path, "s"):
        """The lock is gone with the one who held it."""
