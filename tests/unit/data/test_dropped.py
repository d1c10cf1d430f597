"""Every clip left out is listed once, and the counts are those of the list."""

import csv
import json
from collections import Counter

import pyarrow as pa

from avion_core.data.dropped import NO_TEXT, OUTSIDE, DroppedClips


def listed(folder):
    with (folder / "dropped.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_list_and_its_counts(tmp_path, capsys):
    dropped = DroppedClips()
    columns = {
        "annotation": pa.array(["n1", 'line "2", é']),
        "video_id": pa.array(["a", "b"]),
        "start_s": pa.array([1.5, None]),
        "end_s": pa.array([2.0, None]),
    }
    dropped.add("train", columns, pa.array([OUTSIDE, NO_TEXT]))
    dropped.add("train", {"annotation": pa.array([], pa.string())}, NO_TEXT)
    dropped.add("egomcq", {"annotation": pa.array(["question 7"])}, OUTSIDE)
    dropped.publish(tmp_path)
    keys = ("table", "annotation", "video_id", "start_s", "end_s", "reason")
    assert [tuple(row[key] for key in keys) for row in listed(tmp_path)] == [
        ("train", "n1", "a", "1.5", "2", OUTSIDE),
        ("train", 'line "2", é', "b", "", "", NO_TEXT),
        ("egomcq", "question 7", "", "", "", OUTSIDE),
    ]
    assert json.loads((tmp_path / "dropped.json").read_text()) == {
        "clips": 3,
        "reasons": {OUTSIDE: 2, NO_TEXT: 1},
        "tables": {"train": {OUTSIDE: 1, NO_TEXT: 1}, "egomcq": {OUTSIDE: 1}},
    }
    told = capsys.readouterr().err
    assert f"2: {OUTSIDE}" in told and str(tmp_path / "dropped.csv") in told


def test_a_large_list_is_whole(tmp_path):
    count = 200_000
    dropped = DroppedClips()
    names = pa.array([f"n{number}" for number in range(count)])
    reasons = pa.array([(OUTSIDE, NO_TEXT)[number % 2] for number in range(count)])
    dropped.add("train", {"annotation": names, "video_id": pa.repeat("a", count)}, reasons)
    dropped.publish(tmp_path)
    rows = listed(tmp_path)
    assert [row["annotation"] for row in rows] == names.to_pylist()
    assert (
        Counter(row["reason"] for row in rows)
        == dropped.reasons()
        == {OUTSIDE: count / 2, NO_TEXT: count / 2}
    )


def test_nothing_left_out_is_a_list_without_rows(tmp_path):
    DroppedClips().publish(tmp_path)
    assert listed(tmp_path) == []
    assert json.loads((tmp_path / "dropped.json").read_text()) == {"clips": 0, "reasons": {}, "tables": {}}
