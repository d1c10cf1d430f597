"""Each change of a source redoes its own part and no other; what is away blocks and redoes nothing."""

import itertools
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from avion_core.config import DatasetSettings
from avion_core.data.source_videos import SourceError, SourceVideo
from avion_core.media.file_table import read_file_table
from avion_core.media.source_file import look_at
from avion_core.sources import ego4d
from avion_core.sources.download import DataSet, download, source_problems, source_state
from avion_core.sources.state import SourceRecord
from tests.support.kitchens import tiny_kitchen

TOY = tiny_kitchen(kinetics_clip_seconds=1.0)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """A toy kitchen of each layout."""
    root = tmp_path_factory.mktemp("rendered")
    for layout in ("ego4d", "ek100", "kinetics"):
        download(
            DataSet(
                layout, DatasetSettings(layout=layout, source="toy_kitchen", toy_kitchen=TOY), root / layout
            )
        )
    return root


@pytest.fixture
def source(request, rendered, tmp_path):
    """A fetched data set, a video and an annotation file of its source, by the source's name and layout."""
    kind, _, layout = request.param.partition(" ")
    home = tmp_path / "data"
    if kind == "folder":
        videos = tmp_path / "videos"
        videos.mkdir()
        for name in ("a", "b"):
            (videos / f"{name}.mp4").write_text(name)
        notes = tmp_path / "mine.csv"
        notes.write_text("video,start,end,text\na.mp4,0,1,x\nb.mp4,0,1,y\n")
        settings = {"videos": str(videos), "narrations": str(notes)}
        dataset = DataSet("it", DatasetSettings(layout="folder", source="folder", folder=settings), home)
        found = videos / "a.mp4", notes
    elif kind == "local":
        origin = tmp_path / "origin"
        shutil.copytree(rendered / layout / "raw", origin, ignore=shutil.ignore_patterns(".*"))
        settings = DatasetSettings(layout=layout, source="local", local={"path": str(origin)})
        dataset = DataSet("it", settings, home)
        found = files_of(layout, origin)
    else:
        shutil.copytree(rendered / layout, home)
        dataset = DataSet("it", DatasetSettings(layout=layout, source="toy_kitchen", toy_kitchen=TOY), home)
        found = files_of(layout, home / "raw")
    download(dataset)
    return dataset, *found


def files_of(layout, raw):
    videos = sorted(path for path in raw.rglob("*") if path.suffix.lower() == ".mp4")
    names = {
        "ego4d": "v2/annotations/narration.json",
        "ek100": "EPIC_100_train.csv",
        "kinetics": "train.txt",
    }
    return videos[0], raw / names[layout]


ALL = ["folder", "local ego4d", "local ek100", "local kinetics", "toy ego4d", "toy ek100", "toy kinetics"]
every_source = pytest.mark.parametrize("source", ALL, indirect=True)


def changed(dataset):
    """The parts that are not as they were fetched."""
    now, then = source_state(dataset), SourceRecord.read(dataset.home).state
    parts = {
        "fetch": now.digest != then.digest,
        "videos": now.videos_digest != then.videos_digest,
        "annotations": now.annotations_digest() != then.annotations_digest(),
    }
    return {name for name, differs in parts.items() if differs}


def fetched_again(dataset):
    """Fetch, and see that what is there then is what was recorded."""
    download(dataset)
    assert not changed(dataset)
    return {row["video_id"]: row for row in read_file_table(dataset.home / "videos.parquet").to_pylist()}


@every_source
def test_a_source_that_stays_is_as_it_was_fetched(source):
    dataset, *_ = source
    assert not changed(dataset)
    before = (dataset.home / "videos.parquet").read_bytes()
    fetched_again(dataset)
    assert (dataset.home / "videos.parquet").read_bytes() == before


@every_source
def test_a_replaced_video_is_noticed_and_annotations_are_not_touched(source):
    dataset, video, _ = source
    video.write_bytes(b"another video")
    assert changed(dataset) == {"fetch", "videos"}
    rows = fetched_again(dataset)
    assert [row["bytes"] for row in rows.values() if row["path"] == str(video)] == [13]


@every_source
def test_an_edited_annotation_is_noticed_and_videos_are_not_touched(source):
    dataset, _, annotation = source
    annotation.write_text(annotation.read_text() + "\n")
    assert changed(dataset) == {"fetch", "annotations"}
    fetched_again(dataset)
    name = {
        "folder": lambda: "narrations.csv",
        "local": lambda: annotation.relative_to(dataset.settings.local.path),
        "toy_kitchen": lambda: annotation,
    }[dataset.settings.source]()
    assert (dataset.raw_dir / name).read_text() == annotation.read_text()


@every_source
def test_a_touched_annotation_changes_nothing(source):
    dataset, _, annotation = source
    os.utime(annotation)
    assert not changed(dataset)


