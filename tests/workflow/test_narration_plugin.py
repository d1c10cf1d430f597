"""A narration provider from outside the package, from the configuration to the report."""

from __future__ import annotations

import harness

from avion_core.data.clips import ClipTable
from tests.unit.test_narration_plugin import MODULE

NARRATE = {"provider": "echo", "echo": {"word": "once more"}}
OVERLAY = {"plugins": ["echo"], "narrate": NARRATE, "selected_runs": ["llm"]}


def test_a_plug_in_narrates_and_is_in_the_report(annotated, tmp_path):
    folder = harness.copy_workspace(annotated, tmp_path / "workspace")
    (folder / "echo.py").write_text(MODULE)
    empty = {**OVERLAY, "narrate": {"provider": "echo", "echo": {"word": ""}}}
    refused = harness.snakemake(folder, "narrate", overlay=empty)
    assert refused.returncode != 0 and "narrate.echo.word is empty" in refused.stdout
    assert harness.planned_jobs(folder, "narrate", overlay=OVERLAY)["rephrase_narrations"] == 2
    harness.finished(folder, overlay=OVERLAY)
    texts = ClipTable.load(folder / "data/ego4d/narrations/echo/train.arrow").texts(0)
    assert texts[1] == f"{texts[0]} once more"
    page = (folder / "results/report/index.html").read_text()
    assert "provider echo" in page and f"{texts[0]} once more"[-9:] in page
    assert harness.planned_jobs(folder, overlay=OVERLAY) == {}
