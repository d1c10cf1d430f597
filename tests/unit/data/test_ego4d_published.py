"""Ego4D's clips as LaViLa and EgoVLP published them: rows, times and tags, and what is left out."""

import csv
import json
import math
import pickle

import pytest

from avion_core.config import DatasetSettings
from avion_core.data import dropped, ego4d
from avion_core.data.clips import ClipTable
from avion_core.data.published_text import write_pickle
from avion_core.data.source_videos import SourceError
from avion_core.workflow.records import annotation_record
from tests.support.annotated import annotate_raw

ROWS = [
    ("b", 1.5, 2.5, "#C C cuts the carrot"),
    ("a", 0.25, 1.25, "#C C #unsure"),
    ("a", 0.25, 1.25, "#C C #unsure"),
    ("held", 1.0, 2.0, "#C C walks"),
]
LENGTHS = {"a": 10.0, "b": 10.0, "held": 10.0}
HEADER = "clip_idx\tvideo_uid\tnarration_time\tclip_start\tclip_end\tclip_text\ttag_verb\ttag_noun\n"


@pytest.fixture
def raw(tmp_path):
    """A release with one narration, and one video of a benchmark."""
    raw = tmp_path / "raw"
    (raw / "v2/annotations").mkdir(parents=True)
    narrations = [{"timestamp_sec": 5.0, "narration_text": "#C C other", "annotation_uid": "n"}]
    videos = {"a": {"narration_pass_1": {"narrations": narrations}}}
    (raw / "v2/annotations/narration.json").write_text(json.dumps({"videos": videos}))
    held = {"video_uid": "held", "split_fho": "val"}
    (raw / "v2/ego4d.json").write_text(json.dumps({"videos": [held, {"video_uid": "a"}]}))
    return raw


@pytest.fixture
def run(tmp_path, monkeypatch):
    def annotated(file):
        settings = DatasetSettings(layout="ego4d", source="toy_kitchen", clips_from=file)
        return annotate_raw(tmp_path, monkeypatch, settings, LENGTHS)

    return annotated


def test_lavilas_rows_become_the_clips_and_are_written_back(raw, run, tmp_path, capsys):
    (raw / "ego4d_train.pkl").write_bytes(pickle.dumps(ROWS))
    assert "ego4d_train.pkl" in ego4d.annotation_files(raw)
    clips = ClipTable.load(run("ego4d_train.pkl") / "train.arrow").arrow()
    names = ["video_id", "start_s", "end_s", "texts", "narration_id", "source"]
    assert clips.column_names == names
    expected = [(*row[:3], [row[3]], f"row {place}", "human") for place, row in enumerate(ROWS)]
    assert [tuple(row.values()) for row in clips.to_pylist()] == expected
    assert "1 clips are of videos that a benchmark holds out; kept, as published" in capsys.readouterr().err
    write_pickle(tmp_path / "again.pkl", clips, "human")
    assert pickle.loads((tmp_path / "again.pkl").read_bytes()) == ROWS


def test_rows_without_video_or_times_are_listed(raw, run):
    bad = [("away", 1.0, 2.0, "x"), ("a", math.nan, 2.0, "x"), ("a", 1.0, math.inf, "x"), ("a", 20, 21, "x")]
    (raw / "ego4d_train.pkl").write_bytes(pickle.dumps([*ROWS, *bad]))
    out = run("ego4d_train.pkl")
    with (out / "dropped.csv").open(newline="") as stream:
        listed = [(row["annotation"], row["reason"]) for row in csv.DictReader(stream)]
    assert sorted(listed) == [
        ("row 4", dropped.NO_CHUNKS),
        ("row 5", dropped.NOT_A_TIME),
        ("row 6", dropped.NOT_A_TIME),
        ("row 7", dropped.OUTSIDE),
    ]
    assert len(ClipTable.load(out / "train.arrow")) == len(ROWS)


def test_a_file_that_cannot_be_read_is_refused_before_any_work(raw, run):
    (raw / "ego4d_train.pkl").write_bytes(pickle.dumps([]))
    with pytest.raises(SourceError, match=r"ego4d_train\.pkl: it has no rows"):
        run("ego4d_train.pkl")
    (raw / "ego4d_train.pkl").write_bytes(pickle.dumps([("a", 1.0, "x")]))
    with pytest.raises(SourceError, match=r"ego4d_train\.pkl: row 0"):
        ego4d.check(raw, allow_missing_metadata=False)


def test_egovlps_lines_become_the_clips_with_their_tags(raw, run, capsys):
    lines = [
        "0\tb\t2.0\t1.5\t2.5\t#C C cuts\t[5]\t[8, 1]\n",
        "1\ta\t2.0\t1.5\tsoon\t#C C bad\t[5]\t[8]\n",
        "2\ta\tmalformed\n",
        "3\ta\t0.0\t-0.5\t0.5\t#C C takes\t[]\t[]\n",
    ]
    (raw / "egoclip.csv").write_text(HEADER + "".join(lines))
    clips = ClipTable.load(run("egoclip.csv") / "train.arrow")
    found = [(clips.video_id(row), clips.start_s(row), clips.end_s(row), clips.texts(row)) for row in (0, 1)]
    assert found == [("b", 1.5, 2.5, ["#C C cuts"]), ("a", 0.0, 0.5, ["#C C takes"])]
    assert [(clips.tags(row, "verb"), clips.tags(row, "noun")) for row in (0, 1)] == [([5], [8, 1]), ([], [])]
    assert clips.arrow()["narration_id"].to_pylist() == ["line 2", "line 5"]
    assert "egoclip.csv: 2 malformed lines skipped of 4" in capsys.readouterr().err


def test_clips_from_is_a_setting_of_the_layout_and_leaves_other_records_alone():
    plain = DatasetSettings(layout="ego4d", source="toy_kitchen")
    assert "clips_from" not in annotation_record(plain) + json.dumps(plain.annotation_recipe())
    other = DatasetSettings(layout="ego4d", source="toy_kitchen", clips_from="egoclip.csv")
    assert '"clips_from":"egoclip.csv"' in annotation_record(other)
    assert other.source_json() == plain.source_json()
    with pytest.raises(ValueError, match=r"clips_from must be ego4d_train\.pkl or egoclip\.csv"):
        DatasetSettings(layout="ego4d", source="toy_kitchen", clips_from="other.pkl")
    with pytest.raises(ValueError, match="clips_from does not go with the layout 'ek100'"):
        DatasetSettings(layout="ek100", source="toy_kitchen", clips_from="egoclip.csv")
