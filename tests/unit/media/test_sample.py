import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avion_core.media.sample import (
    BLACK,
    SAMPLINGS,
    Sampling,
    jittered_window_frames,
    segment_frames,
    spread_window_frames,
    window_frames,
)

# Recorded from the original implementation, without jitter: (start, end, count, frames).
RECORDED = [
    (0, 30, 4, [3, 11, 18, 26]),
    (17, 47, 4, [20, 28, 35, 43]),
    (100, 101, 4, [100, 100, 100, 100]),
    (440, 470, 16, [440, 442, 444, 446, 448, 450, 452, 454, 455, 457, 459, 461, 463, 465, 467, 469]),
    (0, 450, 16, [14, 42, 70, 98, 126, 154, 182, 210, 239, 267, 295, 323, 351, 379, 407, 435]),
    (89, 112, 4, [91, 97, 103, 109]),
]
clips = st.tuples(st.integers(0, 10_000), st.integers(1, 900), st.integers(1, 32))


@pytest.mark.parametrize(("start", "end", "count", "expected"), RECORDED)
def test_middle_of_segments_equals_the_original(start, end, count, expected):
    assert segment_frames(start, end, count).tolist() == expected


@given(clips, st.integers(0, 2**32))
def test_jitter_stays_inside_each_segment(clip, seed):
    start, length, count = clip
    frames = segment_frames(start, start + length, count, rng=np.random.default_rng(seed))
    edges = start + length * np.arange(count + 1) / count
    assert (frames >= np.floor(edges[:-1])).all() and (frames <= np.ceil(edges[1:]) - 1).all()


def test_jitter_reaches_every_frame():
    rng = np.random.default_rng(0)
    seen = {frame for _ in range(400) for frame in segment_frames(5, 25, 4, rng=rng).tolist()}
    assert seen == set(range(5, 25))


def test_views_of_segments_are_the_middles_of_finer_segments():
    views = [segment_frames(0, 60, 3, view=view, views=2) for view in range(2)]
    assert sorted(np.concatenate(views).tolist()) == segment_frames(0, 60, 6).tolist()


def test_window_by_hand():
    assert window_frames(10, 110, 16, stride=4).tolist() == [29 + 4 * i for i in range(16)]
    views = [window_frames(10, 110, 16, stride=4, view=view, views=5)[0] for view in range(5)]
    assert views == [10, 19, 29, 39, 49]
    assert window_frames(10, 110, 16, stride=4, view=4, views=5)[-1] == 109


def test_window_longer_than_the_clip_repeats_its_last_frame():
    assert window_frames(10, 15, 4, stride=2).tolist() == [10, 12, 14, 14]


@given(clips, st.integers(1, 8), st.integers(0, 2**32))
def test_random_window_stays_inside_the_clip(clip, stride, seed):
    start, length, count = clip
    frames = window_frames(start, start + length, count, stride=stride, rng=np.random.default_rng(seed))
    assert len(frames) == count and frames.min() >= start and frames.max() < start + length
    if (count - 1) * stride < length:
        assert set(np.diff(frames).tolist()) <= {stride}


def test_random_windows_reach_both_ends():
    rng = np.random.default_rng(0)
    firsts = {int(window_frames(3, 13, 2, stride=4, rng=rng)[0]) for _ in range(200)}
    assert firsts == {3, 4, 5, 6, 7, 8}


def test_a_spread_window_spans_all_but_its_last_step():
    """VideoMAE's and AVION's fine-tuning: 16 frames of 64, 4 or 5 apart, from the first to the last."""
    frames = spread_window_frames(7, 7 + 65, 16, stride=4, rng=np.random.default_rng(0)) - 7
    assert frames.tolist() == [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]


def test_spread_windows_reach_both_ends():
    rng = np.random.default_rng(0)
    firsts = {int(spread_window_frames(3, 3 + 68, 16, stride=4, rng=rng)[0]) for _ in range(200)}
    assert firsts == {3, 4, 5, 6}


@given(clips, st.integers(1, 8), st.integers(0, 2**32))
def test_a_clip_no_longer_than_a_spread_window_is_sampled_as_by_a_window(clip, stride, seed):
    start, length, count = clip
    rng, same = np.random.default_rng(seed), np.random.default_rng(seed)
    frames = spread_window_frames(start, start + length, count, stride=stride, rng=rng)
    assert frames.min() >= start and frames.max() < start + length
    if length <= count * stride:
        plain = window_frames(start, start + length, count, stride=stride, rng=same)
        assert frames.tolist() == plain.tolist()


def test_a_jittered_window_moves_each_frame_within_its_step():
    rng, seen = np.random.default_rng(0), set()
    for _ in range(300):
        moved = jittered_window_frames(5, 5 + 64, 16, stride=4, rng=rng) - 5 - 4 * np.arange(16)
        assert moved.min() >= 0 and moved.max() <= 3
        seen |= {(place, int(by)) for place, by in enumerate(moved)}
    assert seen == {(place, by) for place in range(16) for by in range(4)}
    firsts = {int(jittered_window_frames(0, 67, 16, stride=4, rng=rng)[0]) for _ in range(300)}
    assert firsts == set(range(7))


def test_a_jittered_window_begins_a_short_clip_anew():
    frames = jittered_window_frames(100, 110, 8, stride=4, rng=np.random.default_rng(0)) - 100
    for place, frame in enumerate(frames):
        assert frame in {(4 * place + by) % 10 for by in range(4)}


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match="at least 1 frame"):
        segment_frames(0, 10, 0)
    with pytest.raises(ValueError, match="view 2 does not exist"):
        window_frames(0, 10, 4, stride=1, view=2, views=2)
    with pytest.raises(ValueError, match="stride"):
        window_frames(0, 10, 4, stride=0)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(
    ("start_s", "end_s"), [(-0.4, 0.1), (-2.0, -1.0), (0.9, 9.0), (1.5, 2.0), (0.5, 0.501)]
)
def test_frames_are_within_the_video_even_if_the_clip_is_not(sampling, start_s, end_s):
    rule = Sampling(frames=5, sampling=sampling, stride=2)
    for rng in (None, np.random.default_rng(0)):
        frames = rule.numbers(start_s, end_s, fps=29.97, frame_count=30, rng=rng)
        shown = frames[frames != BLACK] if sampling == "padded_window" else frames
        assert len(shown) and (shown >= 0).all() and (shown < 30).all()
