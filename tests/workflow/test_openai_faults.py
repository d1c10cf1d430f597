"""The narrate program against every fault of the server process, and a hunt for the key in all it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from chat_server import BODIES, ERRORS
from harness import PRICES, PYTHON, ChatServer

from avion_core.data.clips import write_clips
from avion_core.narrate.api_key import ApiKey
from avion_core.narrate.exchange import HARMLESS

ROOT = Path(__file__).parents[2]
KEY = "sk-hunted-9fQz-8e7dX6c5b4a"
FAULTS = [
    *(set(ERRORS) - {"400", "413", "422"}),
    *BODIES,
    "drop",
    "reset",
    "cut",
    "hang",
    "drip",
    "useless",
    "length",
]
"""Every fault that a second try may not meet."""
GOOD = ["ok", "nousage", "badusage", "parts", "surrogate"]
TEXTS = [f"#C C takes the cup number {number:02} from the shelf" for number in range(60)]


@pytest.fixture(autouse=True)
def _server_knows_the_key(monkeypatch):
    monkeypatch.setenv("CHAT_SERVER_KEY", KEY)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    rows = [
        {"video_id": "v", "start_s": float(place), "end_s": place + 1.0, "texts": [text], "source": "human"}
        for place, text in enumerate(TEXTS)
    ]
    write_clips(tmp_path / "clips.arrow", rows)
    return tmp_path / "clips.arrow"


def narrate(
    clips: Path, server: ChatServer, home: Path, *, key: str = KEY, trace: bool = False, **openai: Any
) -> tuple[int, str]:
    """Exit code and output; also looks for the key among all processes while it runs."""
    home.mkdir(exist_ok=True)
    usual = {
        "base_url": server.url,
        "model": "test-model",
        **PRICES,
        "first_wait_seconds": 0.02,
        "timeout_seconds": 3,
    }
    recipe = {"provider": "openai", "openai": usual | openai}
    program = [str(PYTHON.path), str(ROOT / "workflow_scripts/narrate.py"), str(clips)]
    program += ["--recipe", json.dumps(recipe), "--shard", "1-of-1"]
    program += ["--journal", str(home / "journal"), "--out", str(home / "1-of-1.arrow")]
    environment = os.environ | {"OPENAI_API_KEY": key, "PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1"}
    if trace:
        environment["AVION_TRACEBACK"] = "1"
    with (home / "log").open("a") as log:
        process = subprocess.Popen(program, env=environment, stdout=log, stderr=log)
        shown: set[bytes] = set()
        while process.poll() is None:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):  # it has ended
                    shown.add(path.read_bytes())
            time.sleep(0.1)
    assert not any(KEY.encode() in line for line in shown)
    return process.returncode, (home / "log").read_text()


def assert_key_is_nowhere(home: Path) -> None:
    key = ApiKey(KEY)
    for path in home.rglob("*"):
        if path.is_file():
            assert not key.is_in(path.read_bytes().decode("latin-1")), path


def test_every_fault_is_outlasted_and_every_served_try_is_in_the_journal(start_server, clips, tmp_path):
    chaos = [behaviour for fault in sorted(FAULTS) for behaviour in ("ok", fault, "ok")]
    server = start_server(
        "--chaos",
        ",".join(chaos + GOOD),
        "--hang-seconds",
        "10",
        "--odd",
        "number 07=400,number 31=echo",
    )
    code, said = narrate(clips, server, tmp_path / "a", parallel_requests=8, max_attempts=6)
    assert code == 0, said
    entries = [
        json.loads(line) for line in (tmp_path / "a/journal/1-of-1.jsonl").read_bytes().split(b"\n")[:-1]
    ]
    answered = {text for entry in entries if any(entry.get("usable", [])) for text in entry["texts"]}
    given_up = {text for entry in entries if "dead" in entry for text in entry["texts"]}
    assert given_up == {TEXTS[7], TEXTS[31]} and answered == set(TEXTS) - given_up
    tried = sum("try" in entry for entry in entries) - sum("cancelled" in entry for entry in entries)
    assert tried == sum(line["billed"] for line in server.requests())
    usable = [text for entry in entries if any(entry.get("usable", [])) for text in entry["texts"]]
    assert len(usable) == len(set(usable)), "nothing that is answered is asked again"
    assert {line["behaviour"] for line in server.requests()} >= {*FAULTS, *GOOD}
    assert_key_is_nowhere(tmp_path / "a")


def test_the_key_is_nowhere_whatever_ends_a_run(start_server, clips, tmp_path):
    for place, (flags, more, words) in enumerate(
        [
            (("--key", "another"), {}, "OPENAI_API_KEY"),
            (("--model", "another"), {}, "test-model"),
            (
                ("--chaos", "echo"),
                {"outage_minutes": 0.01, "max_attempts": 1},
                "its words repeat the key",
            ),
            (("--chaos", "503"), {"outage_minutes": 0.01}, "outage_minutes"),
            ((), {"base_url": "http://127.0.0.1:9/v1", "outage_minutes": 0.0}, "no connection"),
        ]
    ):
        home = tmp_path / f"run{place}"
        code, said = narrate(clips, start_server(*flags), home, trace=place % 2 == 0, **more)
        assert code == 1 and words in said, said
        assert_key_is_nowhere(home)


def test_the_harmless_request_is_no_narration_of_ours():
    assert HARMLESS not in TEXTS
