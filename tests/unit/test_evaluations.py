"""Records of the kinds of evaluation: complete, and in step with tasks, layouts and published rows."""

from __future__ import annotations

import pytest

from avion_core.config import STAGE_TASKS
from avion_core.evaluations import EVALUATIONS
from avion_core.layouts import LAYOUTS
from avion_core.models.architecture import MODELS
from avion_core.registry import load, source_file
from avion_core.report.published import PUBLISHED


@pytest.mark.parametrize("name", EVALUATIONS)
def test_every_figure_has_a_column_and_every_headline_is_a_figure(name: str) -> None:
    kind = EVALUATIONS[name]
    figures = {figure for group in kind.figures.values() for figure in group}
    assert set(kind.columns) == figures
    assert set(kind.headlines) <= figures and kind.optional <= figures
    assert "" in kind.titles and "" in kind.figures
    assert all(kind.required(label) for label in kind.figures)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_a_kind_has_an_evaluator_models_and_data(name: str) -> None:
    kind = EVALUATIONS[name]
    assert callable(load(kind.evaluator))
    assert source_file(kind.evaluator).name == f"{name}_evaluator.py"
    assert kind.needs in {model.output for model in MODELS.values()}
    assert kind.needs in {task.trains for task in STAGE_TASKS.values()}
    assert any(name in layout.evaluations for layout in LAYOUTS.values())


def test_published_rows_have_columns_of_their_kind() -> None:
    for table in PUBLISHED:
        assert set(table.variants) <= set(EVALUATIONS[table.kind].titles)
        assert set(table.figures) <= set(EVALUATIONS[table.kind].columns)
        assert table.kind in LAYOUTS[table.layout].evaluations
    assert {kind for layout in LAYOUTS.values() for kind in layout.evaluations} <= set(EVALUATIONS)
