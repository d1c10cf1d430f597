"""A plug-in's task and losses, from the configuration to the report."""

import json
import shutil
from pathlib import Path

from harness import ROOT, copy_workspace, finished

PLUGIN = ROOT / "tests/unit/train/plugin"
COMMON = {"model": "toy_dual_encoder", "epochs": 1, "batch_size": 4}
OVERLAY = {
    "plugins": ["stub_tasks"],
    "stages": {
        "agree": {"task": "agreement", "dataset": "ego4d", "strength": 0.5, **COMMON},
        "contrast": {"task": "contrastive", "dataset": "ego4d", "loss": "weighted", **COMMON},
        "rank": {"task": "relevancy", "dataset": "ek100", "loss": "scaled", **COMMON},
    },
    "evaluations": {"agree_mir": {"kind": "retrieval", "dataset": "ek100", "stage": "rank"}},
    "runs": {
        "plugged": {
            "title": "Of a plug-in",
            "stages": {"agree": {}, "contrast": {"start": "agree"}, "rank": {"start": "contrast"}},
            "evaluations": ["agree_mir"],
        }
    },
    "selected_runs": ["plugged"],
}

OBJECTIVES = ["agreement", "contrastive (InfoNCE, weighted)", "retrieval (scaled)"]
"""Of the stages, as the report names them."""


def test_a_plug_in_runs_from_the_configuration_to_the_report(annotated: Path, tmp_path: Path) -> None:
    workspace = copy_workspace(annotated, tmp_path / "workspace")
    for module in PLUGIN.glob("*.py"):
        shutil.copy2(module, workspace)
    finished(workspace, overlay=OVERLAY)
    run = workspace / "results/plugged"
    tasks = [json.loads((run / stage / "model.json").read_text())["task"] for stage in OVERLAY["stages"]]
    assert tasks == ["agreement", "contrastive", "relevancy"]
    figures = json.loads((workspace / "results/report/metrics.json").read_text())["runs"]
    assert 0 < figures["plugged"]["agree_mir"]["mAP"]["mean"] <= 1
    page = (workspace / "results/report/index.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in OBJECTIVES)
