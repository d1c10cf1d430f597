"""The EgoClip rule by hand, both releases' narration files, and EgoMCQ."""

import json

import numpy as np
import pytest

from avion_core.data import ego4d
from avion_core.data.source_videos import SourceError


def narrations(*pairs):
    return {
        "narrations": [{"timestamp_sec": t, "narration_text": text} for t, text in pairs],
        "summaries": [],
    }


VIDEOS = {
    "b": {
        "narration_pass_1": narrations((0.0, "#C C a"), (2.0, "#C C b"), (4.0, "#C C c")),
        "status": "complete",
    },
    "a": {
        "narration_pass_1": narrations((12.0, "#C C e "), (6.0, "#C C d")),
        "narration_pass_2": narrations((9.0, "#O A man X f")),
        "status": "complete",
    },
    "empty": {"status": "redacted"},
}


@pytest.mark.parametrize("content", [{"videos": VIDEOS}, VIDEOS], ids=["videos key", "older release"])
def test_passes_are_read_in_the_order_of_time(tmp_path, content):
    path = tmp_path / "narration.json"
    path.write_text(json.dumps(content))
    passes = ego4d.read_narrations(path)
    assert [(entry.video_uid, entry.name[-1], entry.texts) for entry in passes] == [
        ("a", "1", ["#C C d", "#C C e"]),
        ("a", "2", ["#O A man X f"]),
        ("b", "1", ["#C C a", "#C C b", "#C C c"]),
    ]
    assert passes[0].uids == ["a:narration_pass_1:1", "a:narration_pass_1:0"]


def test_egoclip_windows_by_hand(tmp_path):
    # Mean gaps: pass a/1 6 s, pass b/1 2 s; a/2 has one narration and so none. α = (6 + 2) / 2 = 4.
    # Half widths β/(2α): a/1 6/8 = 0.75 s, b/1 2/8 = 0.25 s, a/2 takes β = α: 0.5 s.
    path = tmp_path / "narration.json"
    path.write_text(json.dumps(VIDEOS))
    windows = ego4d.egoclip_windows(ego4d.read_narrations(path))
    np.testing.assert_allclose(windows[0], ([5.25, 11.25], [6.75, 12.75]))
    np.testing.assert_allclose(windows[1], ([8.5], [9.5]))
    np.testing.assert_allclose(windows[2], ([-0.25, 1.75, 3.75], [0.25, 2.25, 4.25]))


WHOLE = {"timestamp_sec": 1, "narration_text": "#C C cuts"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "a list where an object is expected"),
        ("text", '"text" where an object is expected'),
        ({"videos": [1]}, "videos: a list where an object is expected"),
        ({"videos": {}}, "no video in it has a narration"),
        ({"version": "v1"}, "no video in it has a narration"),
        ({"videos": {"u": [WHOLE]}}, r"videos\.u: a list where"),
        ({"videos": {"u": {"narration_pass_1": [WHOLE]}}}, r"videos\.u\.narration_pass_1: a list where"),
        ({"u": {"narration_pass_1": [WHOLE]}}, r"videos\.u\.narration_pass_1: a list where"),
        (
            {"videos": {"u": {"narration_pass_2": {"narrations": {"0": WHOLE}}}}},
            r"narration_pass_2\.narrations: an object where a list",
        ),
        (
            {"videos": {"u": {"narration_pass_1": {"narrations": [WHOLE, "cuts"]}}}},
            r'narrations\[1\]: "cuts" where an object',
        ),
        (
            {"videos": {"u": {"narration_pass_1": {"narrations": [WHOLE, {"timestamp_sec": 1}]}}}},
            r"narrations\[1\]: it lacks 'narration_text'",
        ),
    ],
)
def test_a_wrong_place_in_the_narrations_is_named_before_any_work(tmp_path, content, message):
    (tmp_path / "v2/annotations").mkdir(parents=True)
    (tmp_path / "v2/annotations/narration.json").write_text(json.dumps(content))
    (tmp_path / "ego4d.json").write_text('{"videos": []}')
    with pytest.raises(SourceError, match=rf"narration\.json: .*{message}"):
        ego4d.check(tmp_path, allow_missing_metadata=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "a list where an object"),
        ("{}", "videos: null where a list"),
        ('{"videos": {"u": {}}}', "videos: an object where a list"),
        ('{"videos": [{"video_uid": "u"}, {}]}', r"videos\[1\]: it lacks 'video_uid'"),
        ('{"videos": [{"video_uid": "u"}', r"line 1, column 31: not valid JSON"),
    ],
)
def test_a_wrong_place_in_the_metadata_is_named_before_any_work(tmp_path, content, message):
    (tmp_path / "v2/annotations").mkdir(parents=True)
    (tmp_path / "v2/annotations/narration.json").write_text(json.dumps(VIDEOS))
    (tmp_path / "v2/ego4d.json").write_text(content)
    with pytest.raises(SourceError, match=rf"v2/ego4d\.json: .*{message}"):
        ego4d.check(tmp_path, allow_missing_metadata=True)


