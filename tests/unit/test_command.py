"""A program that is asked to stop ends without a word and leaves nothing half written."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WRITES_FOR_EVER = """
import sys, time
from pathlib import Path
import workflow_scripts
from avion_core.command import run
from avion_core.files import publish

def main():
    with publish(Path(sys.argv[1]) / "it.txt") as draft:
        draft.write_text("half")
        print("ready", flush=True)
        try:
            time.sleep(60)
        finally:
            time.sleep(0.3)  # takes a moment to clean up, in which a second signal comes

run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_stop_leaves_nothing_half_written(tmp_path: Path, number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES_FOR_EVER, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for _ in range(2):
        process.send_signal(number)
        time.sleep(0.1)
    assert process.communicate() == ("", "")
    assert process.returncode == -signal.SIGINT
    assert not list(tmp_path.iterdir())
