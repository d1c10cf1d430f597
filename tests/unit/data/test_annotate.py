"""Every layout's annotations become clip tables; clips that cannot be watched are left out and counted."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avion_core.config import DatasetSettings, ToyKitchenSettings
from avion_core.data import annotate as module
from avion_core.data.annotate import annotate, watchable_clips
from avion_core.data.clips import ClipTable, Sentences, load_questions
from avion_core.data.download import download
from avion_core.data.sources import SourceError, SourceVideo, write_videos


class Index:
    """Lengths of videos in place of a chunk index."""

    def __init__(self, lengths):
        self.lengths = lengths

    def has(self, video_id):
        return video_id in self.lengths

    def duration_s(self, video_id):
        return self.lengths[video_id]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Annotate `tmp_path/raw` with videos of the given lengths; returns the folder of the tables."""

    def annotated(settings, lengths):
        monkeypatch.setattr(module.ChunkIndex, "load", lambda _: Index(lengths))
        if not (tmp_path / "videos.parquet").exists():
            write_videos(tmp_path / "videos.parquet", [SourceVideo("any", tmp_path)])
        annotate(
            "it",
            layout=settings.layout,
            settings=settings,
            raw_dir=tmp_path / "raw",
            videos=tmp_path / "videos.parquet",
            chunks=tmp_path / "chunks.parquet",
            clips_dir=tmp_path / "clips",
        )
        return tmp_path / "clips"

    return annotated


def table(*rows):
    ids, starts, ends = zip(*rows, strict=True)
    return pa.table({"video_id": list(ids), "start_s": list(starts), "end_s": list(ends)})


def test_clips_are_cut_to_their_video_or_left_out():
    clips = table(("a", -1.0, 1.0), ("b", 0.0, 1.0), ("a", 9.0, 12.0), ("a", 10.0, 12.0), ("a", -2.0, 0.0))
    kept, dropped = watchable_clips(clips, Index({"a": 10.0}))
    assert kept.to_pydict() == {"video_id": ["a", "a"], "start_s": [0.0, 9.0], "end_s": [1.0, 10.0]}
    assert dropped == {module.NO_CHUNKS: 1, module.OUTSIDE: 2}


def narrated(*times):
    narrations = [
        {"timestamp_sec": t, "narration_text": f"#C C {t}", "annotation_uid": f"n{t}"} for t in times
    ]
    return {"narration_pass_1": {"narrations": narrations}}


def test_ego4d_by_hand(tmp_path, run):
    # Gaps: a 2 s, b 6 s, so α = 4 s; half widths 0.25 s and 0.75 s. The benchmark's c counts for nothing.
    videos = {
        "a": narrated(0.0, 2.0),
        "b": narrated(1.0, 7.0),
        "c": narrated(0.0, 50.0),
        "gone": narrated(0.0, 4.0),
    }
    del videos["gone"]
    folder = tmp_path / "raw/v2/annotations"
    folder.mkdir(parents=True)
    (folder / "narration.json").write_text(json.dumps({"videos": videos}))
    sample = {"video_uid": "c", "clip_start": 0.0, "clip_end": 1.0, "clip_text": "#C C 0.0"}
    choices = {str(index): sample for index in range(5)}
    question = {"answer": 0, "types": 2, "query": sample, "choices": choices}
    (tmp_path / "raw/egomcq.json").write_text(json.dumps({"0": question}))
    out = run(DatasetSettings(layout="ego4d", source="toy_kitchen"), {"a": 10.0, "c": 60.0})
    clips = ClipTable.load(out / "train.arrow")
    assert [clips.video_id(row) for row in range(len(clips))] == ["a", "a"]
    assert [(clips.start_s(row), clips.end_s(row)) for row in (0, 1)] == [(0.0, 0.25), (1.75, 2.25)]
    assert clips.texts(1) == ["#C C 2.0"]
    assert clips.arrow().column("narration_id").to_pylist() == ["n0.0", "n2.0"]
    assert json.loads((out / "dropped.json").read_text()) == {
        "clips": 4,
        "reasons": {module.HELD_OUT: 2, module.NO_CHUNKS: 2},
    }
    assert [entry.question_id for entry in load_questions(out / "egomcq.arrow")] == ["0"]


