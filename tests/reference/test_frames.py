"""The frames that LaViLa's own readers take of a clip, of EGTEA and Charades-Ego."""

import json
from pathlib import Path

import pytest

from avion_core.media.sample import (
    BLACK,
    Sampling,
    lavila_range,
    lavila_segment_frames,
    padded_window_frames,
)

RECORDED = json.loads((Path(__file__).parent / "data" / "frames.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", RECORDED["egtea"]["cases"], ids=lambda case: str(case["video_frames"]))
@pytest.mark.parametrize("views", [1, 10])
def test_views_of_egtea(case, views):
    length, stride = case["clip_length"], case["clip_stride"]
    expected = [BLACK if number is None else number for number in case[f"clips_{views}"]]
    found = [
        padded_window_frames(0, case["video_frames"], length, stride=stride, view=view, views=views)
        for view in range(views)
    ]
    assert [number for view in found for number in view.tolist()] == expected
    seen = Sampling(frames=length, sampling="padded_window", stride=stride, clips=views)
    whole = {"fps": 24.0, "frame_count": case["video_frames"]}
    last = seen.numbers(0.0, case["video_frames"] / 24, view=views - 1, **whole)
    assert last.tolist() == expected[-length:]


@pytest.mark.parametrize("case", RECORDED["charades_test"]["cases"])
def test_whole_videos_of_charades_ego(case):
    seen = Sampling(frames=case["frames"], sampling="lavila_segments", stride=1)
    frame_count = case["egovlp_video_frames"] + 1  # the file is never shorter than the list says
    found = seen.numbers(0.0, case["length_seconds"], fps=case["fps"], frame_count=frame_count)
    assert found.tolist() == case["lavila"]


@pytest.mark.parametrize("case", RECORDED["charades_training_clips"]["cases"])
def test_training_clips_of_charades_ego(case):
    first, length = lavila_range(
        case["start_second"],
        case["end_second"],
        fps=case["fps"],
        frame_count=case["video_frames"],
        count=case["frames"],
        training=True,
    )
    assert lavila_segment_frames(first, length, case["frames"]).tolist() == case["lavila"]


@pytest.mark.parametrize("case", RECORDED["clips_in_frames"])
def test_clips_in_frames(case):
    length = case["end_frame"] - case["start_frame"]
    assert lavila_segment_frames(case["start_frame"], length, case["frames"]).tolist() == case["lavila"]
