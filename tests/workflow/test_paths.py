"""Paths of the configuration may hold what a shell takes apart."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from harness import snakemake

PLAIN = {"data_dir": "a/data", "results_dir": "a/results"}
STRANGE = {"data_dir": "it's $HOME & (1)*/data", "results_dir": 'the "best" `results`; #1'}
VALIDATED = {"stages": {"pretrain": {"validate_with": "zero_shot_mir"}}}


def commands(folder: Path, paths: dict[str, str]) -> list[list[str]]:
    """The words of every planned job's command, these paths written as their settings' names."""
    folder.mkdir()
    planned = snakemake(
        folder, "all", "preflight", overlay={**paths, **VALIDATED}, options=("--dry-run", "--printshellcmds")
    )
    assert planned.returncode == 0, planned.stdout[-3000:]
    found = []
    for line in planned.stdout.splitlines():
        if line.startswith("Shell command: "):
            words = shlex.split(line.removeprefix("Shell command: "))
            for name, path in paths.items():
                words = [word.replace(json.dumps(path)[1:-1], name).replace(path, name) for word in words]
            found.append(words)
    return sorted(found)


def test_every_command_has_the_same_words_whatever_the_paths_hold(tmp_path: Path) -> None:
    expected = commands(tmp_path / "plain", PLAIN)
    assert len(expected) > 20 and any("workflow_scripts.train" in words for words in expected)
    assert commands(tmp_path / "strange", STRANGE) == expected


@pytest.mark.parametrize("path", ["da{ta}", "da\nta", ""])
def test_a_path_that_snakemake_cannot_have_is_refused(tmp_path: Path, path: str) -> None:
    result = snakemake(tmp_path, overlay={"data_dir": path}, options=("--dry-run",))
    assert result.returncode != 0 and "data_dir" in result.stdout and "Traceback" not in result.stdout
