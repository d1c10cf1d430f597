"""A real llama.cpp with a real model, as `make demo LLM=local` installs them; skipped where it has not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from harness import ROOT, wait_until

from avion_core.config import load_settings
from avion_core.configfile import lay_over, read_config
from avion_core.data.clips import write_clips
from avion_core.data.tables import map_table
from avion_core.narrate.rephrase import REPHRASED

PYTHON, MODEL = ROOT / ".venv-llm/bin/python", ROOT / ".venv-llm/gemma3-270m.gguf"
TEXTS = ["#C C opens the drawer", "#C C picks up a knife from the table", "#C C washes the plate"]

pytestmark = pytest.mark.skipif(not MODEL.exists(), reason="needs .venv-llm: make .venv-llm/.ready")


def start(folder: Path, model: Path, *command: str) -> subprocess.Popen[str]:
    """The server's job, with this process in place of the rule's shell."""
    settings = load_settings(
        lay_over(read_config(ROOT / "config.yaml"), read_config(ROOT / "configs/local_llm.yaml"))
    )
    assert settings.local_server
    server = settings.local_server.model_copy(update={"model": str(model), "python": str(PYTHON)})
    words = [
        "-m",
        "workflow_scripts.local_server",
        "--settings",
        server.model_dump_json(),
        "--names",
        "gemma3-270m",
    ]
    words += [
        "--images",
        "0",
        "--run",
        str(os.getpid()),
        "--threads",
        "1",
        "--state",
        str(folder / "state"),
        "--log",
        str(folder / "log"),
    ]
    (folder / "state").write_text(json.dumps({"pid": os.getpid()}))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "log").open("w") as log:
        return subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environment, stdout=log, stderr=log)


def test_a_real_model_answers_in_the_form_of_the_schema(tmp_path: Path) -> None:
    settings = load_settings(
        lay_over(read_config(ROOT / "config.yaml"), read_config(ROOT / "configs/local_llm.yaml"))
    )
    row = {"video_id": "v", "start_s": 0.0, "end_s": 1.0, "source": "human"}
    write_clips(tmp_path / "clips.arrow", [{**row, "texts": [text]} for text in TEXTS])
    job = start(tmp_path, MODEL)
    try:
        command = [sys.executable, "-m", "workflow_scripts.narrate", str(tmp_path / "clips.arrow")]
        command += [
            "--recipe",
            json.dumps(settings.narrate.recipe()),
            "--job",
            json.dumps(settings.narrate.job_settings()),
        ]
        command += [
            "--shard",
            "1-of-1",
            "--journal",
            str(tmp_path / "journal"),
            "--server",
            str(tmp_path / "state"),
        ]
        command += ["--out", str(tmp_path / "out.arrow")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        servers = psutil.Process(job.pid).children()
    finally:
        job.terminate()
        job.wait(30)
    assert run.returncode == 0, run.stderr + (tmp_path / "log").read_text()[-3000:]
    rows = map_table(tmp_path / "out.arrow", REPHRASED).to_pylist()
    assert [row["text"] for row in rows] == sorted(TEXTS) and any(row["rephrased"] for row in rows)
    answers = [json.loads(line) for line in (tmp_path / "journal/1-of-1.jsonl").read_text().splitlines()]
    replies = [json.loads(line["reply"]) for line in answers if "reply" in line]
    assert replies and all(len(reply["1"]) == 3 for reply in replies), "the schema binds them"
    assert servers and not any(server.is_running() for server in servers)


def test_a_damaged_file_is_one_error_with_llama_cpps_words(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(MODEL.read_bytes()[:100_000])
    job = start(tmp_path, damaged)
    wait_until(lambda: job.poll() is not None, "the end of the server", seconds=120)
    state = json.loads((tmp_path / "state").read_text())
    assert job.returncode == 1 and "local_server: the server" in state["error"]
    assert "damaged.gguf" in state["error"], state["error"]