TOY = ToyKitchenSettings(
    short_side_px=64,
    ek100_train_videos=2,
    ek100_validation_videos=2,
    video_seconds=(20.0, 20.0),
    kinetics_clips_per_class=(1, 1),
    kinetics_clip_seconds=2.0,
)


def make(layout, tmp_path):
    settings = DatasetSettings(layout=layout, source="toy_kitchen")
    videos = tmp_path / "videos.parquet"
    download("it", settings=settings, toy_kitchen=TOY, raw_dir=tmp_path / "raw", videos=videos)
    return settings, pq.read_table(videos).column("video_id").to_pylist()


def test_ek100_tables(tmp_path, run):
    settings, video_ids = make("ek100", tmp_path)
    out = run(settings, dict.fromkeys(video_ids, 20.0))
    train, validation = (ClipTable.load(out / f"{split}.arrow") for split in ("train", "validation"))
    assert json.loads((out / "dropped.json").read_text()) == {"clips": 0, "reasons": {}}
    classes = json.loads((out / "classes.json").read_text())
    assert classes["verb"][:2] == ["take", "put"]
    assert classes["action"] == sorted(classes["action"])
    for clips, sentences in ((train, "train"), (validation, "test")):
        assert len(clips) >= 12
        written = Sentences.load(out / f"sentences_{sentences}.arrow")
        labels, verbs, nouns = (clips.column(name) for name in ("label", "verb", "noun"))
        for row in range(len(clips)):
            assert classes["action"][labels[row]] == f"{verbs[row]}:{nouns[row]}"
            assert clips.nouns(row)[0] == nouns[row]
            own = written.texts.index(clips.texts(row)[0])
            assert written.verbs[own] == verbs[row]
    assert {len(train.texts(row)) for row in range(len(train))} == {1}


def test_kinetics_clips_are_whole_videos_with_labels(tmp_path, run):
    settings, video_ids = make("kinetics", tmp_path)
    lengths = dict.fromkeys(video_ids, 2.0)
    del lengths["val__stirring_000"]
    out = run(settings, lengths)
    clips = ClipTable.load(out / "train.arrow")
    assert [(clips.start_s(row), clips.end_s(row), clips.texts(row)) for row in range(8)] == [
        (0.0, 2.0, [])
    ] * 8
    np.testing.assert_array_equal(clips.column("label"), np.arange(8))
    assert len(ClipTable.load(out / "val.arrow")) == 7
    assert json.loads((out / "dropped.json").read_text()) == {"clips": 1, "reasons": {module.NO_CHUNKS: 1}}
    assert len(json.loads((out / "classes.json").read_text())["label"]) == 8


def folder_settings(tmp_path, text):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/narrations.csv").write_text(text)
    return DatasetSettings(layout="folder", source="folder", folder={"videos": ".", "narrations": "x.csv"})


def test_folder_splits_by_column_or_by_name(tmp_path, run):
    text = "video,start,end,text,split\na.mp4,0,1,one,train\na.mp4,0:02,0:03,two,validation\n"
    out = run(folder_settings(tmp_path, text), {"a": 2.5})
    train, validation = (ClipTable.load(out / f"{split}.arrow") for split in ("train", "validation"))
    assert (train.texts(0), validation.texts(0), validation.end_s(0)) == (["one"], ["two"], 2.5)
    names = [f"video {number}" for number in range(40)]
    lines = "".join(f"{name}.mp4,0,1,x\n{name}.mp4,1,2,y\n" for name in names)
    (tmp_path / "raw/narrations.csv").write_text("video,start,end,text\n" + lines)
    out = run(
        DatasetSettings(layout="folder", source="folder", folder={"videos": ".", "narrations": "x"}),
        dict.fromkeys(names, 2.0),
    )
    tables = [ClipTable.load(out / f"{split}.arrow") for split in ("train", "validation")]
    split_names = [{clips.video_id(row) for row in range(len(clips))} for clips in tables]
    assert len(tables[0]) + len(tables[1]) == 80
    assert split_names[0].isdisjoint(split_names[1])
    assert split_names[1]


def test_no_training_clip_left_is_an_error_with_the_reasons(tmp_path, run):
    settings = folder_settings(tmp_path, "video,start,end,text\na.mp4,0,1,one\n")
    with pytest.raises(
        SourceError, match=r"data set 'it': no training clip is left, of 1 videos \(the video has no"
    ):
        run(settings, {})
