"""Workspaces that several tests start from, made once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import harness
import pytest
from harness import ChatServer, wait_until

from tests.support.shared import made_once


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test in this folder is a workflow test; before `-m` selects."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.workflow)


@pytest.fixture(scope="session")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small toy kitchen: rendered, transcoded, annotated. Copy it; do not write to it."""
    return made_once(tmp_path_factory, "annotated", lambda folder: harness.finished(folder, "annotate"))


@pytest.fixture(scope="session")
def reported(annotated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small pipeline, run to the report. Dry runs only; copy it to change anything."""

    def make(folder: Path) -> None:
        shutil.copytree(annotated, folder, symlinks=True, dirs_exist_ok=True)
        harness.finished(folder)

    return made_once(tmp_path_factory, "reported", make)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., ChatServer]]:
    """Start servers with chaos flags; each is stopped by its process id at the end."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*flags: str, batches: bool = False) -> ChatServer:
        home = tmp_path / f"server{len(running)}"
        home.mkdir()
        program = Path(__file__).with_name("batch_server.py" if batches else "chat_server.py")
        command = [
            sys.executable,
            str(program),
            "--port-file",
            str(home / "port"),
            "--log",
            str(home / "log"),
        ]
        running.append(subprocess.Popen([*command, *flags]))
        wait_until((home / "port").exists, "the server's port")
        return ChatServer(f"http://127.0.0.1:{(home / 'port').read_text()}/v1", home / "log")

    yield start
    for process in running:
        process.kill()
        process.wait()
