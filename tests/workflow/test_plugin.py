"""Plug-ins, from the configuration to the report: tasks, losses, towers in an architecture file, a source, a
layout and a kind of evaluation."""

import json
import shutil
from pathlib import Path

from harness import ROOT, copy_workspace, finished, planned_jobs, snakemake

PLUGINS = (ROOT / "tests/unit/train/plugin", ROOT / "tests/workflow/plugin")
COMMON = {"model": "stub", "image_size_px": 64, "epochs": 1, "batch_size": 4}
OVERLAY = {
    "plugins": ["stub_tasks", "stub_towers", "stub_lists"],
    "datasets": {
        "mine": {
            "layout": "lines",
            "source": "list",
            "list": {"videos": "data/ek100/raw", "lines": "lines.txt"},
        }
    },
    "stages": {
        "agree": {"task": "agreement", "dataset": "mine", "strength": 0.5, **COMMON},
        "contrast": {"task": "contrastive", "dataset": "ego4d", "loss": "weighted", **COMMON},
        "rank": {"task": "relevancy", "dataset": "ek100", "loss": "scaled", **COMMON},
    },
    "evaluations": {
        "agree_mir": {"kind": "retrieval", "dataset": "ek100", "stage": "rank"},
        "matched": {"kind": "match", "dataset": "mine", "stage": "agree"},
    },
    "runs": {
        "plugged": {
            "title": "Of a plug-in",
            "stages": {"agree": {}, "contrast": {"start": "agree"}, "rank": {"start": "contrast"}},
            "evaluations": ["agree_mir", "matched"],
        }
    },
    "selected_runs": ["plugged"],
}

OBJECTIVES = ["agreement", "contrastive (InfoNCE, weighted)", "retrieval (scaled)"]
"""Of the stages, as the report names them."""


def _install_plugins(workspace: Path) -> None:
    for folder in PLUGINS:
        shutil.copytree(folder, workspace, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


def test_plug_ins_run_from_the_configuration_to_the_report(annotated: Path, tmp_path: Path) -> None:
    workspace = copy_workspace(annotated, tmp_path / "workspace")
    _install_plugins(workspace)
    unknown = {**OVERLAY, "plugins": ["stub_tasks", "stub_lists"]}
    assert "unknown name 'stub'" in snakemake(workspace, overlay=unknown).stdout
    stopped = snakemake(workspace, overlay=OVERLAY)
    assert stopped.returncode and "data set 'mine': lines.txt: no such file; see `lines`" in stopped.stdout
    videos = sorted((workspace / "data/ek100/raw").rglob("*.MP4"))
    lines = [f"{video.stem},{start},{start + 2},step {start}" for video in videos for start in (0, 2, 4)]
    (workspace / "lines.txt").write_text("\n".join(lines))
    finished(workspace, overlay=OVERLAY)
    assert planned_jobs(workspace, overlay=OVERLAY) == {}
    run = workspace / "results/plugged"
    models = [json.loads((run / stage / "model.json").read_text()) for stage in OVERLAY["stages"]]
    assert [model["task"] for model in models] == ["agreement", "contrastive", "relevancy"]
    for tower in ("vision", "text"):
        assert {model["config"][tower]["kind"] for model in models} == {"stub"}
    figures = json.loads((workspace / "results/report/metrics.json").read_text())["runs"]["plugged"]
    assert 0 < figures["agree_mir"]["mAP"]["mean"] <= 1
    assert figures["matched"]["clips"] == len(lines) and "own_first_interval" in figures["matched"]
    page = (workspace / "results/report/index.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in OBJECTIVES)
    assert page.count("<td>stub</td>") == len(OVERLAY["stages"])
    assert "Matching of clips with their sentences" in page and "own sentence first" in page


def test_an_evaluation_of_a_plug_in_is_refused_where_its_layout_or_task_does_not_fit(tmp_path: Path) -> None:
    _install_plugins(tmp_path)
    evaluations = {"matched": {"kind": "match", "dataset": "ek100", "stage": "agree"}}
    overlay = OVERLAY | {"evaluations": OVERLAY["evaluations"] | evaluations}
    stopped = snakemake(tmp_path, overlay=overlay)
    assert "evaluations.matched: match cannot be measured on the data set 'ek100'" in stopped.stdout
    evaluations = {"matched": {"kind": "mach", "dataset": "mine", "stage": "agree"}}
    overlay = OVERLAY | {"evaluations": OVERLAY["evaluations"] | evaluations}
    stopped = snakemake(tmp_path, overlay=overlay)
    assert "unknown kind of evaluation 'mach'; did you mean 'match'?" in stopped.stdout
