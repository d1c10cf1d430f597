"""How much figures depend on the clips: bootstrap intervals, and differences between two models.

A figure is a mean of scores, one per query: a clip to classify, a question, a clip or a sentence to search
by. Scores are computed once; clips are then resampled with replacement many times (Efron and Tibshirani
1993, chapters 13 and 16). Clips of one video are alike, so videos are resampled as well, and the wider of
the two intervals counts: with few videos it is far wider. Draws are seeded and the same for all models on
the same queries, which makes their differences paired. A share near 0 or 1 of few clips hardly varies
between draws, so the interval of a share is never narrower than Wilson's.

Shapes: Q queries, R draws, F figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

DRAWS = 1000
LEVEL = 95
"""Per cent of the draws that lie in an interval."""
SEED = 0
LEAST_CLIPS = 6
"""Clips that must differ between two models for a clear difference: if all favour one model, a two-sided sign
test gives p = 1/16 for five clips and 1/32 for six."""
Z = 1.959964
"""Normal quantile of LEVEL."""
DIRECTIONS = ("video_to_text", "text_to_video")
"""Directions whose mean is also a figure."""

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Scores:
    """The scores whose means are an evaluation's figures, for all queries of its tables."""

    clips: Integers
    """Clip of each query, Q; queries of one clip are resampled together."""
    videos: Integers
    """The clip's video as a number, Q."""
    scores: Mapping[str, Floats]
    """Score of each query by figure, Q, in the figure's unit; NaN where it does not count, because nothing is
    relevant or the clip cannot be read."""
    classes: Mapping[str, Integers]
    """Class of each query, Q, for figures that average the classes' means."""
    top: float = 100.0
    """Highest possible score; the lowest is 0."""
    tops: Mapping[str, float] = field(default_factory=dict)
    """The same by figure, where it is another one."""

    @property
    def figures(self) -> list[str]:
        """Names of the figures."""
        return [*self.scores, *self.two_sided]

    def values(self) -> dict[str, float]:
        """The figures. NaN where no query counts."""
        return dict(zip(self.figures, self._means(np.ones(len(self.clips))), strict=True))

    def counts(self) -> dict[str, int]:
        """Number of values that each figure averages: queries that count, or classes that occur."""
        found = {}
        for name, counted_Q in zip(self.scores, self._counted, strict=True):
            classes_Q = self.classes.get(name)
            found[name] = int(
                counted_Q.sum() if classes_Q is None else len(np.unique(classes_Q[counted_Q > 0]))
            )
        return found | {mean: found[one] + found[other] for mean, (one, other) in self.two_sided.items()}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Interval of each figure."""
        values = np.array(list(self.values().values()))
        low_F, high_F = _widest([(values, values), self._wilson(), *map(_central, self.draws())])
        return {
            name: (float(low), float(high))
            for name, low, high in zip(self.figures, low_F, high_F, strict=True)
        }

    def draws(self) -> list[Floats]:
        """The figures of resampled clips, R,F, and of resampled videos if there are several."""
        some = self._counting()
        videos, clips = len(np.unique(some.videos)), len(np.unique(some.clips))
        units = [some.clips, some.videos] if 1 < videos < clips else [some.clips]
        return [some._redrawn(unit_Q) for unit_Q in units]

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """As named arrays for a file."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "clip_Q": self.clips,
            "video_Q": self.videos,
            "top": np.array([self.top]),
        }
        arrays |= {f"tops.{name}": np.array([top]) for name, top in self.tops.items()}
        arrays |= {f"scores.{name}": score_Q.astype(np.float32) for name, score_Q in self.scores.items()}
        return arrays | {f"classes.{name}": class_Q for name, class_Q in self.classes.items()}

    def _counting(self) -> Scores:
        """The queries that count for at least one figure."""
        some_Q = self._counted.any(0)
        return Scores(
            self.clips[some_Q],
            self.videos[some_Q],
            {name: score_Q[some_Q] for name, score_Q in self.scores.items()},
            {name: class_Q[some_Q] for name, class_Q in self.classes.items()},
            self.top,
            self.tops,
        )

    def top_of(self, figure: str) -> float:
        """Highest possible score of a figure."""
        return self.tops.get(figure, self.top)

    def _redrawn(self, unit_Q: Integers) -> Floats:
        units, number_Q = np.unique(unit_Q, return_inverse=True)
        rng = np.random.default_rng(SEED)
        found_RF = np.empty((DRAWS, len(self.figures)))
        for draw in range(DRAWS):
            drawn = np.bincount(rng.integers(len(units), size=len(units)), minlength=len(units))
            found_RF[draw] = self._means(drawn[number_Q].astype(np.float64))
        return found_RF

    def _means(self, weight_Q: Floats) -> list[float]:
        """The figures with each query weighted."""
        with np.errstate(invalid="ignore", divide="ignore"):
            plain_F = (self._values @ weight_Q) / (self._counted @ weight_Q)
        found = dict(zip(self.scores, plain_F.tolist(), strict=True))
        for name, class_Q in self._class_numbers.items():
            place = list(self.scores).index(name)
            weights_K = np.bincount(class_Q, weight_Q * self._counted[place])
            sums_K = np.bincount(class_Q, weight_Q * self._values[place])
            occurs_K = weights_K > 0
            found[name] = float(np.mean(sums_K[occurs_K] / weights_K[occurs_K])) if occurs_K.any() else np.nan
        means = [(found[one] + found[other]) / 2 for one, other in self.two_sided.values()]
        return [*found.values(), *means]

    def _wilson(self) -> tuple[Floats, Floats]:
        """Wilson's interval (1927) of each figure whose scores are all 0 or `top`, NaN for the others.

        A mean over classes gets Kish's effective sample size, which is smaller than its number of clips.
        """
        bounds = {}
        for name, score_Q in self.scores.items():
            counted_Q = ~np.isnan(score_Q)
            class_Q = self.classes.get(name, np.zeros(len(score_Q), int))[counted_Q]
            clips_K = np.unique(class_Q, return_counts=True)[1]
            bounds[name] = np.full(2, np.nan)
            top = self.top_of(name)
            if len(clips_K) and np.isin(score_Q[counted_Q], (0, top)).all():
                share = self.values()[name] / top
                bounds[name] = top * _wilson(share, len(clips_K) ** 2 / (1 / clips_K).sum())
        bounds |= {mean: (bounds[one] + bounds[other]) / 2 for mean, (one, other) in self.two_sided.items()}
        low_F, high_F = np.array(list(bounds.values())).T
        return low_F, high_F

    @cached_property
    def two_sided(self) -> dict[str, tuple[str, str]]:
        """Figures that are the mean of two others, with those two."""
        names = [name.removesuffix(f".{DIRECTIONS[0]}") for name in self.scores if DIRECTIONS[0] in name]
        return {f"{name}.mean": (f"{name}.{DIRECTIONS[0]}", f"{name}.{DIRECTIONS[1]}") for name in names}

    @cached_property
    def _counted(self) -> Floats:
        """1 where a query counts for a figure, else 0: F,Q."""
        return np.array([~np.isnan(score_Q) for score_Q in self.scores.values()], np.float64)

    @cached_property
    def _values(self) -> Floats:
        """The scores with 0 where a query does not count, F,Q."""
        return np.nan_to_num(np.array(list(self.scores.values()), np.float64))

    @cached_property
    def _class_numbers(self) -> dict[str, Integers]:
        return {name: np.unique(class_Q, return_inverse=True)[1] for name, class_Q in self.classes.items()}


