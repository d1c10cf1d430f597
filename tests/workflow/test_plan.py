"""`plan` works on a fresh checkout: it needs no data, accounts or keys, and makes nothing but its log."""

from __future__ import annotations

from pathlib import Path

import harness


def files(folder: Path) -> set[str]:
    """All but Snakemake's own and the configuration's."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and ".snakemake" not in path.parts and path.suffix != ".yaml"
    }


def test_the_demo_shows_operations_and_no_hours(tmp_path):
    said = harness.finished(tmp_path, "plan", overlay={"selected_runs": ["llm"]})
    assert "llm: Human and rephrased narrations" in said
    assert "clips unknown until annotate" in said
    assert "No hours are predicted for stages on CPUs" in said
    assert files(tmp_path) == {"results/logs/plan.log"}


def test_the_papers_table_has_hours_without_any_of_its_prerequisites(tmp_path):
    line = harness.command(tmp_path, "plan")
    line[line.index("--configfile") + 1] = str(harness.ROOT / "configs/avion.yaml")
    done = harness.warm(line, harness.environment())
    assert done.returncode == 0, done.stdout
    for words in (
        "vit_b_human: ",
        "vit_b_llm: ",
        "vit_l_llm: ",
        "130 on 8×A5000",
        "680 on 8×A5000",
        "assumed 40%",
    ):
        assert words in done.stdout
    assert files(tmp_path) == {"results/logs/plan.log"}


def test_clips_are_counted_once_they_are_annotated(annotated, tmp_path):
    folder = harness.copy_workspace(annotated, tmp_path / "workspace")
    said = harness.finished(folder, "plan")
    assert "unknown" not in said
