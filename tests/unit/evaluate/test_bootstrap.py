"""Intervals and paired differences: known answers, coverage, and the same draws for all models."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from avion_core.evaluate.bootstrap import Scores, load_scores, paired_differences


def scores(right, videos=None, classes=None, name="top1"):
    """One figure in per cent over clips; `right` 0 or 1, NaN where the clip does not count."""
    right = np.asarray(right, float)
    clips = np.arange(len(right))
    videos = clips if videos is None else np.asarray(videos)
    by_class = {} if classes is None else {f"class_mean_{name}": np.asarray(classes)}
    figures = {name: 100 * right} | dict.fromkeys(by_class, 100 * right)
    return Scores(clips, videos, figures, by_class)


def test_a_figure_is_the_mean_of_what_counts_and_a_class_mean_that_of_the_classes_that_occur():
    found = scores([1, 0, 1, 1, np.nan, np.nan], classes=[7, 7, 7, 2, 2, 9])
    assert found.values() == pytest.approx({"top1": 75, "class_mean_top1": (200 / 3 + 100) / 2})
    assert found.counts() == {"top1": 4, "class_mean_top1": 2}


def test_the_interval_is_that_of_the_binomial_where_clips_are_independent():
    rng = np.random.default_rng(1)
    right = rng.permutation(np.arange(400) < 120)
    low, high = scores(right).intervals()["top1"]
    spread = 1.96 * np.sqrt(0.3 * 0.7 / 400) * 100
    assert low == pytest.approx(30 - spread, abs=0.6) and high == pytest.approx(30 + spread, abs=0.6)


def test_clips_of_one_video_that_stand_and_fall_together_widen_the_interval():
    right = np.repeat(np.arange(8) % 2, 50)
    apart = np.diff(scores(right).intervals()["top1"])
    together = np.diff(scores(right, videos=np.repeat(np.arange(8), 50)).intervals()["top1"])
    assert together > 5 * apart


def test_two_videos_that_happen_to_agree_are_not_certain():
    """Drawn by video alone, every draw would be 50."""
    low, high = scores([0, 1] * 20, videos=np.repeat([0, 1], 20)).intervals()["top1"]
    assert low < 40 and high > 60


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(60):
        level = np.repeat(rng.normal(0.5, 0.15, 40).clip(0, 1), 10)
        low, high = scores(rng.random(400) < level, videos=np.repeat(np.arange(40), 10)).intervals()["top1"]
        held += low <= 50 <= high
    assert held >= 51  # of 60; by clip alone it is about 45


def test_the_mean_of_both_directions_has_an_interval_and_holds_its_figure():
    rng = np.random.default_rng(3)
    clips, sentences = 60, 20
    forth, back = np.full(clips + sentences, np.nan), np.full(clips + sentences, np.nan)
    forth[:clips], back[clips:] = rng.random(clips), rng.random(sentences)
    clip_Q = np.concatenate([np.arange(clips), rng.integers(clips, size=sentences)])
    found = Scores(clip_Q, clip_Q // 6, {"mAP.video_to_text": forth, "mAP.text_to_video": back}, {})
    values, intervals = found.values(), found.intervals()
    assert values["mAP.mean"] == pytest.approx((np.nanmean(forth) + np.nanmean(back)) / 2)
    assert found.counts() == {"mAP.video_to_text": 60, "mAP.text_to_video": 20, "mAP.mean": 80}
    assert set(intervals) == set(values)
    assert all(intervals[name][0] < value < intervals[name][1] for name, value in values.items())


def test_draws_repeat():
    right = np.random.default_rng(4).integers(2, size=50)
    assert scores(right).intervals() == scores(right).intervals()


def test_what_cannot_be_read_is_not_drawn():
    right = np.random.default_rng(5).integers(2, size=50).astype(float)
    with_gap = np.insert(right, 20, np.nan)
    assert scores(with_gap).intervals() == scores(right).intervals()


def test_a_model_that_is_better_on_every_clip_is_clearly_better_however_hard_the_clips():
    hard = np.random.default_rng(6).random(80)
    ours, theirs = scores(hard + 0.01, name="mAP"), scores(hard, name="mAP")
    assert ours.intervals()["mAP"][0] < theirs.intervals()["mAP"][1]  # by themselves they overlap
    difference = paired_differences(ours, theirs)["mAP"]
    assert difference.value == pytest.approx(1) and difference.low == pytest.approx(1)
    assert difference.clear


def test_models_that_differ_by_chance_are_not_clearly_different():
    rng = np.random.default_rng(7)
    clear = 0
    for _ in range(40):
        ours, theirs = rng.integers(2, size=(2, 64))
        difference = paired_differences(scores(ours), scores(theirs))["top1"]
        assert difference.low <= difference.value <= difference.high
        clear += difference.clear
    assert clear <= 6


def test_a_handful_of_clips_is_never_clear():
    ours, theirs = np.ones(64), np.ones(64)
    theirs[:5] = 0
    assert not paired_differences(scores(ours), scores(theirs))["top1"].clear
    theirs[:6] = 0
    assert paired_differences(scores(ours), scores(theirs))["top1"].clear


def test_models_are_compared_on_the_clips_that_both_could_read():
    ours, theirs = np.ones(20), np.zeros(20)
    ours[0], theirs[1], theirs[2] = np.nan, np.nan, 1
    difference = paired_differences(scores(ours), scores(theirs))["top1"]
    assert difference.value == pytest.approx(100 * 17 / 18) and difference.clips == 17


def test_models_on_different_clips_are_not_compared():
    with pytest.raises(ValueError, match="different clips"):
        paired_differences(scores([1, 0, 1]), scores([1, 0]))


def test_scores_come_back_from_a_file(tmp_path):
    found = scores([1, 0, np.nan, 1], classes=[0, 0, 1, 1])
    save_file({**found.to_arrays(), "rows_N": np.arange(3)}, tmp_path / "outputs.safetensors")
    assert load_scores(tmp_path / "outputs.safetensors").intervals() == found.intervals()
    save_file({"rows_N": np.arange(3)}, tmp_path / "old.safetensors")
    assert load_scores(tmp_path / "old.safetensors") is None


def test_a_figure_may_have_a_highest_score_of_its_own(tmp_path):
    """Nothing right of eight: the interval reaches as far on each figure's own scale."""
    nothing = {"share": np.zeros(8), "cider": np.zeros(8)}
    found = Scores(np.arange(8), np.arange(8) // 4, nothing, {}, top=1.0, tops={"cider": 10.0})
    intervals = found.intervals()
    assert intervals["cider"] == pytest.approx([10 * bound for bound in intervals["share"]])
    assert intervals["share"][1] > 0.2
    save_file(found.to_arrays(), tmp_path / "outputs.safetensors")
    assert load_scores(tmp_path / "outputs.safetensors").intervals() == intervals
    gap = paired_differences(found, found)
    assert gap["cider"].high == pytest.approx(10 * gap["share"].high)


@pytest.mark.parametrize(("right", "count"), [(0, 8), (8, 8), (1, 20), (19, 20), (20, 20), (0, 400)])
def test_an_interval_of_a_share_is_never_narrower_than_wilsons(right, count):
    """At 0 and 100 % every draw is the same, however few the clips."""
    low, high = scores(np.arange(count) < right, videos=np.arange(count) // 4).intervals()["top1"]
    expected = proportion_confint(right, count)
    assert low <= 100 * expected[0] + 1e-6 and high >= 100 * expected[1] - 1e-6


def proportion_confint(right, count):
    """The shares p with |right/count − p| ≤ z·√(p(1 − p)/count), by trying all."""
    p = np.linspace(0, 1, 200_001)
    inside = p[np.abs(right / count - p) <= 1.959964 * np.sqrt(p * (1 - p) / count)]
    return inside[0], inside[-1]


def test_a_class_mean_of_a_hundred_stands_on_the_clips_of_its_small_classes():
    even = scores(np.ones(40), classes=np.arange(40) % 4).intervals()
    assert even["class_mean_top1"] == pytest.approx(even["top1"])
    rare = scores(np.ones(40), classes=[1, 2, 3, *[0] * 37]).intervals()
    assert rare["class_mean_top1"][0] < even["class_mean_top1"][0] - 10


def test_perfect_retrieval_of_few_clips_is_not_certain():
    nothing = np.full(12, np.nan)
    both = {"mAP.video_to_text": [np.ones(12), nothing], "mAP.text_to_video": [nothing, np.ones(12)]}
    figures = {name: np.concatenate(halves) for name, halves in both.items()}
    found = Scores(np.tile(np.arange(12), 2), np.zeros(24, int), figures, {}, top=1.0)
    for low, high in found.intervals().values():
        assert 0.7 < low < 0.8 and high == 1


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"), [(1, 1, -16, 16), (0, 0, -16, 16), (1, 0, 68, 100), (0, 1, -100, -68)]
)
def test_a_difference_that_no_draw_can_move_is_not_certain(ours, theirs, low, high):
    difference = paired_differences(scores(np.full(20, ours)), scores(np.full(20, theirs)))["top1"]
    assert (difference.low, difference.high) == pytest.approx((low, high), abs=0.5)
    assert difference.clear == (ours != theirs)
