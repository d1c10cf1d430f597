"""The warm start of Snakemake that other tests plan with ends as a start from a shell does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from harness import WARM, command, environment


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
    warm = WARM.run(line[1:], environment())
    assert (warm.returncode, words(warm.stdout)) == (code, words(cold.stdout))
    assert cold.returncode == code
