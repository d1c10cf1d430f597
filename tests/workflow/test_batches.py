"""Batch mode against a server process with every fault and a kill at every step.

Nothing is paid twice, nothing is lost, and the journal's bill is the server's count.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from harness import PRICES, PYTHON, ChatServer, wait_until

from avion_core.data.clips import write_clips
from avion_core.data.tables import map_table
from avion_core.narrate.bill import Bill, total
from avion_core.narrate.ledger import read_ledgers
from avion_core.narrate.rephrase import REPHRASED

ROOT = Path(__file__).parents[2]
TEXTS = [f"#C C takes the cup number {number:02} from the shelf" for number in range(30)]
USD = (100 * 0.15 + 50 * 0.60) / 1e6
"""Price of a request sent directly."""


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    row = {"video_id": "v", "start_s": 0.0, "end_s": 1.0, "source": "human"}
    write_clips(tmp_path / "clips.arrow", [{**row, "texts": [text]} for text in TEXTS])
    return tmp_path / "clips.arrow"


def start(
    clips: Path,
    server: ChatServer,
    home: Path,
    *,
    shard: str = "1-of-1",
    **openai: Any,
) -> subprocess.Popen[str]:
    """The program of the rule, in batch mode."""
    usual = {
        "base_url": server.url,
        "model": "test-model",
        **PRICES,
        "first_wait_seconds": 0.02,
        "timeout_seconds": 20.0,
        "batch": True,
        "batch_poll_seconds": 0.05,
    }
    recipe = {"provider": "openai", "openai": usual | openai}
    program = [str(PYTHON.path), "-m", "workflow_scripts.narrate", str(clips), "--shard", shard]
    program += ["--recipe", json.dumps(recipe)]
    program += ["--journal", str(home / "journal"), "--out", str(home / f"{shard}.arrow")]
    environment = {**os.environ, "OPENAI_API_KEY": "sk-test", "PYTHONPATH": str(ROOT)}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return subprocess.Popen(program, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def narrate(clips: Path, server: ChatServer, home: Path, **openai: Any) -> tuple[int, str]:
    """Exit code and messages of a run to its end."""
    process = start(clips, server, home, **openai)
    said = process.communicate(timeout=120)[1]
    assert "Traceback" not in said, said
    return process.returncode, said


def bill(home: Path) -> Bill:
    return total(ledger.bills() for _, ledger in read_ledgers(home / "journal")).get("test-model", Bill())


def reasons(home: Path, shard: str = "1-of-1") -> dict[str, str]:
    """Why narrations have no sentences; every other one has its three."""
    rows = map_table(home / f"{shard}.arrow", REPHRASED).to_pylist()
    assert all(len(row["rephrased"]) == (0 if row["reason"] else 3) for row in rows)
    return {row["text"]: row["reason"] for row in rows if row["reason"]}


def served(server: ChatServer) -> Counter[str]:
    """How often each narration was served."""
    return Counter(text for line in server.requests() if line["billed"] for text in line["texts"])


def in_flight(home: Path) -> list[Path]:
    return list((home / "journal").glob("batches/*/*"))


def test_one_request_is_sent_directly_and_the_others_at_the_price_of_a_batch(start_server, clips, tmp_path):
    server = start_server(batches=True)
    code, said = narrate(clips, server, tmp_path, batch_requests=10)
    assert code == 0, said
    assert served(server) == Counter(TEXTS) and not reasons(tmp_path)
    assert [event["size"] for event in server.events("created")] == [10, 10, 9]
    assert len(server.asked("ok")) == 1 and len(server.asked("batch 200")) == 29
    found = bill(tmp_path)
    assert found.requests == 30 and found.lost == 0
    assert found.usd == pytest.approx(USD * (1 + 29 / 2))
    assert "50% of the price" in said and "9 of 9 requests" in said
    assert not in_flight(tmp_path)
    before = len(server.requests())
    assert narrate(clips, server, tmp_path)[0] == 0 and len(server.requests()) == before


@pytest.mark.parametrize(
    ("kinds", "lost"),
    [
        ("doubled", 0),
        ("expired,ok", 0),
        ("silent,ok", 0),
        ("failed,cancelled,ok", 0),
        ("ids", 0),
        ("garbage", 0),
        ("full,ok", 0),
        ("crowded,crowded,ok", 0),
        ("lost,ok", 0),
        ("never,ok", 0),
        ("truncated,ok", None),
        ("uncounted,ok", None),
        ("broken,ok", 10),
        ("empty,ok", None),
        ("errors,ok", 0),
    ],
)
def test_every_fault_of_a_batch_is_outlasted_and_billed_as_the_server_does(
    start_server, clips, tmp_path, kinds, lost
):
    server = start_server("--batches", kinds, batches=True)
    code, said = narrate(clips, server, tmp_path)
    assert code == 0, said
    assert set(served(server)) == set(TEXTS) and not reasons(tmp_path)
    found, billed = bill(tmp_path), served(server).total()
    if lost is None:  # what the server does not account for counts as billed
        assert billed <= found.requests <= billed + len(TEXTS)
    else:
        assert (found.requests, found.lost) == (billed, lost)
        assert served(server).total() == len(TEXTS) + lost, "nothing that was answered is asked again"
    assert not in_flight(tmp_path)


def test_errors_inside_a_batch_that_answers_others(start_server, clips, tmp_path):
    server = start_server("--batches", "mixed,ok", batches=True)
    code, said = narrate(clips, server, tmp_path)
    assert code == 0, said
    given_up = reasons(tmp_path)
    assert len(given_up) == 7 and all("400" in reason for reason in given_up.values())
    assert set(served(server)) == set(TEXTS) - set(given_up)
    assert bill(tmp_path).requests == served(server).total() == 23


def test_a_line_that_the_server_does_not_accept_is_given_up_and_the_others_are_sent(
    start_server, clips, tmp_path
):
    server = start_server("--batches", "invalid,ok", batches=True)
    code, said = narrate(clips, server, tmp_path)
    assert code == 0, said
    assert reasons(tmp_path) == {TEXTS[2]: "invalid: bad line"}, "line 2, after the one sent directly"
    assert served(server) == Counter(TEXTS) - Counter([TEXTS[2]])


@pytest.mark.parametrize(
    ("flags", "more", "words"),
    [
        (("--no-batch-api",), {}, "narrate.language_model.batch"),
        (("--batches", "refused"), {}, "refuses every request (400: bad)"),
        (("--batches", "errors"), {}, "3 batches in a row gave no answer"),
        (("--batches", "full"), {"batch_hours": 1e-6}, "Enqueued token limit"),
        (("--api-chaos", "503"), {"outage_minutes": 0.005}, "outage_minutes"),
        (("--api-chaos", "echo"), {"outage_minutes": 0.005}, "its words repeat the key"),
        (("--key", "another"), {}, "OPENAI_API_KEY"),
    ],
)
def test_what_cannot_be_outlasted_is_one_error_and_nothing_is_lost(
    start_server, clips, tmp_path, flags, more, words
):
    server = start_server(*flags, batches=True)
    code, said = narrate(clips, server, tmp_path, **more)
    assert code == 1 and said.count("\nerror: ") == 1 and words in said, said
    assert bill(tmp_path).requests == served(server).total()
    well = start_server(batches=True)
    assert not in_flight(tmp_path), "no batch is left on the server"
    code, said = narrate(clips, well, tmp_path)
    assert code == 0 and set(served(well)) == set(TEXTS) - set(served(server)), said


@pytest.mark.parametrize("held", ["upload", "uploaded", "create", "created", "look", "download"])
def test_a_kill_at_any_step_loses_nothing_and_pays_nothing_twice(start_server, clips, tmp_path, held):
    server = start_server("--hold", held, "--batches", "expired,ok", "--hold-seconds", "3", batches=True)
    process = start(clips, server, tmp_path)
    wait_until(partial(server.events, held), held)
    if held == "download":
        answers = tmp_path / "journal/1-of-1.jsonl"
        wait_until(lambda: answers.read_bytes().count(b'"reply"') > 5, "answers in the journal")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    code, said = narrate(clips, server, tmp_path)
    assert code == 0, said
    assert served(server) == Counter(TEXTS) and not reasons(tmp_path)
    assert (bill(tmp_path).requests, bill(tmp_path).lost) == (30, 0)
    assert not in_flight(tmp_path)


def test_a_stop_signal_leaves_the_batch_in_progress(start_server, clips, tmp_path):
    server = start_server("--batch-seconds", "5", batches=True)
    process = start(clips, server, tmp_path)
    wait_until(partial(server.events, "look"), "the batch")
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=20)[1]
    assert process.returncode != 0 and "1 batches continue on the server" in said, said
    assert len(in_flight(tmp_path)) == 1
    code, said = narrate(clips, server, tmp_path, batch=False, parallel_requests=8)
    assert code == 0 and "29 in batches" in said, said
    assert served(server) == Counter(TEXTS), "without batch mode, too, a batch is collected"


def test_batches_of_another_number_of_shards_are_collected(start_server, clips, tmp_path):
    server = start_server("--batch-seconds", "3", batches=True)
    process = start(clips, server, tmp_path)
    wait_until(partial(server.events, "look"), "the batch")
    process.kill()
    process.communicate()
    shards = [start(clips, server, tmp_path, shard=f"{number}-of-2") for number in (1, 2)]
    for shard in shards:
        said = shard.communicate(timeout=60)[1]
        assert shard.returncode == 0, said
    assert served(server) == Counter(TEXTS)
    assert not reasons(tmp_path, "1-of-2") and not reasons(tmp_path, "2-of-2")
    assert bill(tmp_path).requests == 30


def test_a_batch_whose_number_is_lost_is_found_behind_those_of_others(start_server, clips, tmp_path):
    server = start_server("--hold", "created", "--page", "1", batches=True)
    process = start(clips, server, tmp_path, shard="1-of-2")
    wait_until(partial(server.events, "created"), "the batch")
    process.kill()
    process.communicate()
    for shard in ("2-of-2", "1-of-2"):
        code, said = narrate(clips, server, tmp_path, shard=shard)
        assert code == 0, said
    assert served(server) == Counter(TEXTS) and len(server.events("created")) == 2
    assert bill(tmp_path).requests == 30


def test_batches_of_another_prompt_are_left_and_then_found(start_server, clips, tmp_path):
    server = start_server("--batches", "stuck,ok", batches=True)
    process = start(clips, server, tmp_path)
    wait_until(partial(server.events, "look"), "the batch")
    process.kill()
    process.communicate()
    code, said = narrate(clips, server, tmp_path, temperature=1.0, batch=False, parallel_requests=8)
    assert code == 0 and "is left for a run with the settings" in said, said
    assert len(in_flight(tmp_path)) == 1
    code, said = narrate(clips, server, tmp_path, batch_hours=1e-6)
    assert code == 0 and served(server) == Counter(TEXTS + TEXTS), said
    assert bill(tmp_path).requests == 60


def test_a_full_queue_is_met_with_smaller_batches(start_server, clips, tmp_path):
    server = start_server("--most-queued", "8", "--batch-seconds", "0.3", batches=True)
    code, said = narrate(clips, server, tmp_path)
    assert code == 0 and served(server) == Counter(TEXTS), said
    sizes = [event["size"] for event in server.events("created")]
    assert max(sizes) <= 8 and sum(sizes) == 29
    assert "waiting for a batch to be over" in said


def test_files_are_split_by_bytes_and_a_request_too_large_for_any_is_named(start_server, tmp_path):
    odd = TEXTS[-1] + " and the cup" * 75
    row = {"video_id": "v", "start_s": 0.0, "end_s": 1.0, "source": "human"}
    clips = tmp_path / "clips.arrow"
    write_clips(clips, [{**row, "texts": [text]} for text in [*TEXTS, odd]])
    server = start_server("--most-bytes", "7000", batches=True)
    code, said = narrate(clips, server, tmp_path, batch_megabytes=0.002)
    assert code == 0, said
    assert "bytes" in reasons(tmp_path)[odd] and "batch_megabytes" in reasons(tmp_path)[odd]
    assert served(server) == Counter(TEXTS)


def test_a_server_with_a_smaller_limit_of_bytes(start_server, clips, tmp_path):
    server = start_server("--most-bytes", "9000", batches=True)
    code, said = narrate(clips, server, tmp_path)
    assert code == 0 and served(server) == Counter(TEXTS), said
    assert "smaller ones follow" in said


def test_a_deleted_batch_is_named_and_its_requests_are_sent_again(start_server, clips, tmp_path):
    server = start_server("--batches", "gone,ok", batches=True)
    code, said = narrate(clips, server, tmp_path)
    assert code == 0 and "does not know batch" in said and "29 requests are sent again" in said, said
    assert served(server) == Counter(TEXTS)
    assert bill(tmp_path).lost == 29, "they may have been paid for"


def test_a_batch_that_takes_too_long_is_cancelled_and_its_answers_are_kept(start_server, clips, tmp_path):
    server = start_server("--batches", "stuck,ok", batches=True)
    code, said = narrate(clips, server, tmp_path, batch_hours=0.3 / 3600)
    assert code == 0 and "cancelling it" in said, said
    assert served(server) == Counter(TEXTS) and bill(tmp_path).requests == 30


def test_the_budget_holds_before_a_batch_is_created(start_server, clips, tmp_path):
    prices = {"usd_per_million_input_tokens": 0, "usd_per_million_output_tokens": 1000.0}
    server = start_server(batches=True)
    # A request costs 0.2 dollars at most and 0.05 in fact, half of it in a batch.
    code, said = narrate(clips, server, tmp_path, max_usd=2.3, max_tokens_per_reply=200, **prices)
    assert code == 0, said
    sizes = [event["size"] for event in server.events("created")]
    assert len(sizes) > 1 and sum(sizes) == 29 and max(sizes) <= 22
    assert served(server) == Counter(TEXTS)
    assert bill(tmp_path).usd == pytest.approx(0.05 + 29 * 0.025)
    poor = tmp_path / "poor"
    code, said = narrate(clips, server, poor, max_usd=0.9, max_tokens_per_reply=200, **prices)
    assert code == 1 and "max_usd" in said and bill(poor).usd <= 0.9


def test_an_api_that_often_fails(start_server, clips, tmp_path):
    server = start_server("--api-chaos", f"{'ok,' * 12}500,429,drop,502", "--page", "2", batches=True)
    code, said = narrate(clips, server, tmp_path, batch_requests=7)
    assert code == 0 and not reasons(tmp_path), said
    assert served(server) == Counter(TEXTS) and bill(tmp_path).requests == 30


def test_a_batch_on_another_server_is_an_error(start_server, clips, tmp_path):
    server, other = start_server("--batch-seconds", "60", batches=True), start_server(batches=True)
    process = start(clips, server, tmp_path)
    wait_until(partial(server.events, "look"), "the batch")
    process.kill()
    process.communicate()
    code, said = narrate(clips, other, tmp_path)
    assert code == 1 and server.url in said and "base_url" in said and not other.requests()
