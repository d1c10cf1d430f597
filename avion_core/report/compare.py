"""Comparison of two runs in one evaluation: is the difference clear, or may it be chance?

Runs with one seed are compared clip by clip: another seed could still change the sign. Means over seeds are
compared over the seeds: other clips could. A mean and a single training cannot be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from avion_core.evaluate.bootstrap import LEVEL, paired_differences
from avion_core.report.results import EvaluationResult
from avion_core.report.seeds import seed_difference


@dataclass(frozen=True)
class Gap:
    """How much higher one run's figure is than another's, in percentage points."""

    points: float
    low: float | None = None
    high: float | None = None
    """None if it cannot be tested."""
    clear: bool | None = None
    """Whether other clips (for means: other seeds) are unlikely to change the sign; None if unknown."""
    clips: int = 0
    """Clips on which the two differ."""
    over: str = ""
    """What the interval is over: `3 seeds, paired`; empty for clips."""
    untested: str = "no scores of the same clips"
    """Why it cannot be tested."""

    def __str__(self) -> str:
        """`+4.4 points (95 % interval −0.4 to +9.1)`."""
        if self.low is None or self.high is None:
            return f"{signed(self.points)} points (not tested: {self.untested})"
        over = f" over {self.over}:" if self.over else ""
        interval = f"{LEVEL} % interval{over} {signed(self.low)} to {signed(self.high)}"
        few = (self.low > 0 or self.high < 0) and not self.clear
        return f"{signed(self.points)} points ({interval}{f', from {self.clips} clips' if few else ''})"

    @property
    def above(self) -> bool:
        """Whether ours is clearly higher; if clarity is unknown, whether it is higher."""
        return self.points > 0 and self.clear is not False

    @property
    def word(self) -> str:
        """Verb between the two: `beats`, `falls behind` …"""
        if self.clear is None:
            return "against"
        if not self.clear:
            return "shows no clear difference from"
        return "beats" if self.points > 0 else "falls behind"


def gap(ours: EvaluationResult, theirs: EvaluationResult, figure: str) -> Gap:
    """Ours minus theirs."""
    if ours.seeds or theirs.seeds:
        return _seed_gap(ours, theirs, figure)
    found = _gaps(ours, theirs).get(figure)
    return found or Gap(ours.figures[figure] - theirs.figures[figure])


def _seed_gap(ours: EvaluationResult, theirs: EvaluationResult, figure: str) -> Gap:
    """Gap of means over seeds."""
    points = ours.figures[figure] - theirs.figures[figure]
    mine, other = _by_seed(ours, figure), _by_seed(theirs, figure)
    found = seed_difference(mine, other)
    if found is None:
        return Gap(points, untested="one of the two runs has a single seed")
    if not found.varies:
        clear = None if points else False
        return Gap(points, clear=clear, untested="the same with every seed")
    over = f"{len(mine)} seeds, paired" if found.paired else f"{len(mine)} and {len(other)} seeds"
    return Gap(points, found.low, found.high, clear=found.low > 0 or found.high < 0, over=over)


def _by_seed(result: EvaluationResult, figure: str) -> dict[int, float]:
    """The figure of each seed that measured it."""
    seeds = result.seeds or {result.seed: result}
    return {seed: one.figures[figure] for seed, one in seeds.items() if figure in one.figures}


@lru_cache(maxsize=512)
def _gaps(ours: EvaluationResult, theirs: EvaluationResult) -> dict[str, Gap]:
    """Gaps of all figures; empty if they cannot be compared clip by clip."""
    mine, other = ours.scores, theirs.scores
    if mine is None or other is None or ours.planned.kind != theirs.planned.kind:
        return {}
    try:
        found = paired_differences(mine, other)
    except ValueError:
        return {}
    scale = ours.kind.per_cent
    return {
        name: Gap(scale * each.value, scale * each.low, scale * each.high, each.clear, each.clips)
        for name, each in found.items()
    }


def beats_chance(result: EvaluationResult, figure: str) -> bool:
    """Whether a figure's interval, or without one the figure itself, lies above chance."""
    low, _ = result.intervals.get(figure, (result.figures[figure],) * 2)
    return low > result.chance[figure]


def signed(value: float) -> str:
    """`+4.4`, `−0.4`."""
    return f"{value:+.1f}".replace("-", "−")
