"""How much figures depend on the seed: means over the trainings of a run, and differences between two runs.

Intervals are Student's t over the seeds, so they hold for figures that vary about normally. Data and measured
clips are the same for all seeds; no interval here covers those.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from avion_core.evaluate.bootstrap import LEVEL
from avion_core.evaluate.figures import is_number


@dataclass(frozen=True)
class Spread:
    """A mean over two or more seeds."""

    mean: float
    deviation: float
    """Standard deviation of one seed's figure, over n - 1."""
    low: float
    high: float
    """Interval of the mean."""


@dataclass(frozen=True)
class SeedDifference:
    """How much higher one run's mean is than another's."""

    value: float
    low: float
    high: float
    paired: bool
    """Whether seed by seed; otherwise as independent samples (Welch)."""
    varies: bool
    """Whether it differs between seeds; if not, its interval says nothing."""


def spread(values: Sequence[float]) -> Spread:
    """Mean, deviation and interval of two or more values."""
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = _quantile(len(values) - 1) * deviation / math.sqrt(len(values))
    return Spread(mean, deviation, mean - half, mean + half)


def seed_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> SeedDifference | None:
    """Ours minus theirs, each by seed; None if either has fewer than two seeds.

    The same seeds are compared pair by pair, others by Welch's test (Biometrika 1947).
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    if ours.keys() == theirs.keys():
        apart = spread([ours[seed] - theirs[seed] for seed in ours])
        return SeedDifference(apart.mean, apart.low, apart.high, paired=True, varies=apart.deviation > 0)
    one, other = spread(list(ours.values())), spread(list(theirs.values()))
    parts = [one.deviation**2 / len(ours), other.deviation**2 / len(theirs)]
    value, variance = one.mean - other.mean, sum(parts)
    if variance == 0:
        return SeedDifference(value, value, value, paired=False, varies=False)
    freedom = variance**2 / (parts[0] ** 2 / (len(ours) - 1) + parts[1] ** 2 / (len(theirs) - 1))
    half = _quantile(freedom) * math.sqrt(variance)
    return SeedDifference(value, value - half, value + half, paired=False, varies=True)


def mean_metrics(by_seed: Mapping[int, Mapping[str, Any]], figures: Collection[str]) -> dict[str, Any]:
    """`metrics.json` of one evaluation over two or more seeds.

    Each figure becomes its mean, with `<figure>_deviation` and `<figure>_interval` beside it, chance a mean.
    Whole numbers other than `figures` are counts: the lowest stands. `seeds` has each seed's metrics.
    """
    measured = list(by_seed.values())
    found = _means(measured, figures, prefix="")
    return found | {"seeds": {str(seed): dict(metrics) for seed, metrics in by_seed.items()}}


def _means(measured: Sequence[Mapping[str, Any]], figures: Collection[str], *, prefix: str) -> dict[str, Any]:
    """Means of the entries that all have."""
    found: dict[str, Any] = {}
    for name, first in measured[0].items():
        if name.endswith("_interval") or not all(name in metrics for metrics in measured):
            continue
        values = [metrics[name] for metrics in measured]
        if isinstance(first, Mapping):
            found[name] = _means(values, figures, prefix=f"{prefix}{name}.")
        elif all(value is True for value in values):
            found[name] = True  # a mark of all seeds
        elif not all(value is None or is_number(value) for value in values):
            continue  # lists of clips, which each seed's metrics have
        elif not all(value is not None and math.isfinite(value) for value in values):
            found[name] = None
        elif all(isinstance(value, int) for value in values) and prefix + name not in figures:
            found[name] = min(values)
        else:
            found |= _beside(name, spread(values), alone=prefix.startswith("chance."))
    return found


def _beside(name: str, over_seeds: Spread, *, alone: bool) -> dict[str, Any]:
    """A mean with its deviation and interval, unless it stands alone."""
    if alone or name.endswith("_with_unreadable"):
        return {name: over_seeds.mean}
    interval = [over_seeds.low, over_seeds.high]
    return {name: over_seeds.mean, f"{name}_deviation": over_seeds.deviation, f"{name}_interval": interval}


def _quantile(freedom: float) -> float:
    """Two-sided quantile of Student's t."""
    return float(stdtrit(freedom, (1 + LEVEL / 100) / 2))
