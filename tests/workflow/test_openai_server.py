"""The provider `openai` against a server process: failures, a kill in mid-shard, the budget, the key.

The program of the rule `rephrase_narrations` runs as it does in the workflow; nothing is patched.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import PRICES, PYTHON, ChatServer, wait_until

from avion_core.data.clips import write_clips
from avion_core.data.tables import map_table
from avion_core.narrate.rephrase import REPHRASED

REPOSITORY = Path(__file__).parents[2]
TEXTS = [f"#C C takes the cup number {number:02} from the shelf" for number in range(40)]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    path = tmp_path / "clips.arrow"
    rows = [
        {"video_id": "v", "start_s": float(place), "end_s": place + 1.0, "texts": [text], "source": "human"}
        for place, text in enumerate([*TEXTS, *TEXTS[:10]])
    ]
    write_clips(path, rows)
    return path


def command(clips: Path, server: ChatServer, home: Path, **openai: Any) -> tuple[list[str], dict[str, str]]:
    """The rule's command and environment; results go to `home`."""
    settings = {
        "provider": "openai",
        "openai": {
            "base_url": server.url,
            "model": "test-model",
            **PRICES,
            "first_wait_seconds": 0.02,
            "max_attempts": 8,
            **openai,
        },
    }
    program = [str(PYTHON.path), "-m", "workflow_scripts.narrate", str(clips)]
    program += ["--recipe", json.dumps(settings), "--shard", "1-of-1"]
    program += ["--journal", str(home / "journal"), "--out", str(home / "1-of-1.arrow")]
    environment = {**os.environ, "OPENAI_API_KEY": "sk-test", "PYTHONPATH": str(REPOSITORY)}
    return program, {**environment, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def narrate(
    clips: Path, server: ChatServer, home: Path, *, key: str = "sk-test", **openai: Any
) -> subprocess.CompletedProcess[str]:
    """A run to its end."""
    program, environment = command(clips, server, home, **openai)
    environment["OPENAI_API_KEY"] = key
    return subprocess.run(
        program, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300
    )


def result(home: Path) -> list[dict[str, Any]]:
    return map_table(home / "1-of-1.arrow", REPHRASED).to_pylist()


def journal(home: Path) -> list[dict[str, Any]]:
    """The answers in the journal."""
    return [line for line in lines(home) if "reply" in line]


def lines(home: Path) -> list[dict[str, Any]]:
    """All whole lines of the journal."""
    content = (home / "journal" / "1-of-1.jsonl").read_bytes()
    return [json.loads(line) for line in content.split(b"\n")[:-1]]


def test_every_distinct_text_is_asked_once_and_the_bill_is_the_servers_count(start_server, clips, tmp_path):
    server = start_server()
    run = narrate(clips, server, tmp_path / "a")
    assert run.returncode == 0, run.stderr
    assert sorted(server.asked()) == TEXTS
    rows = result(tmp_path / "a")
    assert [row["text"] for row in rows] == TEXTS
    plain = TEXTS[0].removeprefix("#C C ")
    assert rows[0]["rephrased"] == [f"#C C now {plain}", f"again {plain}", f"Once more {plain}"]
    assert "40 requests" in run.stderr and "input" in run.stderr
    billed = sum(entry["usd"] for entry in journal(tmp_path / "a"))
    assert billed == pytest.approx(40 * (100 * 0.15 + 50 * 0.60) / 1e6)
    again = narrate(clips, server, tmp_path / "a")
    assert again.returncode == 0 and len(server.requests()) == 40


def test_a_kill_in_mid_shard_costs_only_what_was_on_its_way(start_server, clips, tmp_path):
    undisturbed = start_server()
    assert narrate(clips, undisturbed, tmp_path / "whole").returncode == 0

    server = start_server("--delay", "0.5")
    program, environment = command(clips, server, tmp_path / "killed", parallel_requests=4)
    process = subprocess.Popen(program, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE)
    book = tmp_path / "killed" / "journal" / "1-of-1.jsonl"
    wait_until(lambda: book.exists() and book.read_bytes().count(b'"reply"') >= 12, "answers")
    process.kill()
    process.communicate()
    assert not (tmp_path / "killed" / "1-of-1.arrow").exists()
    answered = {text for entry in journal(tmp_path / "killed") for text in entry["texts"]}
    first_leg = len(server.requests())
    assert 12 <= len(answered) < len(TEXTS) and first_leg - len(answered) <= 4
    with book.open("ab") as stream:
        stream.write(b'{"keys": ["to')  # a line torn by the kill

    assert narrate(clips, server, tmp_path / "killed").returncode == 0
    second_leg = [text for line in server.requests()[first_leg:] for text in line["texts"]]
    assert sorted(second_leg) == sorted(set(TEXTS) - answered)
    assert result(tmp_path / "killed") == result(tmp_path / "whole")


@pytest.mark.parametrize("batch", [1, 5])
def test_failures_are_waited_out_and_change_nothing(start_server, clips, tmp_path, batch):
    assert narrate(clips, start_server(), tmp_path / "calm").returncode == 0
    server = start_server("--chaos", "429,ok,500,drop,ok,broken,useless,ok,nousage")
    run = narrate(
        clips,
        server,
        tmp_path / "rough",
        narrations_per_request=batch,
        max_tokens_per_reply=800,
        max_attempts=30,
    )
    assert run.returncode == 0, run.stderr
    assert result(tmp_path / "rough") == result(tmp_path / "calm")
    answered = server.asked("ok") + server.asked("nousage")
    assert sorted(answered) == TEXTS
    useless = [entry for entry in journal(tmp_path / "rough") if "sorry" in entry["reply"]]
    assert useless and all(entry["usd"] > 0 for entry in useless), "a useless reply is on the bill too"
    assert any(not entry["measured"] for entry in journal(tmp_path / "rough"))


def test_a_storm_of_rate_limits_passes(start_server, clips, tmp_path):
    server = start_server("--storm", "20")
    run = narrate(clips, server, tmp_path / "a", max_attempts=20)
    assert run.returncode == 0, run.stderr
    assert sorted(server.asked()) == TEXTS


def test_a_server_that_stays_ill_ends_the_run_with_one_line_and_keeps_the_answers(
    start_server, clips, tmp_path
):
    server = start_server("--chaos", ",".join(["ok"] * 10 + ["500"] * 1000))
    run = narrate(clips, server, tmp_path / "a", max_attempts=1, parallel_requests=1, outage_minutes=0)
    assert run.returncode == 1
    assert one_error(run) and "outage_minutes" in run.stderr and "500" in run.stderr
    assert len(journal(tmp_path / "a")) == 10
    well = start_server()
    assert narrate(clips, well, tmp_path / "a").returncode == 0
    assert len(well.requests()) == 30


def test_a_hanging_server_meets_the_timeout(start_server, clips, tmp_path):
    server = start_server("--chaos", "hang,ok,ok,ok,ok,ok,ok,ok,ok,ok,ok", "--hang-seconds", "60")
    run = narrate(clips, server, tmp_path / "a", timeout_seconds=3, parallel_requests=8)
    assert run.returncode == 0, run.stderr
    assert set(server.asked()) == set(TEXTS) and server.asked("hang")
    assert [row["text"] for row in result(tmp_path / "a")] == TEXTS


def test_a_wrong_key_is_one_error_at_once_and_is_not_repeated(start_server, clips, tmp_path):
    server = start_server()
    run = narrate(clips, server, tmp_path / "a", key="sk-wrong-key")
    assert run.returncode == 1 and one_error(run)
    assert "OPENAI_API_KEY" in run.stderr and "sk-wrong-key" not in run.stderr
    assert len(server.requests()) <= 4, "no more than the requests in flight"


def test_without_a_key_nothing_is_sent(start_server, clips, tmp_path):
    server = start_server()
    run = narrate(clips, server, tmp_path / "a", key="")
    assert run.returncode == 1 and one_error(run) and "OPENAI_API_KEY" in run.stderr
    assert server.requests() == []


def test_an_unknown_model_is_named(start_server, clips, tmp_path):
    run = narrate(clips, start_server(), tmp_path / "a", model="tset-model")
    assert run.returncode == 1 and one_error(run) and "tset-model" in run.stderr


def test_too_small_a_budget_stops_before_the_first_request(start_server, clips, tmp_path):
    server = start_server()
    run = narrate(clips, server, tmp_path / "a", max_usd=0.0001)
    assert run.returncode == 1 and one_error(run) and "max_usd" in run.stderr
    assert server.requests() == []


def test_the_bill_never_passes_the_limit_when_replies_are_dearer_than_expected(start_server, clips, tmp_path):
    options = {
        "max_tokens_per_reply": 110,
        "max_attempts": 30,
        "usd_per_million_input_tokens": 0,
        "usd_per_million_output_tokens": 1000.0,
    }
    # The server bills 50 output tokens a reply, 0.05 dollars; the limit leaves room for some of them.
    server = start_server("--chaos", "ok,useless,useless")
    run = narrate(clips, server, tmp_path / "a", max_usd=3.4, **options)
    assert run.returncode == 1 and one_error(run) and "max_usd" in run.stderr, run.stderr
    billed = sum(entry["usd"] for entry in journal(tmp_path / "a"))
    assert 2.0 < billed <= 3.4
    assert len(journal(tmp_path / "a")) == len(server.requests())
    answered = set(server.asked("ok"))
    more = narrate(clips, server, tmp_path / "a", max_usd=20, **options)
    assert more.returncode == 0, more.stderr
    assert sorted(server.asked("ok")) == TEXTS and answered < set(TEXTS)


def test_a_model_that_answers_nothing_usable_is_given_up(start_server, clips, tmp_path):
    server = start_server("--chaos", "useless")
    run = narrate(clips, server, tmp_path / "a", max_attempts=2)
    assert run.returncode == 1 and one_error(run) and "no usable sentence" in run.stderr
    asked = len(server.requests())
    assert narrate(clips, server, tmp_path / "a", max_attempts=2).returncode == 1
    per_text = [text for line in server.requests() for text in line["texts"]]
    assert max(per_text.count(text) for text in TEXTS) <= 2, f"{asked} requests, then more for the same texts"


def one_error(run: subprocess.CompletedProcess[str]) -> bool:
    """One error line and no traceback."""
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    return len(errors) == 1 and "Traceback" not in run.stderr
