"""An evaluation that is averaged with another run's waits for it, and is repeated when that one is."""

from __future__ import annotations

import json
from typing import Any

import harness

OVERLAY: dict[str, Any] = {
    "selected_runs": ["human"],
    "evaluations": {
        "together": {
            **{"kind": "retrieval", "dataset": "ek100", "stage": "pretrain", "frames": 4},
            **{"mirror": True, "dual_softmax": True},
            "ensemble": [{"run": "untrained", "evaluation": "zero_shot_mir"}],
        }
    },
    "runs": {"human": {"evaluations": ["together"]}},
}
TARGET = "results/human/together/metrics.json"


def test_the_member_is_measured_first_although_its_run_is_not_selected(annotated, tmp_path):
    folder = harness.copy_workspace(annotated, tmp_path / "workspace")
    assert harness.planned_jobs(folder, TARGET, overlay=OVERLAY)["evaluate_stage"] == 2
    harness.finished(folder, TARGET, overlay=OVERLAY)
    member = folder / "results/untrained/zero_shot_mir/outputs.safetensors"
    recorded = json.loads((folder / TARGET).with_name("manifest.json").read_text())
    assert recorded["inputs"]["ensemble_1"]["path"] == str(member.relative_to(folder))
    assert json.loads((folder / TARGET).read_text())["dual_softmax"] is True
    assert harness.planned_jobs(folder, TARGET, overlay=OVERLAY) == {}
    changed = {**OVERLAY["evaluations"], "zero_shot_mir": {"frames": 2}}
    again = harness.planned_jobs(folder, TARGET, overlay={**OVERLAY, "evaluations": changed})
    assert again["evaluate_stage"] == 2
