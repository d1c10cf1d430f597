"""The loop of the narrator: pretrain, train it, let it narrate clips and windows, pretrain on its texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
from harness import ROOT

from avion_core.configfile import read_config
from avion_core.data.clips import ClipTable
from avion_core.files import read_json


def loop(**filters: Any) -> dict[str, Any]:
    """The experiment, with one seed, short trainings and few texts."""
    experiment = read_config(ROOT / "configs/narrator_demo.yaml")
    experiment["selected_runs"] = ["human", "narrated"]
    experiment["narrator"] |= {"texts_per_clip": 2, "filters": filters}
    for run in experiment["runs"].values():
        del run["seeds"]
    experiment["runs"]["human"]["evaluations"] = ["captions"]
    experiment["runs"]["narrated"]["evaluations"] = ["egomcq"]
    experiment["stages"]["narrator"] |= {"epochs": 12, "batch_size": 8}
    return experiment


def test_a_narrator_is_trained_narrates_and_is_pretrained_on(annotated: Path, tmp_path: Path) -> None:
    folder = harness.copy_workspace(annotated, tmp_path / "workspace")
    harness.finished(folder, overlay=loop())
    home = folder / "data/ego4d"
    human, narrated = (
        ClipTable.load(home / name) for name in ("clips/train.arrow", "narrations/trained/train.arrow")
    )
    summary = read_json(home / "narrations/trained/summary.json")
    assert summary["windows"] > 0 and summary["texts"] == len(human) + summary["windows"]
    assert summary["written"] > len(narrated) > 0
    assert set(narrated.arrow()["source"].to_pylist()) == {"narrated"}
    stage = read_json(folder / "results/narrated/pretrain/manifest.json")["settings"]
    assert stage["clips"] == len(human) + len(narrated)
    figures = read_json(folder / "results/report/metrics.json")["runs"]
    captions = figures["human"]["captions"]
    assert captions["likelihood"] > 10 * captions["chance"]["likelihood"]
    assert figures["narrated"]["egomcq"]["questions"] > 0
    page = (folder / "results/report/index.html").read_text()
    assert "Captions of held-out clips" in page and "Texts left out" in page
    assert harness.planned_jobs(folder, overlay=loop()) == {}
    gathered = harness.planned_jobs(folder, "narrate", overlay=loop(tagged=False))
    assert set(gathered) == {"gather_narrated_clips", "narrate"}, "filters narrate nothing again"
