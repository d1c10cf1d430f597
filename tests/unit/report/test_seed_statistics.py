"""Means and differences over seeds: known answers, scipy's tests, and how often equal models differ."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from avion_core.report.seeds import mean_metrics, seed_difference, spread


def test_a_spread_by_hand():
    """1, 2, 3: deviation 1, standard error 1/√3, and t(2) at 97.5 % is 4.302653 (any table)."""
    found = spread([1.0, 2.0, 3.0])
    assert (found.mean, found.deviation) == (2.0, 1.0)
    assert found.high - 2 == pytest.approx(4.302653 / math.sqrt(3)) == pytest.approx(2 - found.low)


def test_a_spread_is_scipy_s():
    values = [21.3, 25.7, 19.9, 23.0]
    found = spread(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_the_same_seeds_are_compared_pair_by_pair():
    ours, theirs = {0: 21.3, 1: 25.7, 2: 19.9}, {2: 18.0, 0: 20.0, 1: 23.9}
    found = seed_difference(ours, theirs)
    assert found is not None and found.paired and found.varies
    same_order = [theirs[seed] for seed in ours]
    expected = stats.ttest_rel(list(ours.values()), same_order).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.value == pytest.approx(np.mean(list(ours.values())) - np.mean(same_order))


def test_other_seeds_are_compared_by_welch():
    ours, theirs = {0: 21.3, 1: 25.7, 2: 19.9}, {1: 18.0, 7: 20.0, 8: 23.9, 9: 12.0}
    found = seed_difference(ours, theirs)
    assert found is not None and not found.paired
    samples = [list(side.values()) for side in (ours, theirs)]
    expected = stats.ttest_ind(*samples, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("ours", "theirs"), [({0: 1.0}, {0: 2.0, 1: 3.0}), ({0: 2.0, 1: 3.0}, {}), ({}, {})])
def test_one_seed_cannot_be_compared(ours, theirs):
    assert seed_difference(ours, theirs) is None


@pytest.mark.parametrize("seeds", [(0, 1), (2, 3)])
def test_a_difference_that_never_varies_says_so(seeds):
    found = seed_difference({0: 5.0, 1: 5.0}, dict.fromkeys(seeds, 3.0))
    assert found is not None and not found.varies and found.low == found.high == found.value == 2.0


def test_equal_models_differ_in_five_of_a_hundred_draws():
    rng = np.random.default_rng(0)
    draws, clear = 2000, {True: 0, False: 0}
    for _ in range(draws):
        for paired, seeds in ((True, (0, 1, 2)), (False, (3, 4, 5))):
            ours, theirs = (
                dict(enumerate(rng.normal(30, 2, 3))),
                dict(zip(seeds, rng.normal(30, 2, 3), strict=True)),
            )
            found = seed_difference(ours, theirs)
            clear[paired] += found is not None and (found.low > 0 or found.high < 0)
    assert 0.035 < clear[True] / draws < 0.065
    assert clear[False] / draws < 0.06, "Welch is cautious with three seeds"


def test_metrics_become_means_with_deviations():
    one = {
        "mAP": {"mean": 0.2, "mean_n": 120, "mean_interval": [0.1, 0.3], "mean_with_unreadable": 0.1},
        "top1": 40,
        "perplexity": 8.0,
        "clips": 60,
        "bad_clips": [{"video_id": "v", "reason": "gone"}],
        "chance": {"mAP": {"mean": 0.06}},
        "only_here": 1.0,
        "unknown": None,
    }
    other = {
        "mAP": {"mean": 0.4, "mean_n": 120, "mean_interval": [0.3, 0.5], "mean_with_unreadable": 0.3},
        "top1": 50,
        "perplexity": 10.0,
        "clips": 59,
        "bad_clips": [],
        "chance": {"mAP": {"mean": 0.08}},
        "unknown": 2.0,
    }
    found = mean_metrics({0: one, 3: other}, ["mAP.mean", "top1"])
    over_seeds = spread([0.2, 0.4])
    assert found["mAP"] == {
        "mean": pytest.approx(0.3),
        "mean_deviation": pytest.approx(math.sqrt(0.02)),
        "mean_interval": pytest.approx([over_seeds.low, over_seeds.high]),
        "mean_n": 120,
        "mean_with_unreadable": pytest.approx(0.2),
    }
    assert (found["top1"], found["perplexity"], found["perplexity_deviation"]) == (
        45,
        9,
        pytest.approx(2**0.5),
    )
    assert found["clips"] == 59 and found["unknown"] is None
    assert found["chance"] == {"mAP": {"mean": pytest.approx(0.07)}}
    assert "bad_clips" not in found and "only_here" not in found
    assert found["seeds"] == {"0": one, "3": other}
