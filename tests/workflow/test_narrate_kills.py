"""Three kills and twenty kinds of faults: each narration answered once or given up, every request billed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from harness import PRICES, PYTHON, ChatServer, wait_until

from avion_core.data.clips import write_clips
from avion_core.data.tables import map_table
from avion_core.narrate.bill import Bill, total
from avion_core.narrate.ledger import read_ledgers
from avion_core.narrate.rephrase import REPHRASED

ROOT = Path(__file__).parents[2]
NARRATIONS = 160
PARALLEL = 8
GOOD = ("ok", "parts", "nousage", "badusage")
ERRORS = "429", "429ms", "429odd", "500", "502", "503", "504", "408"
LOST = (
    "drop",
    "reset",
    "cut",
    "hang",
    "drip",
    "broken",
    "html",
    "empty",
    "null",
    "nochoices",
    "dict",
    "error200",
)
FAULTS = (*ERRORS, *LOST, "huge", "gzip", "useless", "length", *GOOD[1:])
ODD = "odd"
"""A narration with this word is always refused."""


def start(clips: Path, server: ChatServer, home: Path) -> subprocess.Popen[str]:
    openai = {
        "base_url": server.url,
        "model": "test-model",
        **PRICES,
        "parallel_requests": PARALLEL,
        "timeout_seconds": 6.0,  # long enough for a good reply on a busy machine
        "first_wait_seconds": 0.02,
        "max_attempts": 6,
    }
    program = [str(PYTHON.path), str(ROOT / "workflow_scripts/narrate.py"), str(clips), "--shard", "1-of-1"]
    program += ["--recipe", json.dumps({"provider": "openai", "openai": openai})]
    program += ["--journal", str(home / "journal"), "--out", str(home / "1-of-1.arrow")]
    environment = {**os.environ, "OPENAI_API_KEY": "sk-test", "PYTHONPATH": str(ROOT)}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, text=True)


def answered(home: Path) -> list[str]:
    """Narrations with a usable answer in the journal, as often as there is one."""
    content = (home / "journal/1-of-1.jsonl").read_bytes()
    lines: list[dict[str, Any]] = [json.loads(line) for line in content.split(b"\n")[:-1]]
    return [line["texts"][0] for line in lines if line.get("usable") == [True]]


def has_answers(home: Path, count: int) -> bool:
    return (home / "journal/1-of-1.jsonl").exists() and len(answered(home)) >= count


def served(server: ChatServer) -> list[str]:
    """Narrations with a good reply of the server's, as often as there was one."""
    return [line["texts"][0] for line in server.requests() if line["behaviour"] in GOOD]


def test_three_kills_and_a_fifth_of_faults(start_server, tmp_path):
    texts = [f"#C C takes the cup number {number:04} from the shelf" for number in range(NARRATIONS)]
    texts[NARRATIONS // 2] += f" in an {ODD} way"
    clips, home = tmp_path / "clips.arrow", tmp_path / "home"
    row = {"video_id": "v", "start_s": 0.0, "end_s": 1.0, "source": "human"}
    write_clips(clips, [{**row, "texts": [text]} for text in texts])
    chaos = ",".join(f"ok,ok,ok,ok,{fault}" for fault in FAULTS)
    server = start_server("--chaos", chaos, "--odd", f"{ODD}=400", "--delay", "0.05", "--hang-seconds", "8")
    in_flight: Counter[str] = Counter()
    for kill in (1, 2, 3):
        process = start(clips, server, home)
        wait_until(partial(has_answers, home, kill * NARRATIONS // 4), "answers", seconds=600)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        time.sleep(1)  # until the server has noted what was on its way
        in_flight = Counter(served(server)) - Counter(answered(home))
        assert in_flight.total() <= kill * PARALLEL
    last = start(clips, server, home)
    said = last.communicate()[1]
    assert last.returncode == 0, said

    rows = {row["text"]: row for row in map_table(home / "1-of-1.arrow", REPHRASED).to_pylist()}
    assert sorted(rows) == sorted(texts)
    for text, found in rows.items():
        assert bool(found["rephrased"]) != bool(found["reason"]), found
        assert len(found["rephrased"]) in (0, 3) or text in answered(home)
    assert "400" in rows[texts[NARRATIONS // 2]]["reason"]
    assert sum(not found["rephrased"] for found in rows.values()) <= NARRATIONS // 50
    assert set(answered(home)) == {text for text, found in rows.items() if found["rephrased"]}
    assert max(Counter(answered(home)).values()) == 1, "nothing answered is asked again"
    again = Counter(served(server)) - Counter(answered(home))
    assert again <= in_flight, "but what was on its way at a kill"

    billed = sum(line["billed"] for line in server.requests())
    bill = total(ledger.bills() for _, ledger in read_ledgers(home / "journal")).get("test-model", Bill())
    assert billed <= bill.requests <= billed + 3 * PARALLEL, "what was on its way at a kill may have been"
    assert len(server.requests()) > 1.1 * NARRATIONS

    before = len(server.requests())
    rerun = start(clips, server, home)
    rerun.communicate()
    assert rerun.returncode == 0 and len(server.requests()) == before


def test_without_a_kill_the_journals_bill_is_the_servers_to_the_last_request(start_server, tmp_path):
    texts = [f"#C C takes the cup number {number:04} from the shelf" for number in range(60)]
    clips, home = tmp_path / "clips.arrow", tmp_path / "home"
    row = {"video_id": "v", "start_s": 0.0, "end_s": 1.0, "source": "human"}
    write_clips(clips, [{**row, "texts": [text]} for text in texts])
    server = start_server("--chaos", ",".join(f"ok,{fault}" for fault in FAULTS), "--hang-seconds", "8")
    process = start(clips, server, home)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    ((_, ledger),) = read_ledgers(home / "journal")
    assert ledger.bills()["test-model"].requests == sum(line["billed"] for line in server.requests())
