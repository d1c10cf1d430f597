"""The toy kitchen: one seed gives one set of bytes, object and motion are both needed, formats are real."""

import csv
import hashlib
import json
from itertools import pairwise

import av
import numpy as np
import pytest

from avion_core.media.program import ffmpeg_binary
from avion_core.sources.toy_kitchen import layouts, render
from avion_core.sources.toy_kitchen.actions import CHOREOGRAPHY, Take
from avion_core.sources.toy_kitchen.narrations import ego4d_pass
from avion_core.sources.toy_kitchen.painter import Painter
from avion_core.sources.toy_kitchen.script import FPS, frame_size, generator, person_style, write_script
from avion_core.sources.toy_kitchen.vocabulary import COLOURS, GOES_WITH, NOUNS, OBJECTS, VERBS
from tests.support.kitchens import tiny_kitchen

SMALL = tiny_kitchen(
    ego4d_benchmark_videos=2,
    ek100_train_videos=3,
    ek100_validation_videos=2,
    video_seconds=(16.0, 18.0),
    kinetics_clip_seconds=2.5,
)


def script(name="video", *, seed=0, seconds=40.0, size=(96, 72), **more):
    style = person_style(seed, "P01")
    return write_script(name, seed=seed, size=size, duration_s=seconds, style=style, **more)


def digest(painter, frames):
    return hashlib.sha256(b"".join(painter.frame(number).tobytes() for number in frames)).hexdigest()


def test_the_same_seed_gives_the_same_script_and_frames():
    one, two, other = script(), script(), script(seed=1)
    assert one == two != other
    frames = range(0, one.frames, 50)
    assert digest(Painter(one, seed=0), frames) == digest(Painter(two, seed=0), frames)
    assert digest(Painter(one, seed=0), frames) != digest(Painter(other, seed=1), frames)


def test_actions_follow_one_another_inside_the_video():
    actions = script().actions
    assert 15 <= len(actions) <= 24
    assert all(before.end_s < after.start_s for before, after in pairwise(actions))
    assert all(1.2 <= action.end_s - action.start_s <= 2.5 for action in actions)
    assert actions[0].start_s > 0
    assert actions[-1].end_s < 40.0


def test_verbs_and_nouns_are_balanced_and_neither_gives_the_other_away():
    actions = [action for number in range(20) for action in script(f"video {number}").actions]
    verbs = {verb: sum(action.verb == verb for action in actions) / len(actions) for verb in VERBS}
    nouns = {noun: sum(action.noun == noun for action in actions) / len(actions) for noun in OBJECTS}
    assert max(verbs.values()) < 0.13
    assert max(nouns.values()) < 0.13
    assert min(nouns.values()) > 0.04
    assert all(len(choices) >= 4 for choices in GOES_WITH.values())
    assert all(sum(noun in choices for choices in GOES_WITH.values()) >= 3 for noun in OBJECTS)
    assert all(len(COLOURS[noun]) >= 2 for noun in OBJECTS)


@pytest.mark.parametrize(("verb", "reverse"), [("take", "put"), ("open", "close")])
def test_opposites_show_the_same_pictures_in_opposite_order(verb, reverse):
    take = Take(noun="pot", x=0.0, y=0.0, side=1)
    forward = [CHOREOGRAPHY[verb](take, progress) for progress in np.linspace(0, 1, 9)]
    backward = [CHOREOGRAPHY[reverse](take, progress) for progress in np.linspace(1, 0, 9)]
    assert forward == backward
    assert forward[0] != forward[-1]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_moves_and_works_with_each_of_its_objects(verb):
    for noun in GOES_WITH[verb]:
        take = Take(noun=noun, x=0.0, y=0.0, side=-1)
        moments = [CHOREOGRAPHY[verb](take, progress) for progress in (0.0, 0.25, 0.5, 0.75)]
        assert all(one != two for one, two in pairwise(moments))


def test_all_sprites_are_drawn_inside_frames_of_every_size():
    for index in (0, 1, 4):
        width, height = frame_size(64, index)
        painter = Painter(script(size=(width, height), seconds=45.0), seed=0)
        for action in painter.script.actions:
            assert painter.frame(round(action.middle_s * FPS)).size == (width, height)
    assert {size % 2 for index in range(6) for size in frame_size(144, index)} == {0, 1}
    assert frame_size(144, 0) == (192, 144)
    assert frame_size(144, 1) == (216, 160)
    assert frame_size(144, 4) == (191, 145)


