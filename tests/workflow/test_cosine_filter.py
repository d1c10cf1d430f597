"""Texts filtered by their cosine with the clip: by a stage that is trained first, measured once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness

from avion_core.data.clips import ClipTable
from avion_core.data.tables import map_table
from avion_core.files import read_json
from avion_core.narrate.cosines import COSINES
from avion_core.narrate.quality import UNLIKE_CLIP


def overlay(least: float, section: str = "narrate", **changes: Any) -> dict[str, Any]:
    cosine = {"run": "human", "stage": "pretrain", "least": least}
    return {"selected_runs": ["llm"], section: {"filters": {"cosine": cosine}, **changes}}


def test_rephrased_texts_are_filtered_by_a_trained_stage(annotated: Path, tmp_path: Path) -> None:
    folder = harness.copy_workspace(annotated, tmp_path / "workspace")
    planned = harness.planned_jobs(folder, "narrate", overlay=overlay(0.1))
    assert planned["measure_cosines"] == 2 and planned["gather_narrations"] == 1
    harness.finished(folder, "narrate", overlay=overlay(-1))
    home = folder / "data/ego4d/narrations/lexicon"
    whole = ClipTable.load(home / "train.arrow")
    measured = [
        row
        for shard in (1, 2)
        for row in map_table(home / f"cosines/{shard}-of-2.arrow", COSINES).to_pylist()
    ]
    assert [row["texts"] for row in measured] == [whole.texts(row)[1:] for row in range(len(whole))]
    cosines = sorted(cosine for row in measured for cosine in row["cosines"])
    assert len(set(cosines)) > 20 and -1 < cosines[0] < cosines[-1] < 1
    least = cosines[len(cosines) // 2]
    again = harness.planned_jobs(folder, "narrate", overlay=overlay(least))
    assert set(again) == {"gather_narrations", "narrate"}, "what is measured stays"
    harness.finished(folder, "narrate", overlay=overlay(least))
    summary, kept = read_json(home / "summary.json"), ClipTable.load(home / "train.arrow")
    assert summary["filtered"] == {UNLIKE_CLIP: len(cosines) // 2}
    assert [kept.texts(row)[1:] for row in range(len(kept))] == [
        [text for text, cosine in zip(row["texts"], row["cosines"], strict=True) if cosine >= least]
        for row in measured
    ]


def test_narrated_texts_wait_for_the_stage_that_filters_them(annotated: Path) -> None:
    narrated = overlay(0.1, "narrator", provider="trained", trained={"run": "human", "stage": "narrator"})
    experiment = harness.ROOT / "configs/narrator_demo.yaml"
    changes = harness.yaml.safe_load(experiment.read_text())
    changes |= {"selected_runs": ["narrated"], "narrator": narrated["narrator"]}
    planned = harness.planned_jobs(annotated, "narrate", overlay=changes)
    assert planned["measure_cosines"] == 2 and planned["gather_narrated_clips"] == 1


def test_a_stage_that_would_need_its_own_texts_is_one_error(annotated: Path) -> None:
    wrong = overlay(0.1)
    wrong["narrate"]["filters"]["cosine"]["run"] = "llm"
    said = harness.snakemake(annotated, "narrate", overlay=wrong, options=("--dry-run",))
    assert said.returncode != 0 and "CyclicGraph" not in said.stdout
    assert (
        "config: narrate.filters.cosine: runs.llm.stages.pretrain cannot filter rephrased texts"
        in said.stdout
    )