@pytest.mark.parametrize("way", ["deleted", "emptied", "a folder now"])
@every_source
def test_a_video_that_is_away_redoes_and_blocks_nothing(source, way):
    """By the same measure as for transcoding, which keeps the chunks of a video that is away."""
    dataset, video, _ = source
    before = read_file_table(dataset.home / "videos.parquet")
    video.unlink()
    if way == "emptied":
        video.touch()
    elif way == "a folder now":
        video.mkdir()
    assert look_at(video) is None
    assert not changed(dataset)
    assert not list(source_problems(dataset))
    if dataset.settings.source != "toy_kitchen":  # which renders it again
        download(dataset)
        assert read_file_table(dataset.home / "videos.parquet") == before


@pytest.mark.parametrize("source", ["folder", "local ego4d", "local ek100", "local kinetics"], indirect=True)
@pytest.mark.parametrize("mount_point", [False, True])
def test_a_source_that_is_unmounted_redoes_and_blocks_nothing(source, tmp_path, mount_point):
    dataset, video, annotation = source
    for place in (tmp_path / "origin", tmp_path / "videos", tmp_path / "mine.csv"):
        if place.exists():
            place.rename(place.with_suffix(".away"))
            if mount_point and place.suffix != ".csv":
                place.mkdir()
    assert not video.exists()
    assert not annotation.exists()
    assert not changed(dataset)
    assert not list(source_problems(dataset))
    (dataset.home / "videos.parquet").unlink()
    assert list(source_problems(dataset))


@pytest.mark.parametrize("source", ["local ego4d", "local ek100", "local kinetics"], indirect=True)
def test_a_link_to_a_folder_whose_name_is_not_utf_8_is_refused_by_name(source):
    dataset, *_ = source
    origin = Path(dataset.settings.local.path)
    odd = Path(os.fsdecode(os.fsencode(origin) + b" caf\xe9"))
    origin.rename(odd)
    origin.symlink_to(odd)
    with pytest.raises(SourceError, match=r"not UTF-8: .*caf\\udce9"):
        download(dataset)


@pytest.mark.parametrize("source", ["local ego4d"], indirect=True)
def test_a_video_whose_name_is_not_utf_8_is_refused_by_name(source):
    dataset, video, _ = source
    shutil.copy(video, os.fsencode(video.parent) + b"/caf\xe9.mp4")
    assert changed(dataset) == {"fetch", "videos"}
    with pytest.raises(SourceError, match=r"not UTF-8: .*caf\\udce9\.mp4; rename"):
        download(dataset)


@pytest.mark.parametrize("source", ["local ego4d", "local ek100", "local kinetics"], indirect=True)
def test_a_video_that_comes_is_noticed(source, tmp_path):
    dataset, video, _ = source
    content = video.read_bytes()
    video.unlink()
    (dataset.home / "source.json").unlink()
    assert str(video) not in {row["path"] for row in fetched_again(dataset).values()}
    video.write_bytes(content)
    assert changed(dataset) == {"fetch", "videos"}
    assert str(video) in {row["path"] for row in fetched_again(dataset).values()}


@pytest.mark.parametrize("source", ["folder", "local ego4d", "local ek100", "local kinetics"], indirect=True)
def test_a_video_that_is_empty_from_the_beginning_is_listed_and_noticed_when_it_is_whole(source):
    """Transcoding quarantines it with that reason."""
    dataset, video, _ = source
    content = video.read_bytes()
    video.write_bytes(b"")
    (dataset.home / "source.json").unlink()
    assert [row["bytes"] for row in fetched_again(dataset).values() if row["path"] == str(video)] == [0]
    video.write_bytes(content)
    assert changed(dataset) == {"fetch", "videos"}


@pytest.mark.parametrize("source", ["folder"], indirect=True)
def test_rows_that_come_and_go_bring_and_take_their_videos(source):
    dataset, video, annotation = source
    (video.parent / "c.mp4").write_text("c")
    annotation.write_text("video,start,end,text\nb.mp4,0,1,y\nc.mp4,0,1,z\n")
    assert changed(dataset) == {"fetch", "videos", "annotations"}
    assert set(fetched_again(dataset)) == {"b", "c"}


@pytest.mark.parametrize("source", ["local ek100"], indirect=True)
def test_a_source_that_moved_is_fetched_again_and_redoes_nothing_else(source, tmp_path):
    dataset, *_ = source
    (tmp_path / "origin").rename(tmp_path / "elsewhere")
    settings = dataset.settings.model_copy(
        update={"local": dataset.settings.local.model_copy(update={"path": str(tmp_path / "elsewhere")})}
    )
    moved = DataSet("it", settings, dataset.home)
    assert changed(moved) == {"fetch"}
    rows = fetched_again(moved)
    assert all(row["path"].startswith(str(tmp_path / "elsewhere")) for row in rows.values())


def test_a_toy_kitchen_of_other_settings_is_another_source(rendered):
    toy = TOY.model_copy(update={"seed": 1})
    settings = DatasetSettings(layout="ek100", source="toy_kitchen", toy_kitchen=toy)
    other = DataSet("it", settings, rendered / "ek100")
    assert changed(other) == {"fetch", "videos", "annotations"}


