"""A workspace of the version before: what it has on record makes nothing anew."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import copy_workspace, planned_jobs

from avion_core.files import read_json, write_json
from tests.support.earlier import earlier_recipe


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a file of JSON in place, without making it newer."""
    content, times = read_json(path), path.stat()
    change(content)
    write_json(path, content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def as_recorded_before(record: dict[str, Any]) -> None:
    """Snakemake's record of an output: the rule's command, and a stage's recipe with all tasks' settings."""
    record["code"] = "python -m workflow_scripts.of_the_version_before"
    for place, param in enumerate(record["params"]):
        value = ast.literal_eval(param)
        if isinstance(value, str) and value.startswith('{"task"'):
            record["params"][place] = repr(json.dumps(earlier_recipe(json.loads(value))))


def as_written_before(manifest: dict[str, Any]) -> None:
    """A training's manifest."""
    manifest["settings"]["stage"] = earlier_recipe(manifest["settings"]["stage"])


def test_a_workspace_of_the_version_before_plans_nothing(reported: Path, tmp_path: Path) -> None:
    workspace = copy_workspace(reported, tmp_path / "workspace")
    for path in (workspace / ".snakemake/metadata").iterdir():
        rewrite(path, as_recorded_before)
    trained = [path.with_name("manifest.json") for path in workspace.glob("results/*/*/model.json")]
    for path in trained:
        rewrite(path, as_written_before)
    assert trained
    assert planned_jobs(workspace, "finetune") == {}
    overlay = {"stages": {"finetune_mir": {"learning_rate": 1.0e-4}}}
    assert planned_jobs(workspace, "finetune", overlay=overlay) == {"finetune": 1, "finetune_stage": 1}


def test_another_seed_of_a_finished_run_trains_nothing_else(reported: Path) -> None:
    jobs = {"pretrain_stage": 1, "finetune_stage": 2, "evaluate_stage": 4, "build_report": 1, "all": 1}
    assert planned_jobs(reported, overlay={"runs": {"llm": {"seeds": [0, 3]}}}) == jobs
    assert planned_jobs(reported, overlay={"runs": {"llm": {"seeds": [0]}}}).keys() <= {"build_report", "all"}
