"""Figures that are no shares, such as CIDEr, which reaches 10 (times 100 in the report), and no multiples."""

from __future__ import annotations

from pathlib import Path

import pytest

from avion_core.report import formats
from avion_core.report.findings import tiles
from avion_core.report.plan import PlannedEvaluation
from avion_core.report.results import EvaluationResult, Results
from avion_core.report.tables import results_table


@pytest.fixture
def captions() -> EvaluationResult:
    metrics = {"cider": 2.5, "rouge_l": 0.4, "likelihood": 0.1, "chance": {"cider": 0.5}, "bad_clips": []}
    planned = PlannedEvaluation(folder=Path("x"), kind="captions", dataset="d", stage="s", files={})
    return EvaluationResult("r", "Run", "captions", planned, "ego4d", 0, metrics, {}, ())


def test_cider_is_no_share_and_its_bar_ends_at_a_thousand(captions: EvaluationResult) -> None:
    table = results_table([captions])
    cells = table.rows[0].cells
    assert (cells[1].text, cells[1].bar) == ("250.0", 0.25)
    assert (cells[2].text, cells[2].bar) == ("40.0", None)
    assert table.note.startswith("Per cent (CIDEr of 1,000).")
    (tile,) = tiles(Results((), (captions,), ()))
    assert tile.value == "250.0" and tile.detail == "chance 50.0"


@pytest.mark.parametrize(
    ("base", "said"),
    [(8.1, "2.9× chance (8.1)"), (0.0, "against 0.0 for chance"), (0.04, "against 0.0 for chance")],
)
def test_a_figure_is_no_multiple_of_one_that_reads_as_nothing(base: float, said: str) -> None:
    assert formats.times(23.5, base, "chance") == said
