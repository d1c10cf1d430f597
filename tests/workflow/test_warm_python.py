"""Snakemake and jobs that fork from warm processes say and end as those that a shell starts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import PYTHON, ROOT, command, environment, warm


def words(said: str) -> list[str]:
    """What was said but for dates and the run's id; sorted, as Snakemake prints sets in any order."""
    lines = [line for line in said.splitlines() if not re.match(r"\[|  Date: |  Workflow ID: ", line)]
    return sorted(re.split(r"[\s,{}]+", "\n".join(lines)))


@pytest.mark.parametrize(("options", "code"), [(["--dry-run"], 0), (["--no-such-option"], 2)])
def test_a_warm_start_says_what_a_cold_one_says(tmp_path: Path, options: list[str], code: int) -> None:
    line = command(tmp_path, "download")
    line[1:1] = options
    cold = subprocess.run(
        line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    quick = warm(line, environment())
    assert (quick.returncode, words(quick.stdout)) == (code, words(cold.stdout))
    assert cold.returncode == code


ESTIMATE = ["-m", "workflow_scripts.estimate"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([*ESTIMATE, "--help"], 0),
        ([*ESTIMATE, "--datasets", "{}"], 2),
        (["-c", "import os, sys; print(os.getcwd(), sys.argv, os.environ['WORD']); sys.exit(3)", "x"], 3),
    ],
)
def test_a_job_of_the_warm_python_is_one_of_the_real_one(
    tmp_path: Path, arguments: list[str], code: int
) -> None:
    shell = {**environment(), "PYTHONPATH": str(ROOT), "WORD": "ours"}
    cold, quick = (
        subprocess.run([python, *arguments], env=shell, cwd=tmp_path, capture_output=True, text=True)
        for python in (sys.executable, str(PYTHON.path))
    )
    assert (quick.returncode, quick.stdout, quick.stderr) == (code, cold.stdout, cold.stderr)
    assert cold.returncode == code and cold.stdout + cold.stderr
