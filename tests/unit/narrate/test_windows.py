"""Windows leave no frame of a video without a narration, and stay within it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import write_clips, write_questions
from avion_core.media.sample import frame_range
from avion_core.narrate.windows import are_windows, clips_and_windows, uncovered_windows
from tests.support.chunk_index import chunk_index


@pytest.mark.parametrize(
    ("clips", "expected"),
    [
        ([], [(0, 30), (20, 50), (40, 70), (60, 90), (70, 100)]),
        ([(0, 100)], []),
        ([(0, 40), (40, 100)], []),
        ([(0, 55)], [(55, 85), (70, 100)]),  # the second is moved back to end with the stretch
        ([(0, 90)], [(70, 100)]),  # too short a stretch at the end: it ends with the video
        ([(0, 10), (15, 100)], [(10, 40)]),  # too short a stretch: the window begins with it
        ([(0, 10), (15, 35), (38, 100)], [(10, 40)]),  # one window covers both stretches
        ([(20, 60)], [(0, 30), (60, 90), (70, 100)]),
        ([(60, 100), (0, 30), (10, 20)], [(30, 60)]),
    ],
)
def test_windows_of_known_videos(clips, expected):
    assert uncovered_windows(clips, frame_count=100, window=30, step=20) == expected


@pytest.mark.parametrize(
    ("held_out", "expected"),
    [
        ([(0, 100)], []),
        ([(40, 50)], [(10, 40), (50, 80), (70, 100)]),  # without it the first stretch is (10, 100)
        ([(20, 60), (50, 70)], [(0, 20), (70, 100)]),  # no room for a whole window before it
        ([(5, 8)], [(10, 40), (30, 60), (50, 80), (70, 100)]),
    ],
)
def test_no_window_has_a_frame_that_is_held_out(held_out, expected):
    found = uncovered_windows([(0, 10)], held_out=held_out, frame_count=100, window=30, step=20)
    assert found == expected


@pytest.mark.parametrize("most_held_out", [0, 4])
def test_every_other_frame_is_in_a_clip_or_a_window_and_no_window_leaves_the_video(most_held_out):
    draw = random.Random(5)

    def ranges(most):
        starts = [draw.randrange(frame_count) for _ in range(draw.randint(0, most))]
        return [(start, draw.randint(start + 1, frame_count)) for start in starts]

    for _ in range(2000):
        frame_count, window = draw.randint(1, 90), draw.randint(1, 40)
        step = draw.randint(1, window)
        clips, held_out = ranges(6), ranges(most_held_out)
        found = uncovered_windows(clips, held_out=held_out, frame_count=frame_count, window=window, step=step)
        narrated, covered, spared = np.zeros((3, frame_count), bool)
        for frames, places in ((narrated, clips), (covered, found), (spared, held_out)):
            for start, end in places:
                frames[start:end] = True
        for start, end in found:
            assert start >= 0 and end <= frame_count and end - start <= window
            assert held_out or end - start == min(window, frame_count)
            assert not narrated[start:end].all(), "a window shows something that nobody narrated"
        assert (narrated | covered | spared).all() and not (covered & spared).any()
        assert found == sorted(found) and len(set(found)) == len(found)


def test_the_table_has_clips_and_windows_of_the_videos_with_clips(tmp_path: Path):
    chunks: ChunkIndex = chunk_index(tmp_path, {"a": [100], "b": [30, 40], "unnarrated": [50]})
    rows = [
        {"video_id": "b", "start_s": 1.0, "end_s": 1.4, "texts": ["x"], "narration_id": "3"},
        {"video_id": "a", "start_s": 0.5, "end_s": 3.1, "texts": ["y"], "narration_id": "1"},
        {"video_id": "gone", "start_s": 0.5, "end_s": 3.1, "texts": ["z"], "narration_id": "2"},
    ]
    write_clips(tmp_path / "train.arrow", rows)
    found = clips_and_windows(tmp_path / "train.arrow", chunks, window_seconds=0.5, step_seconds=0.3)
    assert found["video_id"].to_pylist() == sorted(found["video_id"].to_pylist())
    assert set(found["video_id"].to_pylist()) == {"a", "b", "gone"}
    assert found.filter(are_windows(found)).num_rows == len(found) - 3
    for name, frames in (("a", 100), ("b", 70)):
        seen = np.zeros(frames, bool)
        for row in found.to_pylist():
            if row["video_id"] == name:
                start, end = frame_range(row["start_s"], row["end_s"], fps=30, frame_count=frames)
                assert row["end_s"] <= frames / 30 + 1e-9
                seen[start:end] = True
        assert seen.all()
    alone = clips_and_windows(tmp_path / "train.arrow", chunks, window_seconds=None, step_seconds=1)
    assert alone["narration_id"].to_pylist() == ["1", "3", "2"]


def test_windows_leave_out_the_clips_of_other_tables(tmp_path: Path):
    chunks: ChunkIndex = chunk_index(tmp_path, {"a": [100], "b": [70]})
    clips, held_out, questions = (tmp_path / f"{name}.arrow" for name in ("train", "validation", "egomcq"))
    clip = {"video_id": "a", "start_s": 0.0, "end_s": 1.0, "texts": ["x"], "narration_id": "1"}
    write_clips(clips, [clip, {**clip, "video_id": "b"}])
    write_clips(held_out, [{**clip, "start_s": 2.01, "end_s": 2.52}])
    names = {"video_ids": ["b"] * 5, "starts_s": [1.5] * 5, "ends_s": [1.6] * 5}
    write_questions(questions, [{"question_id": "q", "type": 2, "text": "x", "answer": 0, **names}])

    def windows(*tables: Path) -> list[tuple[str, int, int]]:
        found = clips_and_windows(clips, chunks, held_out=tables, window_seconds=1, step_seconds=1)
        rows = found.filter(are_windows(found)).to_pylist()
        return [(row["video_id"], *(round(row[name] * 30) for name in ("start_s", "end_s"))) for row in rows]

    whole = [("a", 30, 60), ("a", 60, 90), ("a", 70, 100), ("b", 30, 60), ("b", 40, 70)]
    assert windows() == whole
    assert windows(held_out) == [("a", 30, 60), ("a", 76, 100), *whole[3:]]
    assert windows(held_out, questions)[2:] == [("b", 15, 45), ("b", 48, 70)]
