"""Which differences between runs are beyond chance: every pair of an evaluation's runs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from avion_core.evaluate.bootstrap import LEVEL
from avion_core.report.compare import Gap, gap, signed
from avion_core.report.results import EvaluationResult
from avion_core.report.tables import Cell, Group, Row, Table

NOTE = (
    f"Percentage points, with {LEVEL} % intervals; beyond chance: the interval excludes 0. Runs with the "
    "same seeds are compared seed by seed (paired t), others as independent samples (Welch). This covers the "
    "seed and not the clips. Each is tested by itself: of 20 differences between equal models, one is beyond "
    "chance."
)


def differences_table(results: Sequence[EvaluationResult]) -> Table | None:
    """The later run minus the earlier one, for each pair; None if no run has several seeds."""
    if not any(result.seeds for result in results):
        return None
    names = _names(results)
    rows = [
        _row(ours, theirs, names)
        for theirs, ours in itertools.combinations(results, 2)
        if not (ours.untrained and theirs.untrained)
    ]
    if not rows:
        return None
    columns = ("run", *(results[0].kind.columns[name] for name in names), "over")
    numbers = frozenset(range(1, len(names) + 1))
    return Table("Differences between runs", columns, (Group(tuple(rows)),), numbers, NOTE)


def _names(results: Sequence[EvaluationResult]) -> list[str]:
    """Figures to compare: only the headlines if they are the means of the others."""
    kind = results[0].kind
    names = kind.headlines if kind.headline_is_mean else kind.columns
    return [name for name in names if any(name in result.figures for result in results)]


def _row(ours: EvaluationResult, theirs: EvaluationResult, names: Sequence[str]) -> Row:
    gaps = {
        name: gap(ours, theirs, name) for name in names if name in ours.figures and name in theirs.figures
    }
    cells = [_cell(gaps[name]) if name in gaps else Cell("–") for name in names]
    over = dict.fromkeys(
        found.over or "clips, one seed each" for found in gaps.values() if found.low is not None
    )
    heading = Cell(ours.run_title, f"against “{theirs.run_title}”")
    return Row((heading, *cells, Cell(", ".join(over) or "–")), reference=theirs.untrained)


def _cell(found: Gap) -> Cell:
    if found.low is None or found.high is None:
        return Cell(signed(found.points), f"not tested: {found.untested}")
    verdict = "beyond chance" if found.clear else "not beyond chance"
    bounds = f"{signed(found.low)} to {signed(found.high)}"
    return Cell(signed(found.points), f"{bounds}: {verdict}", best=bool(found.clear))
