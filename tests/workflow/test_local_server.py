"""The server of `local_server` in the workflow: it starts, is waited for, and never outlives its run."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import harness
import psutil
import pytest
from harness import ChatServer, wait_until


@pytest.fixture
def folder(annotated: Path, tmp_path: Path) -> Path:
    """A workspace with clips, a model's file, and room for a stand-in."""
    folder = harness.copy_workspace(annotated, tmp_path / "workspace")
    (folder / "model.gguf").touch()
    return folder


def overlay(folder: Path, behaviour: str, **server: Any) -> dict[str, Any]:
    """Settings with a stand-in for the Python that has llama.cpp."""
    python, stand_in = folder / f"python-{behaviour}", Path(__file__).with_name("stand_in_server.py")
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exit 0\n'
        f'exec "{sys.executable}" "{stand_in}" {behaviour} "{folder}/requests" "$@"\n'
    )
    python.chmod(0o755)
    chat = {"model": "test-model", "first_wait_seconds": 0.02}
    return {
        "narrate": {"provider": "language_model", "language_model": chat},
        "local_server": {"model": "model.gguf", "python": str(python), "slots": 2, **server},
        "selected_runs": ["llm"],
    }


def answered(folder: Path) -> Counter[str]:
    """Narrations that the stand-in answered, without the first request of each start."""
    return Counter(text for text in ChatServer("", folder / "requests").asked() if text != "Hello")


def is_gone(folder: Path) -> bool:
    """Whether the stand-in that started last has ended."""
    pid = int((folder / "requests.pid").read_text())
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def has_answers(folder: Path) -> bool:
    return (folder / "requests").exists() and answered(folder).total() >= 3


def test_the_server_is_waited_for_used_and_stopped_and_its_port_is_no_recipe(folder: Path) -> None:
    # As many threads as there are cores: the jobs that wait for the server take none.
    harness.finished(folder, "narrate", overlay=overlay(folder, "late", threads=2))
    asked = answered(folder)
    assert asked and set(asked.values()) == {1}
    wait_until(lambda: is_gone(folder), "the end of the server")
    assert not (folder / "results/logs/local_server.json").exists()
    assert "stand_in_server" not in (folder / "results/logs/local_server.log").read_text()
    again = overlay(folder, "late", port=1024, threads=1, slots=3)
    assert harness.planned_jobs(folder, "narrate", overlay=again) == {}


@pytest.mark.parametrize(
    ("behaviour", "server", "words"),
    [
        ("broken", {}, ["ended with exit code 1", "error loading model: model.gguf: unknown magic"]),
        ("silent", {"startup_minutes": 0.05}, ["no answer within 0.05 minutes", "startup_minutes"]),
    ],
)
def test_a_server_that_does_not_start_ends_the_run_with_its_last_lines(
    folder: Path, behaviour: str, server: dict[str, Any], words: list[str]
) -> None:
    run = harness.snakemake(folder, "narrate", overlay=overlay(folder, behaviour, **server))
    ending = run.stdout.rpartition("Failed:")[2]
    assert run.returncode == 1 and ending.count("local_server: ") == 1, run.stdout[-4000:]
    assert all(word in ending for word in words), ending
    wait_until(lambda: is_gone(folder), "the end of the server")


def test_a_server_that_ends_midway_is_one_error_and_the_same_command_continues(folder: Path) -> None:
    run = harness.snakemake(folder, "narrate", overlay=overlay(folder, "midway"))
    ending = run.stdout.rpartition("Failed:")[2]
    assert run.returncode == 1 and "exit code 3" in ending, run.stdout[-4000:]
    assert "failed to allocate the compute buffer" in ending and "no answer" not in ending
    before = answered(folder)
    assert 0 < before.total() <= 5
    harness.finished(folder, "narrate", overlay=overlay(folder, "late"))
    asked_again = answered(folder) - Counter(set(answered(folder)))
    assert before < answered(folder) and asked_again.total() <= 2, "what was on its way in the two slots"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_does_not_outlive_snakemake(folder: Path, number: int) -> None:
    harness.kill_when(
        folder,
        "narrate",
        reached=lambda: has_answers(folder),
        overlay=overlay(folder, "late"),
        number=number,
        alone=True,
    )
    wait_until(lambda: is_gone(folder), "the end of the server")
