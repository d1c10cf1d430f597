"""The experiments of EgoVLP and LaViLa from their files to the report, with tiny models over the toy kitchen.

One pretraining and one fine-tuning of each are made, to save time.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import harness
import pytest
import yaml

VISION = {"kind": "timesformer", "width": 32, "layers": 2, "heads": 2, "patch_px": 16}
TOWERS: dict[str, dict[str, Any]] = {
    "egovlp": {
        "vision": {**VISION, "ln_pre_eps": None, "patch_bias": True, "more_frames": "zeros"},
        "text": {
            **{"kind": "distilbert", "width": 24, "layers": 2, "heads": 2, "hidden": 48, "places": 32},
            **{"context_length": 24, "vocabulary": 56, "projection": "relu_linear"},
        },
    },
    "lavila": {"vision": VISION, "text": {"width": 32, "layers": 1, "heads": 2}},
}
"""Towers of the tiny models by experiment."""
JOB = {"image_size_px": 32, "precision": "fp32", "processes": 1, "gpus": 0, "threads": 1, "loader_workers": 0}
START: dict[str, Any] = {
    "start_weights": None,
    "start_fresh": [],
    "waive_missing": [],
    "waive_unexpected": [],
}
SHORT = {
    "epochs": 1,
    "batch_size": 4,
    "warmup_epochs": 0,
    "accumulation_steps": 1,
    "validate_every_epochs": 1,
}
FRAMES = {4: 2, 16: 4}
"""Frames of a clip by those of the experiment."""
PARTS = {
    "egovlp": ["egovlp_pretrain", "egovlp_plus_mir", "egovlp_zero_shot_charades", "egovlp_plus_test"],
    "lavila": ["lavila_pretrain", "lavila_egtea", "lavila_zero_shot_egtea", "lavila_egtea_test"],
}
"""Stages and evaluations that are made."""
ROWS = {
    "egovlp": ["EgoVLPv2", "adaptive margin, and a dual softmax over the whole test set"],
    "lavila": ["the best of 10 × 3 views for each class", "Classification on EGTEA, split 1"],
}
"""Words of published rows that the report shows beside ours."""


def tiny(name: str, run: str) -> dict[str, Any]:
    """An experiment's file with toy data, tiny models and one short epoch; the rest is as in the file."""
    config = yaml.safe_load((harness.ROOT / "configs" / f"{name}.yaml").read_text())
    config |= {"shards": 2, "selected_runs": [run], "plugins": ["tiny_models"]}
    for section in ("narrate", "narrator"):
        config.pop(section, None)
    config["transcode"] = yaml.safe_load(harness.SMALL.read_text())["transcode"]  # as in the workspace
    for dataset, settings in config["datasets"].items():
        config["datasets"][dataset] = {"layout": settings["layout"], "source": "toy_kitchen"}
        if dataset not in ("ego4d", "ek100"):
            config["datasets"][dataset]["transcode"] = {"short_side_px": 48, "preset": "ultrafast"}
    for stage in config["stages"].values():
        stage |= {**JOB, **SHORT, "model": f"tiny_{name}", "frames": FRAMES[stage["frames"]]}
        if stage.get("start") is None:
            stage |= {key: value for key, value in START.items() if key in stage}
        if "narrated" in (stage.get("narrations") or ()):
            stage["narrations"] = ["human"]
    for entry in config["evaluations"].values():
        entry |= {"frames": FRAMES[entry["frames"]], "precision": "fp32", "gpus": 0, "threads": 1}
        entry |= {"clips": 2} if "clips" in entry else {}
    made, part = config["runs"][run], PARTS[name]
    stages = {stage: {} for stage in made["stages"] if stage in part}
    evaluations = [entry for entry in made["evaluations"] if entry in part]
    config["runs"] = {run: {**made, "stages": stages, "evaluations": evaluations}}
    return dict(config)


@pytest.mark.parametrize(("name", "run"), [("egovlp", "egovlp"), ("lavila", "tsf_b")])
def test_an_experiment_runs_from_its_file_to_the_published_rows(name, run, annotated: Path, tmp_path: Path):
    workspace = harness.copy_workspace(annotated, tmp_path / "workspace")
    (workspace / "architectures").mkdir()
    architecture = {"kind": "dual_encoder", "embed_dim": 16, **TOWERS[name]}
    (workspace / f"architectures/tiny_{name}.yaml").write_text(yaml.safe_dump(architecture))
    shutil.copy(Path(__file__).parent / "plugin/tiny_models.py", workspace)
    letters = [prefix + letter for letter in "abcdefghijklmnopqrstuvwxyz" for prefix in ("", "##")]
    vocabulary = workspace / "data/weights/bert-base-uncased/vocab.txt"
    vocabulary.parent.mkdir(parents=True)
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters]))
    overlay = tiny(name, run)
    harness.finished(workspace, overlay=overlay)
    assert harness.planned_jobs(workspace, overlay=overlay) == {}
    figures = json.loads((workspace / "results/report/metrics.json").read_text())["runs"][run]
    assert figures.keys() == set(overlay["runs"][run]["evaluations"])
    page = (workspace / "results/report/index.html").read_text()
    assert all(words in page for words in ROWS[name])