def load_scores(path: Path) -> Scores | None:
    """Load the scores written by `to_arrays` from a safetensors file; None if it has none."""
    parts: dict[str, dict[str, npt.NDArray[Any]]] = {"scores": {}, "classes": {}, "tops": {}}
    with safe_open(path, framework="numpy") as file:
        if not {"clip_Q", "video_Q", "top"} <= set(file.keys()):
            return None
        for name in file.keys():  # noqa: SIM118
            part, _, figure = name.partition(".")
            if part in parts:
                parts[part][figure] = file.get_tensor(name)
        top = float(file.get_tensor("top")[0])
        tops = {name: float(value[0]) for name, value in parts.pop("tops").items()}
        return Scores(file.get_tensor("clip_Q"), file.get_tensor("video_Q"), **parts, top=top, tops=tops)


@dataclass(frozen=True)
class Difference:
    """How much higher one model's figure is than another's, on the queries measured for both."""

    value: float
    low: float
    high: float
    clips: int
    """Clips on which the two differ."""

    @property
    def clear(self) -> bool:
        """Whether other clips are unlikely to change the sign."""
        return self.clips >= LEAST_CLIPS and (self.low > 0 or self.high < 0)


def paired_differences(ours: Scores, theirs: Scores) -> dict[str, Difference]:
    """Ours minus theirs, by figure. Raises ValueError when they were measured on different queries."""
    if not (np.array_equal(ours.clips, theirs.clips) and np.array_equal(ours.videos, theirs.videos)):
        raise ValueError("the two were measured on different clips")
    ours, theirs = _common(ours, theirs), _common(theirs, ours)
    values_F = np.array(list(ours.values().values())) - np.array(list(theirs.values().values()))
    pairs = zip(ours.draws(), theirs.draws(), strict=True)
    drawn = [_central(ours_RF - theirs_RF) for ours_RF, theirs_RF in pairs]
    low_F, high_F = _widest([(values_F, values_F), _unanimous(ours, theirs), *drawn])
    clips = _clips_that_differ(ours, theirs)
    return {
        name: Difference(float(value), float(low), float(high), clips[name])
        for name, value, low, high in zip(ours.figures, values_F, low_F, high_F, strict=True)
    }


