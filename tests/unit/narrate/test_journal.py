"""The journal: what was answered is kept through kills, by every shard, and billed once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from avion_core.narrate.journal import Bill, Entry, Journal, JournalError, bill, entries_by_key


def entry(key: str, usd: float = 0.5) -> Entry:
    return Entry([key], [f"text {key}"], "[]", "openai", "m", 10, 5, True, usd, 0.1, "stop")


def test_entries_are_found_again_with_their_bill(tmp_path):
    with Journal(tmp_path, "1-of-2") as journal:
        journal.append(entry("a"))
        journal.append(entry("b", 0.25))
        assert journal.usd_here == 0.75
    with Journal(tmp_path, "1-of-2") as again:
        assert again.answers("a") == [entry("a")] and again.answers("c") == []
        assert again.usd_here == 0.75


def test_other_shards_answers_are_known_and_not_this_shards_bill(tmp_path):
    with Journal(tmp_path, "1-of-2") as journal:
        journal.append(entry("a"))
    with Journal(tmp_path, "2-of-4") as other:
        assert other.answers("a") == [entry("a")]
        assert other.usd_here == 0 and other.usd_by_file == {"1-of-2": 0.5, "2-of-4": 0.0}


def test_the_bill_counts_every_request_and_memory_holds_only_what_is_wanted(tmp_path):
    for name, key in (("1-of-2", "a"), ("2-of-2", "b")):
        with Journal(tmp_path, name) as journal:
            journal.append(entry(key))
    assert bill(tmp_path) == Bill(requests=2, input_tokens=20, output_tokens=10, usd=1.0)
    with Journal(tmp_path, "1-of-2", wanted={"b"}) as journal:
        assert journal.answers("a") == [] and journal.answers("b") == [entry("b")]
        assert journal.usd_here == 0.5


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_torn_last_line_is_dropped_and_the_next_one_is_whole(tmp_path, cut):
    with Journal(tmp_path, "s") as journal:
        journal.append(entry("a"))
        journal.append(entry("b"))
    path = tmp_path / "s.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert set(entries_by_key(tmp_path)) == {"a"}
    with Journal(tmp_path, "s") as journal:
        assert journal.answers("b") == []
        journal.append(entry("c"))
    assert [json.loads(line)["keys"] for line in path.read_text().splitlines()] == [["a"], ["c"]]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "s.jsonl").write_text('{"keys": []}\n')
    with pytest.raises(JournalError, match=r"s\.jsonl, line 1"):
        Journal(tmp_path, "s")


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
