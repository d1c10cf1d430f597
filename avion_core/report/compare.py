"""Comparison of two runs in one evaluation: is the difference clear, or may it be chance?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from avion_core.evaluate.bootstrap import LEVEL, paired_differences
from avion_core.report.results import EvaluationResult


@dataclass(frozen=True)
class Gap:
    """How much higher one run's figure is than another's, in percentage points."""

    points: float
    low: float | None = None
    high: float | None = None
    """None if the results have no scores or were measured on different clips."""
    clear: bool | None = None
    """Whether other clips are unlikely to change the sign; None if unknown."""
    clips: int = 0
    """Clips on which the two differ."""

    def __str__(self) -> str:
        """`+4.4 points (95 % interval −0.4 to +9.1)`."""
        if self.low is None or self.high is None:
            return f"{_signed(self.points)} points (not tested: no scores of the same clips)"
        interval = f"{LEVEL} % interval {_signed(self.low)} to {_signed(self.high)}"
        few = (self.low > 0 or self.high < 0) and not self.clear
        return f"{_signed(self.points)} points ({interval}{f', from {self.clips} clips' if few else ''})"

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
    found = _gaps(ours, theirs).get(figure)
    return found or Gap(ours.figures[figure] - theirs.figures[figure])


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


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")