def _common(scores: Scores, other: Scores) -> Scores:
    """`scores` limited to the figures and queries that count in both."""
    both = {
        name: np.where(np.isnan(other.scores[name]), np.nan, score_Q)
        for name, score_Q in scores.scores.items()
        if name in other.scores
    }
    return replace(
        scores, scores=both, classes={name: cls for name, cls in scores.classes.items() if name in both}
    )


def _clips_that_differ(ours: Scores, theirs: Scores) -> dict[str, int]:
    differ = {
        name: np.unique(ours.clips[(score_Q != theirs.scores[name]) & ~np.isnan(score_Q)])
        for name, score_Q in ours.scores.items()
    }
    differ |= {mean: np.union1d(differ[one], differ[other]) for mean, (one, other) in ours.two_sided.items()}
    return {name: len(clips) for name, clips in differ.items()}


def _unanimous(ours: Scores, theirs: Scores) -> tuple[Floats, Floats]:
    """Bounds of a difference of shares that is the same on every clip, NaN for other figures.

    No draw changes it, but unseen clips could: as many as Wilson's interval allows for a share of 0.
    """
    bounds = {}
    for name, score_Q in ours.scores.items():
        apart_Q = (score_Q - theirs.scores[name])[~np.isnan(score_Q)]
        bounds[name], top = np.full(2, np.nan), ours.top_of(name)
        if len(set(apart_Q)) == 1 and all(
            np.isin(one.scores[name][~np.isnan(score_Q)], (0, top)).all() for one in (ours, theirs)
        ):
            step = 1 if apart_Q[0] == 0 else 2  # one model alone, or both the other way round
            other = step * top * _wilson(0.0, len(apart_Q))[1]
            bounds[name] = np.clip([apart_Q[0] - other, apart_Q[0] + other], -top, top)
    bounds |= {mean: (bounds[one] + bounds[other]) / 2 for mean, (one, other) in ours.two_sided.items()}
    low_F, high_F = np.array(list(bounds.values())).T
    return low_F, high_F


def _wilson(share: float, clips: float) -> Floats:
    """Wilson's interval of a share among this many clips."""
    middle = share + Z**2 / (2 * clips)
    half = Z * np.sqrt(share * (1 - share) / clips + (Z / (2 * clips)) ** 2)
    return np.clip(np.array([middle - half, middle + half]) / (1 + Z**2 / clips), 0, 1)


def _widest(bounds: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """The lowest low and the highest high of each figure, ignoring NaN."""
    lows, highs = zip(*bounds, strict=True)
    return np.fmin.reduce(lows), np.fmax.reduce(highs)


def _central(found_RF: Floats) -> tuple[Floats, Floats]:
    """Bounds of the central LEVEL per cent of the draws of each figure."""
    tail = (100 - LEVEL) / 2
    low_F, high_F = _percentiles(found_RF, (tail, 100 - tail))
    return low_F, high_F


def _percentiles(found_RF: Floats, at: tuple[float, float]) -> Iterator[Floats]:
    """Percentiles of each column ignoring NaN; NaN for a column of NaN only."""
    some_F = ~np.isnan(found_RF).all(0)
    for level in at:
        result_F = np.full(found_RF.shape[1], np.nan)
        result_F[some_F] = np.nanpercentile(found_RF[:, some_F], level, axis=0)
        yield result_F