def test_two_annotators_disagree_as_real_ones_do():
    scripts = [script(f"video {number}") for number in range(12)]
    first, second = (
        [ego4d_pass(entry, generator(0, f"{entry.name} {number}"), usual=usual) for entry in scripts]
        for number, usual in ((1, 0.75), (2, 0.45))
    )
    texts = [[point.text for entry in annotator for point in entry] for annotator in (first, second)]
    assert texts[0] != texts[1]
    for said in texts:
        assert any(text.startswith("#O ") for text in said)
        assert any("#unsure" in text for text in said)
        assert sum(text.startswith("#C C ") for text in said) > 0.9 * len(said)
    actions = sum(len(entry.actions) for entry in scripts)
    assert 0.85 * actions < len(texts[0]) < 1.1 * actions
    assert all(
        0 <= point.time_s < entry.duration_s
        for entry, points in zip(scripts, first, strict=True)
        for point in points
    )


# ------------------------------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy_kitchen")
    return root, {layout: make(SMALL, root / layout) for layout, make in layouts.LAYOUTS.items()}


def content(folder):
    files = sorted(path for path in folder.rglob("[!.]*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_files(kitchen, tmp_path):
    root, _ = kitchen
    layouts.make_ego4d(SMALL, tmp_path)
    again = content(tmp_path)
    assert again == content(root / "ego4d")
    assert {"ego4d.json", "egomcq.json", "v2/annotations/narration.json"} <= set(again)


def test_a_second_run_renders_only_what_is_missing_or_changed(tmp_path, monkeypatch):
    rendered = []

    def fake(script, target, *, seed):
        rendered.append(script.name)
        target.write_text(str(seed))

    def run(names, **changes):
        rendered.clear()
        settings = SMALL.model_copy(update=changes)
        scripts = [script(name, seed=settings.seed, seconds=5.0) for name in names]
        render.render_all(scripts, tmp_path, suffix=".mp4", settings=settings, title="test")
        return list(rendered)

    monkeypatch.setattr(render, "render", fake)
    assert run(["a", "b"]) == ["a", "b"]
    assert run(["a", "b"]) == []
    (tmp_path / "b.mp4").unlink()
    assert run(["a", "b"]) == ["b"]
    assert run(["a", "b"], seed=7) == ["a", "b"]
    assert run(["b", "c"], seed=7) == ["c"]
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["b.mp4", "c.mp4"]


def test_a_kill_keeps_the_finished_videos(tmp_path, monkeypatch):
    rendered = []

    def killed_at_b(script, target, *, seed):
        rendered.append(script.name)
        if script.name == "b" and rendered.count("b") == 1:
            raise KeyboardInterrupt
        target.touch()

    monkeypatch.setattr(render, "render", killed_at_b)
    scripts = [script(name, seconds=5.0) for name in "abc"]
    with pytest.raises(KeyboardInterrupt):
        render.render_all(scripts, tmp_path, suffix=".mp4", settings=SMALL, title="test")
    render.render_all(scripts, tmp_path, suffix=".mp4", settings=SMALL, title="test")
    assert rendered == ["a", "b", "b", "c"]


def test_videos_have_their_frames_rate_sound_and_odd_size(kitchen):
    _, videos = kitchen
    sizes = set()
    for video in videos["ek100"]:
        with av.open(str(video.path)) as container:
            stream = container.streams.video[0]
            assert stream.average_rate == FPS
            assert len(container.streams.audio) == 1
            assert 16 * FPS <= stream.frames <= 18 * FPS
            sizes.add((stream.width, stream.height))
    assert len(sizes) == 3
    assert any(width % 2 and height % 2 for width, height in sizes)


def test_the_video_shows_the_painted_frames(kitchen):
    _, videos = kitchen
    name = f"P01/videos/{videos['ek100'][0].video_id}"
    painter = Painter(layouts._long_video(name, "P01", 0, SMALL), seed=0)
    with av.open(str(videos["ek100"][0].path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % 97 == 0:
                shown = frame.to_ndarray(format="rgb24").astype(float)
                painted = np.asarray(painter.frame(number), dtype=float)
                assert np.abs(shown - painted).mean() < 8


def test_ffmpegs_message_is_told_when_encoding_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(
        render, "render_command", lambda *_, **__: [ffmpeg_binary(), "-i", "nothing.mp4", "x.mp4"]
    )
    with pytest.raises(RuntimeError, match=r"nothing\.mp4"):
        render.render(script(seconds=3.0), tmp_path / "video.mp4", seed=0)
    assert list(tmp_path.iterdir()) == []


def test_ego4d_files_have_the_releases_form(kitchen):
    root, videos = kitchen
    narrations = json.loads((root / "ego4d/v2/annotations/narration.json").read_text())["videos"]
    assert set(narrations) == {video.video_id for video in videos["ego4d"]}
    for entry in narrations.values():
        assert set(entry) == {"narration_pass_1", "narration_pass_2", "status"}
        for name in ("narration_pass_1", "narration_pass_2"):
            points = entry[name]["narrations"]
            assert {key for point in points for key in point} == {
                "timestamp_sec",
                "timestamp_frame",
                "narration_text",
                "annotation_uid",
            }
            assert [point["timestamp_sec"] for point in points] == sorted(p["timestamp_sec"] for p in points)
    metadata = json.loads((root / "ego4d/ego4d.json").read_text())["videos"]
    assert {video["video_uid"] for video in metadata} == set(narrations)
    assert all(video["duration_sec"] == video["video_metadata"]["num_frames"] / FPS for video in metadata)


def test_questions_have_one_answer_and_benchmark_videos_only(kitchen):
    root, videos = kitchen
    questions = json.loads((root / "ego4d/egomcq.json").read_text()).values()
    benchmark = {video.video_id for video in videos["ego4d"][2:]}
    assert {question["types"] for question in questions} == {1, 2}
    for question in questions:
        choices = [question["choices"][str(index)] for index in range(5)]
        assert question["query"] == choices[question["answer"]]
        uids = {choice["video_uid"] for choice in choices}
        assert uids <= benchmark
        assert (len(uids) == 1) == (question["types"] == 2)
        assert all(0 <= choice["clip_start"] < choice["clip_end"] for choice in choices)
    assert len({question["answer"] for question in questions}) > 1


def read_csv(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_epic_kitchens_files_have_the_owners_columns(kitchen):
    raw = kitchen[0] / "ek100"
    train, validation = (read_csv(raw / f"EPIC_100_{split}.csv") for split in ("train", "validation"))
    assert ",".join(train[0]) == (
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,"
        "stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
    )
    assert not {row["video_id"] for row in train} & {row["video_id"] for row in validation}
    assert {row["participant_id"] for row in validation} - {row["participant_id"] for row in train}
    assert {row["participant_id"] for row in validation} & {row["participant_id"] for row in train}
    verbs, nouns = (read_csv(raw / f"EPIC_100_{kind}_classes.csv") for kind in ("verb", "noun"))
    assert [row["key"] for row in verbs] == list(VERBS)
    assert [row["key"] for row in nouns] == list(NOUNS)
    assert list(verbs[0]) == ["id", "key", "instances", "category"]
    assert list(read_csv(raw / "EPIC_100_video_info.csv")[0]) == ["video_id", "duration", "fps", "resolution"]


def test_retrieval_sentences_are_distinct_and_cover_the_clips(kitchen):
    raw = kitchen[0] / "ek100"
    for split, retrieval in (("train", "train"), ("validation", "test")):
        clips = read_csv(raw / f"EPIC_100_{split}.csv")
        assert read_csv(raw / f"retrieval_annotations/EPIC_100_retrieval_{retrieval}.csv") == clips
        sentences = read_csv(raw / f"retrieval_annotations/EPIC_100_retrieval_{retrieval}_sentence.csv")
        texts = [row["narration"] for row in sentences]
        assert len(set(texts)) == len(texts) < len(clips)
        assert set(texts) == {row["narration"] for row in clips}
        assert {row["narration_id"] for row in sentences} <= {row["narration_id"] for row in clips}


def test_kinetics_lists_name_every_clip_once(kitchen):
    root, videos = kitchen
    lines = [
        line
        for name in ("train.txt", "val.txt")
        for line in (root / "kinetics" / name).read_text().splitlines()
    ]
    assert len(lines) == len(videos["kinetics"]) == 16
    for line in lines:
        path, frames, label = line.split(" ")
        assert (root / "kinetics" / path).is_file()
        assert (int(frames), int(label) in range(8)) == (75, True)
