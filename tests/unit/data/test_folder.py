"""The user's CSV: times, and which videos are held out."""

import pytest

from avion_core.data import folder


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("12.5", 12.5), ("0", 0.0), ("1:02", 62.0), ("00:01:02.25", 62.25), (" 10:00:00 ", 36000.0)],
)
def test_times_are_seconds_or_clock_times(value, seconds):
    assert folder.parse_time(value) == seconds


@pytest.mark.parametrize("value", ["", "soon", "-1", "1:60", "1:2:3:4", "1.5:00", "nan", "inf", ":10", "1,5"])
def test_anything_else_is_not_a_time(value):
    with pytest.raises(ValueError):
        folder.parse_time(value)


def test_the_held_out_share_is_stable_and_about_right():
    names = [f"video {number}.mp4" for number in range(2000)]
    held_out = {name for name in names if folder.split_of(name, validation_fraction=0.2) == "validation"}
    assert 0.17 < len(held_out) / len(names) < 0.23
    assert held_out <= {
        name for name in names if folder.split_of(name, validation_fraction=0.3) == "validation"
    }
    assert all(folder.split_of(name, validation_fraction=0.0) == "train" for name in names)
    assert all(folder.split_of(name, validation_fraction=1.0) == "validation" for name in names)
