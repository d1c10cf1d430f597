"""Runs the real workflow in a folder of its own, as a user would from a shell."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from tests.support.warm_python import WarmPython, wait_for_forks_in

ROOT = Path(__file__).parents[2]
SMALL = ROOT / "tests/workflow/small.yaml"
SNAKEMAKE = str(Path(sys.executable).parent / "snakemake")
PYTHON = WarmPython()


def environment() -> dict[str, str]:
    """The shell of a user with the virtual environment and nothing else of ours."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OPENAI_API_KEY")}
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1"}


def command(
    folder: Path, *arguments: str, overlay: dict[str, Any] | None = None, code: Path = ROOT
) -> list[str]:
    """`snakemake` over `folder` with the small configuration and an overlay on top."""
    configs = [str(SMALL)]
    if overlay:
        # A name of its own: two workers may plan over one folder at the same time.
        path = folder / f"overlay-{uuid4().hex}.yaml"
        path.write_text(yaml.safe_dump(overlay))
        configs.append(str(path))
    snakemake = [SNAKEMAKE, "--snakefile", str(code / "Snakefile")]
    snakemake += ["--directory", str(folder), "--cores", "2"]
    return [*snakemake, "--configfile", *configs, "--", *arguments]


def snakemake(
    folder: Path,
    *arguments: str,
    overlay: dict[str, Any] | None = None,
    options: tuple[str, ...] = (),
    code: Path = ROOT,
    **extra: str,
) -> subprocess.CompletedProcess[str]:
    """Run to the end, `warm`.

    Stdout and stderr come back together. `extra` joins the environment. `kill_when` starts as a shell does.
    """
    line = command(folder, *arguments, overlay=overlay, code=code)
    return warm([line[0], *options, *line[1:]], environment() | extra)


def warm(line: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command of Python's to the end, from packages imported before; so do a Snakemake's jobs."""
    return subprocess.run(
        [str(PYTHON.path), *line],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def finished(folder: Path, *arguments: str, **keywords: Any) -> str:
    """Run to the end and insist that it went well."""
    result = snakemake(folder, *arguments, **keywords)
    assert result.returncode == 0, result.stdout[-6000:]
    return result.stdout


def planned_jobs(folder: Path, *arguments: str, overlay: dict[str, Any] | None = None) -> dict[str, int]:
    """Rules and their number of jobs that a dry run would start."""
    result = snakemake(folder, *arguments, overlay=overlay, options=("--dry-run",))
    assert result.returncode == 0, result.stdout[-6000:]
    table = re.search(r"^job +count\n-+ +-+\n(.*?)^total", result.stdout, re.MULTILINE | re.DOTALL)
    if table is None:
        assert "Nothing to be done" in result.stdout, result.stdout[-6000:]
        return {}
    return {name: int(count) for name, count in (line.split() for line in table.group(1).splitlines())}


def planned_files(folder: Path, *arguments: str, **keywords: Any) -> str:
    """What a dry run prints of the jobs it would start."""
    return snakemake(folder, *arguments, options=("--dry-run",), **keywords).stdout


def kill_when(
    folder: Path,
    *arguments: str,
    reached: Callable[[], bool],
    overlay: dict[str, Any] | None = None,
    number: int = signal.SIGKILL,
    times: int = 1,
    alone: bool = False,
    **extra: str,
) -> None:
    """Start the workflow, signal it as soon as `reached()` holds, and wait for its end.

    All its jobs are signalled too, unless Snakemake `alone` is, which then starts as a shell's does.
    """
    python = [] if alone else [str(PYTHON.path)]
    with (folder / "killed.log").open("w") as log:
        process = subprocess.Popen(
            [*python, *command(folder, *arguments, overlay=overlay)],
            env=environment() | extra,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while not reached():
            ended = process.poll()
            assert ended is None, (folder / "killed.log").read_text()[-6000:]
            time.sleep(0.02)
        for _ in range(times):
            (os.kill if alone else os.killpg)(process.pid, number)
            time.sleep(0.1)
        process.wait()
    wait_for_forks_in(folder)


def copy_workspace(source: Path, target: Path) -> Path:
    """A second workspace in the same state, Snakemake's records included."""
    shutil.copytree(source, target, symlinks=True)
    return target


PRICES = {"usd_per_million_input_tokens": 0.15, "usd_per_million_output_tokens": 0.60}
"""Settings for a test server's model, which has no list price."""


@dataclass
class ChatServer:
    """A running server process and what it was asked."""

    url: str
    log: Path

    def requests(self) -> list[dict[str, Any]]:
        """Every request so far; a last line that is just being written is left out."""
        return [line for line in self._lines() if "event" not in line]

    def events(self, name: str) -> list[dict[str, Any]]:
        """What a server of batches noted under this name."""
        return [line for line in self._lines() if line.get("event") == name]

    def _lines(self) -> list[dict[str, Any]]:
        whole = self.log.read_text().rpartition("\n")[0] if self.log.exists() else ""
        return [json.loads(line) for line in whole.splitlines()]

    def asked(self, behaviour: str = "ok") -> list[str]:
        """Narrations of the requests that were treated so, in their order."""
        return [text for line in self.requests() if line["behaviour"] == behaviour for text in line["texts"]]


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.01)