def test_toy_kitchen_leaves_a_users_files_alone(tmp_path):
    """A user's own EPIC-KITCHENS in the place where the toy kitchen would be rendered."""
    video = tmp_path / "raw/P01/videos/P01_01.MP4"
    video.parent.mkdir(parents=True)
    video.write_text("the user's")
    dataset = DataSet("it", DatasetSettings(layout="ek100", source="toy_kitchen", toy_kitchen=TOY), tmp_path)
    with pytest.raises(SourceError, match=r"P01_01\.MP4: it was not rendered by the toy kitchen"):
        download(dataset)
    assert video.read_text() == "the user's"
    assert [path for path in (tmp_path / "raw").rglob("*") if path.is_file()] == [video]


@pytest.mark.parametrize("place", ["same", "linked", "inside", "around"])
def test_local_files_in_the_raw_folder_are_used_and_not_touched(rendered, tmp_path, place):
    raw = tmp_path / "data/raw"
    origin = {"inside": raw / "official", "around": tmp_path / "data", "linked": tmp_path / "mine"}.get(
        place, raw
    )
    shutil.copytree(rendered / "ek100/raw", origin, ignore=shutil.ignore_patterns(".*"))
    if place == "linked":
        raw.parent.mkdir()
        raw.symlink_to(origin)
    before = {path: path.read_bytes() for path in origin.rglob("*") if path.is_file()}
    local = DatasetSettings(layout="ek100", source="local", local={"path": str(origin)})
    for _ in range(2):
        download(DataSet("it", local, tmp_path / "data"))
        assert {path: path.read_bytes() for path in before} == before
        assert not any(path.is_symlink() for path in before)
    assert not changed(DataSet("it", local, tmp_path / "data"))


def test_what_was_downloaded_needs_no_account_any_more(tmp_path, monkeypatch):
    """The AWS profile gone, the EgoMCQ file moved: nothing is blocked until other videos are wanted."""
    questions = tmp_path / "egomcq.json"
    questions.write_text("{}")
    calls = []

    def fake(source, raw_dir):
        calls.append(source.videos)
        folder = raw_dir / "v2" / source.videos
        folder.mkdir(parents=True)
        (folder / "manifest.csv").write_text("video_uid\nu1\n")
        (folder / "u1.mp4").write_text("video")
        (raw_dir / "v2/annotations").mkdir(exist_ok=True)
        (raw_dir / "v2/annotations/narration.json").write_text('{"videos": {}}')
        (raw_dir / "ego4d.json").write_text('{"videos": []}')
        return [SourceVideo("u1", folder / "u1.mp4")]

    monkeypatch.setattr(ego4d, "fetch", fake)
    monkeypatch.setattr(ego4d, "read_all", lambda *_, **__: [])
    monkeypatch.setattr(ego4d, "check_download", lambda _: None)

    def dataset(**settings):
        entry = DatasetSettings(layout="ego4d", source="ego4d", ego4d={"egomcq": str(questions), **settings})
        return DataSet("it", entry, tmp_path / "data")

    download(dataset())

    def refuse(_):
        raise SourceError("no profile")

    monkeypatch.setattr(ego4d, "check_download", refuse)
    questions.rename(tmp_path / "moved.json")
    assert not changed(dataset(aws_profile="another"))
    assert not list(source_problems(dataset()))
    (tmp_path / "data/raw/v2/annotations/narration.json").write_text('{"videos": {} }')
    assert changed(dataset()) == {"fetch", "annotations"}
    fetched_again(dataset())
    assert calls == ["full_scale"]
    told = list(source_problems(dataset(videos="video_540ss")))
    assert any("no profile" in line for line in told)


@pytest.mark.parametrize("source", ["folder", "local ego4d", "local ek100", "local kinetics"], indirect=True)
def test_a_folder_where_an_annotation_file_should_be_is_told(source, tmp_path):
    dataset, _, notes = source
    notes.unlink()
    notes.mkdir()
    dataset = replace(dataset, home=tmp_path / "first look")
    [problem] = source_problems(dataset, source_state(dataset))
    assert notes.name in problem


@pytest.mark.parametrize("source", ["folder", "toy ek100"], indirect=True)
@pytest.mark.parametrize(
    ("record", "content"),
    [
        ("source.json", "{}"),  # in the raw folder's record it says that nothing was written
        *itertools.product(
            ["source.json", "raw/.written.json"],
            ["", "[1]", '{"state": {}, "annotations": [], "videos": {}, "missing": []}'],
        ),
    ],
)
def test_a_damaged_record_is_named_with_the_way_out(source, content, record):
    dataset, *_ = source
    (dataset.home / record).write_text(content)
    with pytest.raises(ValueError, match=rf"{record}: ") as caught:
        download(dataset)
    assert type(caught.value) is SourceError or "not valid JSON" in str(caught.value)
