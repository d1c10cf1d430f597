"""Every layout's annotations become clip tables; clips that cannot be watched are left out and counted."""

import csv
import json
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avion_core.config import DatasetSettings
from avion_core.data import dropped
from avion_core.data.annotation import sound_clips
from avion_core.data.clips import ClipTable, Sentences, load_questions
from avion_core.data.source_videos import SourceError
from avion_core.sources.download import DataSet, download
from tests.support.annotated import Index, annotate_raw
from tests.support.kitchens import tiny_kitchen


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Annotate `tmp_path/raw` with videos of the given lengths; returns the folder of the tables."""
    return partial(annotate_raw, tmp_path, monkeypatch)


def table(*rows):
    ids, starts, ends = zip(*rows, strict=True)
    return pa.table({"video_id": list(ids), "start_s": list(starts), "end_s": list(ends)})


def test_clips_are_cut_to_their_video_or_left_out():
    clips = table(("a", -1.0, 1.0), ("b", 0.0, 1.0), ("a", 9.0, 12.0), ("a", 10.0, 12.0), ("a", 3.0, 3.0))
    kept, left_out, reasons = sound_clips(clips, Index({"a": 10.0}))
    assert kept.to_pydict() == {"video_id": ["a", "a"], "start_s": [0.0, 9.0], "end_s": [1.0, 10.0]}
    assert left_out.to_pydict() == {
        "video_id": ["b", "a", "a"],
        "start_s": [0.0, 10.0, 3.0],
        "end_s": [1.0, 12.0, 3.0],
    }
    assert reasons.to_pylist() == [dropped.NO_CHUNKS, dropped.OUTSIDE, dropped.NO_LENGTH]


def narrated(*times):
    narrations = [
        {"timestamp_sec": t, "narration_text": f"#C C {t}", "annotation_uid": f"n{t}"} for t in times
    ]
    return {"narration_pass_1": {"narrations": narrations}}


def write_ego4d(raw, videos, *, lengths=None):
    """A release with these narrations, and lengths of videos in ego4d.json."""
    (raw / "v2/annotations").mkdir(parents=True)
    (raw / "v2/annotations/narration.json").write_text(json.dumps({"videos": videos}))
    listed = [{"video_uid": uid, "duration_sec": length} for uid, length in (lengths or {}).items()]
    (raw / "v2/ego4d.json").write_text(json.dumps({"videos": listed}))
    return DatasetSettings(layout="ego4d", source="toy_kitchen")


def listed(folder):
    """Rows of the list of dropped clips: what the clip was made of, and the reason."""
    with (folder / "dropped.csv").open(newline="") as stream:
        return [(row["annotation"], row["reason"]) for row in csv.DictReader(stream)]


def test_ego4d_by_hand(tmp_path, run):
    # Gaps: a 2 s, b 6 s, so α = 4 s; half widths 0.25 s and 0.75 s. The benchmark's c counts for nothing.
    videos = {
        "a": narrated(0.0, 2.0),
        "b": narrated(1.0, 7.0),
        "c": narrated(0.0, 50.0),
    }
    settings = write_ego4d(tmp_path / "raw", videos, lengths={"b": 20.0})
    sample = {"video_uid": "c", "clip_start": 0.0, "clip_end": 1.0, "clip_text": "#C C 0.0"}
    choices = {str(index): sample for index in range(5)}
    question = {"answer": 0, "types": 2, "query": sample, "choices": choices}
    (tmp_path / "raw/egomcq.json").write_text(json.dumps({"0": question}))
    out = run(settings, {"a": 10.0, "c": 60.0})
    clips = ClipTable.load(out / "train.arrow")
    assert [clips.video_id(row) for row in range(len(clips))] == ["a", "a"]
    assert [(clips.start_s(row), clips.end_s(row)) for row in (0, 1)] == [(0.0, 0.25), (1.75, 2.25)]
    assert clips.texts(1) == ["#C C 2.0"]
    assert clips.arrow().column("narration_id").to_pylist() == ["n0.0", "n2.0"]
    reasons = {dropped.HELD_OUT: 2, dropped.NO_CHUNKS: 2}
    assert json.loads((out / "dropped.json").read_text()) == {
        "clips": 4,
        "reasons": reasons,
        "tables": {"train": reasons},
    }
    assert listed(out) == [
        ("n0.0", dropped.HELD_OUT),
        ("n50.0", dropped.HELD_OUT),
        ("n1.0", dropped.NO_CHUNKS),
        ("n7.0", dropped.NO_CHUNKS),
    ]
    assert [entry.question_id for entry in load_questions(out / "egomcq.arrow")] == ["0"]


@pytest.mark.parametrize("length_from", ["chunks", "ego4d.json"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1e6, dropped.OUTSIDE),
        (40.1, dropped.OUTSIDE),
        (-0.5, dropped.OUTSIDE),
        (float("inf"), dropped.NOT_A_TIME),
        (float("nan"), dropped.NOT_A_TIME),
        (10**400, dropped.NOT_A_TIME),
        ("soon", dropped.NOT_A_TIME),
        (None, dropped.NOT_A_TIME),
        (True, dropped.NOT_A_TIME),
        ([1.0], dropped.NOT_A_TIME),
    ],
)
def test_one_bad_time_moves_no_other_clip(tmp_path, run, value, reason, length_from):
    lengths = {"a": 40.0, "b": 40.0}
    watched = lengths if length_from == "chunks" else {"b": 40.0}
    good = {"a": narrated(1.0, 6.0, 11.0), "b": narrated(2.0, 5.0)}
    settings = write_ego4d(tmp_path / "raw", good, lengths=lengths)
    expected = ClipTable.load(run(settings, watched) / "train.arrow").arrow().to_pydict()
    bad = {"timestamp_sec": value, "narration_text": "#C C cuts", "annotation_uid": "bad"}
    good["a"]["narration_pass_1"]["narrations"].insert(1, bad)
    (tmp_path / "raw/v2/annotations/narration.json").write_text(json.dumps({"videos": good}))
    out = run(settings, watched)
    assert ClipTable.load(out / "train.arrow").arrow().to_pydict() == expected
    assert ("bad", reason) in listed(out)


def test_a_video_of_unknown_length_moves_no_other_clip(tmp_path, run):
    videos = {"a": narrated(1.0, 6.0), "nowhere": narrated(1.0, 1e6)}
    out = run(write_ego4d(tmp_path / "raw", videos), {"a": 40.0})
    clips = ClipTable.load(out / "train.arrow")
    assert [(clips.start_s(row), clips.end_s(row)) for row in range(len(clips))] == [(0.5, 1.5), (5.5, 6.5)]


@pytest.mark.parametrize(
    "text",
    [None, "", " \n", 7, ["#C C cuts"], {}, True, "#C C", "#unsure", "#C C #unsure", "...", "\ud800 cuts"],
)
def test_a_narration_without_text_is_dropped_and_moves_no_other_clip(tmp_path, run, text):
    videos = {"a": narrated(1.0, 6.0, 11.0)}
    settings = write_ego4d(tmp_path / "raw", videos)
    whole = ClipTable.load(run(settings, {"a": 40.0}) / "train.arrow").arrow().to_pylist()
    videos["a"]["narration_pass_1"]["narrations"][1]["narration_text"] = text
    (tmp_path / "raw/v2/annotations/narration.json").write_text(json.dumps({"videos": videos}))
    out = run(settings, {"a": 40.0})
    assert ClipTable.load(out / "train.arrow").arrow().to_pylist() == [whole[0], whole[2]]
    assert listed(out) == [("n6.0", dropped.NO_TEXT)]


def test_benchmark_videos_are_not_trained_on_unless_the_setting_says_so(tmp_path, run):
    videos = {"a": narrated(1.0, 6.0), "held": narrated(1.0, 6.0)}
    settings = write_ego4d(tmp_path / "raw", videos)
    metadata = tmp_path / "raw/v2/ego4d.json"
    metadata.write_text(json.dumps({"videos": [{"video_uid": "held", "split_em": "val"}]}))
    lengths = {"a": 40.0, "held": 40.0}
    assert set(ClipTable.load(run(settings, lengths) / "train.arrow").arrow()["video_id"].to_pylist()) == {
        "a"
    }
    metadata.unlink()
    with pytest.raises(SourceError, match=r"no ego4d\.json.*allow_missing_ego4d_json"):
        run(settings, lengths)
    waived = settings.model_copy(update={"allow_missing_ego4d_json": True})
    assert len(ClipTable.load(run(waived, lengths) / "train.arrow")) == 4


@pytest.mark.parametrize("uid", [None, "", "\ud800"])
def test_a_narration_without_a_usable_number_is_named_by_its_place(tmp_path, run, uid):
    videos = {"a": narrated(1.0, 6.0)}
    videos["a"]["narration_pass_1"]["narrations"][1]["annotation_uid"] = uid
    out = run(write_ego4d(tmp_path / "raw", videos), {"a": 40.0})
    names = ClipTable.load(out / "train.arrow").arrow()["narration_id"].to_pylist()
    assert names == ["n1.0", "a:narration_pass_1:1"]


def test_a_question_whose_choice_cannot_be_watched_is_dropped(tmp_path, run):
    settings = write_ego4d(tmp_path / "raw", {"a": narrated(1.0, 6.0)})

    def question(*choices):
        samples = {
            str(n): {"video_uid": uid, "clip_start": start, "clip_end": start + 1, "clip_text": "#C C cuts"}
            for n, (uid, start) in enumerate(choices)
        }
        return {"answer": 0, "types": 1, "query": samples["0"], "choices": samples}

    questions = {
        "good": question(*[("q", 1.0)] * 5),
        "late": question(*[("q", 1.0)] * 4, ("q", 99.0)),
        "gone": question(*[("q", 1.0)] * 4, ("x", 1.0)),
    }
    (tmp_path / "raw/egomcq.json").write_text(json.dumps(questions))
    out = run(settings, {"a": 40.0, "q": 40.0})
    assert [entry.question_id for entry in load_questions(out / "egomcq.arrow")] == ["good"]
    assert listed(out) == [
        ("question late", dropped.QUESTION_OUTSIDE),
        ("question gone", dropped.QUESTION),
    ]


TOY = tiny_kitchen(ek100_validation_videos=2, video_seconds=(20.0, 20.0))


def make(layout, tmp_path):
    settings = DatasetSettings(layout=layout, source="toy_kitchen", toy_kitchen=TOY)
    videos = tmp_path / "videos.parquet"
    download(DataSet("it", settings, tmp_path))
    return settings, pq.read_table(videos).column("video_id").to_pylist()


def test_ek100_tables(tmp_path, run):
    settings, video_ids = make("ek100", tmp_path)
    out = run(settings, dict.fromkeys(video_ids, 20.0))
    train, validation = (ClipTable.load(out / f"{split}.arrow") for split in ("train", "validation"))
    assert json.loads((out / "dropped.json").read_text()) == {"clips": 0, "reasons": {}, "tables": {}}
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
    assert json.loads((out / "dropped.json").read_text())["tables"] == {"val": {dropped.NO_CHUNKS: 1}}
    assert listed(out) == [("line 7", dropped.NO_CHUNKS)]
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


ODD = "\x1b[31mtake\u2028 the \u202ecup\u200b\x1b[0m"
"""Shows as `take the cup`, in red, and turns what follows it round."""


def cleaned(folder):
    return json.loads((folder / "dropped.json").read_text()).get("cleaned_texts")


def test_invisible_characters_of_ego4d_go(tmp_path, run, capsys):
    videos = {"a": narrated(1.0, 6.0)}
    videos["a"]["narration_pass_1"]["narrations"][0]["narration_text"] = f"#C C {ODD}\nand\0 plate"
    videos["a"]["narration_pass_1"]["narrations"][1]["narration_text"] = "#C C prend la crème  brûlée"
    settings = write_ego4d(tmp_path / "raw", videos)
    sample = {"video_uid": "q", "clip_start": 0.0, "clip_end": 1.0, "clip_text": ODD}
    question = {"answer": 0, "types": 2, "query": sample, "choices": {str(n): sample for n in range(5)}}
    (tmp_path / "raw/egomcq.json").write_text(json.dumps({"0": question}))
    out = run(settings, {"a": 40.0, "q": 40.0})
    clips = ClipTable.load(out / "train.arrow")
    assert [*clips.texts(0), *clips.texts(1)] == [
        "#C C take the cup and plate",
        "#C C prend la crème  brûlée",
    ]
    assert load_questions(out / "egomcq.arrow")[0].text == "take the cup"
    assert cleaned(out) == {"train": 1, "egomcq": 1}
    assert "removed from texts (train: 1; egomcq: 1)" in capsys.readouterr().err


def test_invisible_characters_of_epic_kitchens_go_in_clips_and_sentences_alike(tmp_path, run):
    settings, video_ids = make("ek100", tmp_path)
    [path] = (tmp_path / "raw").rglob("EPIC_100_train.csv")
    with path.open(newline="") as stream:
        text = next(csv.DictReader(stream))["narration"]
    for file in path.parent.rglob("*.csv"):
        file.write_text(file.read_text().replace(f",{text},", f",\x1b[31m{text}\u202e,"))
    out = run(settings, dict.fromkeys(video_ids, 20.0))
    clips, sentences = ClipTable.load(out / "train.arrow"), Sentences.load(out / "sentences_train.arrow")
    texts = [clips.texts(row)[0] for row in range(len(clips))]
    assert text in texts and set(texts) <= set(sentences.texts)
    assert all(map(str.isprintable, [*texts, *sentences.texts]))
    assert set(cleaned(out)) >= {"train", "sentences_train"}


def test_invisible_characters_of_a_folder_go(tmp_path, run):
    lines = f'a.mp4,0,1,"{ODD.replace(chr(0x2028), "")}",train\na.mp4,1,2,\u202eup\u200b,validation\n'
    out = run(folder_settings(tmp_path, f"video,start,end,text,split\n{lines}"), {"a": 2.5})
    train, validation = (ClipTable.load(out / f"{split}.arrow") for split in ("train", "validation"))
    assert (train.texts(0), validation.texts(0)) == (["take the cup"], ["up"])
    assert cleaned(out) == {"train": 1, "validation": 1}