def test_without_metadata_nothing_begins_unless_that_is_allowed(tmp_path):
    (tmp_path / "v2/annotations").mkdir(parents=True)
    (tmp_path / "v2/annotations/narration.json").write_text(json.dumps(VIDEOS))
    with pytest.raises(SourceError, match=r"no ego4d\.json.*allow_missing_ego4d_json: true"):
        ego4d.check(tmp_path, allow_missing_metadata=False)
    ego4d.check(tmp_path, allow_missing_metadata=True)


@pytest.mark.parametrize("wrong", ["v2/annotations/narration.json", "ego4d.json", "egomcq.json"])
def test_files_too_large_for_the_start_are_read_when_the_data_are_fetched(tmp_path, monkeypatch, wrong):
    (tmp_path / "v2/annotations").mkdir(parents=True)
    (tmp_path / "v2/annotations/narration.json").write_text(json.dumps(VIDEOS))
    (tmp_path / wrong).write_text("[]")
    monkeypatch.setattr(ego4d, "CHECKED_AT_ONCE_BYTES", 1)
    ego4d.check(tmp_path, allow_missing_metadata=True)
    with pytest.raises(SourceError, match=rf"{wrong}: a list where an object"):
        ego4d.find_videos(tmp_path, tmp_path)


def question(answer, uids):
    samples = {
        str(n): {"video_uid": uid, "clip_start": n, "clip_end": n + 1.5, "clip_text": f"#C C {n}"}
        for n, uid in enumerate(uids)
    }
    return {"answer": answer, "types": 1, "query": samples[str(answer)], "choices": samples}


def test_benchmark_videos_are_those_of_egomcq_and_of_held_out_splits(tmp_path):
    assert ego4d.read_egomcq(tmp_path) == []
    (tmp_path / "egomcq.json").write_text(json.dumps({"0": question(2, "vwxyz")}))
    videos = [
        {"video_uid": "t", "split_em": "train", "split_fho": None},
        {"video_uid": "h", "split_em": "train", "split_fho": "test"},
    ]
    elsewhere = [{"video_uid": "e", "split_av": "multi", "duration_sec": 12.5}]
    (tmp_path / "ego4d.json").write_text(json.dumps({"videos": videos}))
    for release in ("v1", "v2_1"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "ego4d.json").write_text(json.dumps({"videos": elsewhere}))
    (entry,) = ego4d.read_egomcq(tmp_path)
    assert (entry.answer, entry.type, entry.text, entry.ends_s[4]) == (2, 1, "#C C 2", 5.5)
    metadata = ego4d.read_metadata(tmp_path, allow_missing=False)
    assert metadata.held_out == {"h", "e"}
    assert metadata.lengths_s == {"e": 12.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 7}, "answer is 7; it must be 0 to 4"),
        ({"answer": -1}, "answer is -1"),
        ({"answer": True}, "answer is true"),
        ({"answer": 2.5}, r"answer is 2\.5"),
        ({"types": 3}, "types is 3; it must be 1 to 2"),
        ({"query": {"clip_text": None}}, "its query has no text"),
        ({"query": None}, "cannot be read"),
        ({"choices": question(2, "vwxy")["choices"]}, "KeyError.*4"),
        ({"choices": [1, 2, 3, 4, 5]}, "cannot be read"),
    ],
)
def test_a_wrong_question_is_named_before_any_work(tmp_path, change, message):
    (tmp_path / "v2/annotations").mkdir(parents=True)
    (tmp_path / "v2/annotations/narration.json").write_text(json.dumps(VIDEOS))
    (tmp_path / "egomcq.json").write_text(json.dumps({"7": question(2, "vwxyz") | change}))
    with pytest.raises(SourceError, match=rf"egomcq\.json: question 7: .*{message}"):
        ego4d.check(tmp_path, allow_missing_metadata=True)


@pytest.mark.parametrize("end", ["soon", None, float("nan"), -1])
def test_a_choice_that_is_no_clip_is_named(tmp_path, end):
    wrong = question(2, "vwxyz")
    wrong["choices"]["3"]["clip_end"] = end
    (tmp_path / "egomcq.json").write_text(json.dumps({"7": wrong}))
    with pytest.raises(SourceError, match="question 7: choice 3 is no clip of a video"):
        ego4d.read_egomcq(tmp_path)
