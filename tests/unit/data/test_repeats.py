"""Clips in both splits and clips with two labels are counted, with an example."""

from __future__ import annotations

import pyarrow as pa

from avion_core.data.repeats import repeats


def clips(*rows: tuple[str, float, float], labels: list[int] | None = None) -> pa.Table:
    columns = {
        name: [row[place] for row in rows] for place, name in enumerate(("video_id", "start_s", "end_s"))
    }
    return pa.table(columns | ({"label": labels} if labels else {}))


def test_clips_and_videos_of_both_splits_are_counted() -> None:
    train = clips(("a", 0, 1), ("a", 1, 2), ("a", 1, 2), ("b", 0, 1), ("c", 0, 1))
    validation = clips(("a", 1, 2), ("b", 5, 6), ("d", 0, 1))
    assert list(repeats({"train": train, "validation": validation})) == [
        "2 videos and 1 clip are in both train and validation, a for one"
    ]


def test_clips_with_two_labels_are_counted_over_all_tables() -> None:
    train = clips(("a", 0, 1), ("a", 0, 1), ("b", 0, 1), ("b", 0, 2), labels=[3, 4, 1, 2])
    val = clips(("c", 0, 1), ("c", 0, 1), ("b", 0, 2), labels=[5, 5, 7])
    told = list(repeats({"train": train, "val": val}))
    assert told[0] == "1 video and 1 clip are in both train and val, b for one"
    assert told[1].startswith("2 clips with more than one label, ") and " from 0 to " in told[1]


def test_clips_named_once_are_not_told() -> None:
    train = clips(("a", 0, 1), ("a", 1, 2), labels=[1, 2])
    assert not list(repeats({"train": train, "val": clips(("b", 0, 1), labels=[1])}))
    assert not list(repeats({"train": clips(("a", 0, 1), ("a", 0, 1))}))
