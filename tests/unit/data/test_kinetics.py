"""Kinetics lists: spaces in paths are kept, and a wrong line is named."""

import pytest

from avion_core.data import kinetics
from avion_core.data.sources import SourceError


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "classes.txt").write_text("wash\nstir\n")
    (tmp_path / "train.txt").write_text("train/a b.mp4 120 1\n\ntrain/c.mp4 90 0\n")
    (tmp_path / "val.txt").write_text("val/c.mp4 60 0\n")
    return tmp_path


def test_lists_are_read(raw):
    assert kinetics.read_classes(raw) == ["wash", "stir"]
    entries = kinetics.read_list(raw / "train.txt", classes=2)
    assert [(entry.video_id, entry.frames, entry.label) for entry in entries] == [
        ("train__a b", 120, 1),
        ("train__c", 90, 0),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train/a.mp4 120", r"line 2: 'train/a.mp4 120' is not 'path num_frames label'"),
        ("train/a.mp4 many 1", "line 2: .* is not 'path num_frames label'"),
        ("train/a.mp4 120 2", r"line 2: label 2 has no name; classes.txt has 2 lines"),
    ],
)
def test_a_wrong_line_is_named(raw, line, message):
    (raw / "train.txt").write_text(f"train/c.mp4 90 0\n{line}\n")
    with pytest.raises(SourceError, match=message):
        kinetics.check(raw)


def test_videos_that_are_not_there_are_named(raw):
    (raw / "train").mkdir()
    (raw / "train/a b.mp4").touch()
    found, missing = kinetics.find_videos(raw)
    assert [video.video_id for video in found] == ["train__a b"]
    assert missing == "train/c.mp4, val/c.mp4"
