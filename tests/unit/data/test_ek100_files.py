"""EPIC-KITCHENS-100 is found in the forms in which people keep it, and an error says what was looked for."""

import pytest

from avion_core.config import DatasetSettings
from avion_core.data import ek100_files
from avion_core.data.source_videos import SourceError
from avion_core.sources.download import DataSet, download, source_problems
from tests.support.epic import write_epic

WANTED = ("P01_01", "P01_101", "P02_01")
FORMS = {
    "the owners'": ("P01/videos/P01_01.MP4", "P01/videos/P01_101.MP4", "P02/videos/P02_01.MP4"),
    "by participant": ("P01/P01_01.mp4", "P01/P01_101.MP4", "P02/P02_01.mp4"),
    "flat": ("P01_01.MP4", "P01_101.MP4", "P02_01.mp4"),
    "EPIC-KITCHENS-55": (
        "videos/train/P01/P01_01.MP4",
        "videos/test/P01/P01_101.MP4",
        "videos/test/P02/P02_01.MP4",
    ),
    "a level more": (
        "EPIC-KITCHENS/P01/videos/P01_01.MP4",
        "EPIC-KITCHENS/P01/videos/P01_101.MP4",
        "EPIC-KITCHENS/P02/videos/P02_01.MP4",
    ),
    "55 and extension": (
        "epic55/videos/train/P01/P01_01.MP4",
        "extension/P01/videos/P01_101.MP4",
        "epic55/videos/test/P02/P02_01.MP4",
    ),
    "LaViLa's copies": (
        "video_ht256px/P01/P01_01.MP4",
        "video_ht256px/P01/P01_101.MP4",
        "video_ht256px/P02/P02_01.MP4",
    ),
    "a folder a video": (
        "P01/videos/P01_01/P01_01.MP4",
        "P01/videos/P01_101/P01_101.MP4",
        "P02/P02_01/P02_01.mp4",
    ),
}


def put(folder, *names, content=b""):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def settings(path, annotations=None):
    local = {"path": str(path)} | ({"annotations": str(annotations)} if annotations else {})
    return DatasetSettings.model_validate({"layout": "ek100", "source": "local", "local": local})


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_videos_are_found_in_all_forms(tmp_path, form):
    put(tmp_path, *form, "P01/videos/P01_02.MP4", "P01/rgb_frames/P01_01.tar", ".cache/P01_01.MP4")
    found, missing = ek100_files.find_videos(tmp_path, WANTED)
    assert {video.video_id: video.path for video in found} == dict(
        zip(WANTED, (tmp_path / path for path in form), strict=True)
    )
    assert [video.video_id for video in found] == sorted(WANTED)
    assert not missing
    ek100_files.require_videos(tmp_path, WANTED)


def test_missing_videos_are_expected_in_the_usual_places_and_in_those_of_the_others(tmp_path):
    put(tmp_path, "copies/P01/P01_01.MP4")
    found, missing = ek100_files.find_videos(tmp_path, {"P01_01", "P02_01"})
    assert [video.video_id for video in found] == ["P01_01"]
    assert {video.video_id for video in missing} == {"P02_01"}
    places = [str(video.path.relative_to(tmp_path)) for video in missing]
    assert places[0] == "P02/videos/P02_01.MP4"
    assert {"P02_01.mp4", "videos/test/P02/P02_01.MP4", "copies/P02/P02_01.MP4"} <= set(places)


def test_the_owners_place_comes_first_and_other_copies_must_be_the_same(tmp_path):
    put(tmp_path, "a/P01_01.MP4", "b/P01_01.MP4", content=b"same")
    assert ek100_files.find_videos(tmp_path, ["P01_01"])[0][0].path == tmp_path / "a/P01_01.MP4"
    put(tmp_path, "b/P01_01.MP4", content=b"another")
    with pytest.raises(
        SourceError, match=r"a/P01_01\.MP4 and .*b/P01_01\.MP4: different files of video P01_01"
    ):
        ek100_files.find_videos(tmp_path, ["P01_01"])
    put(tmp_path, "P01/videos/P01_01.MP4", content=b"the owners'")
    assert ek100_files.find_videos(tmp_path, ["P01_01"])[0][0].path == tmp_path / "P01/videos/P01_01.MP4"


def test_folders_of_frames_are_not_listed_and_a_circle_of_links_ends(tmp_path, monkeypatch):
    put(tmp_path, "P01/rgb_frames/P01_01/frame_0000000001.jpg", "P01/P01_02.MP4")
    (tmp_path / "P01/again").symlink_to(tmp_path)
    listed = []
    scandir = ek100_files.os.scandir
    monkeypatch.setattr(ek100_files.os, "scandir", lambda place: listed.append(str(place)) or scandir(place))
    assert ek100_files.search(tmp_path, {"P01_02"}).videos == {"P01_02": [tmp_path / "P01/P01_02.MP4"]}
    assert not [place for place in listed if place.endswith("P01_01")]


@pytest.mark.parametrize("frames", ["P01/rgb_frames/P01_01.tar", "rgb/train/P01/P01_01/frame_0000000001.jpg"])
def test_frames_alone_are_refused_with_a_way_out(tmp_path, frames):
    put(tmp_path, frames)
    with pytest.raises(
        SourceError, match=r"frames of 1 annotated videos, such as .*P01_01.*epic_downloader\.py --videos"
    ):
        ek100_files.require_videos(tmp_path, {"P01_01", "P02_01"})


def test_annotations_and_videos_may_be_apart(tmp_path, capsys):
    write_epic(tmp_path / "lab/epic-kitchens-100-annotations")
    put(tmp_path / "disk", "copies/P01_01.mp4", content=b"x")
    own = DataSet("it", settings(tmp_path / "disk", tmp_path / "lab"), tmp_path / "data/it")
    download(own)
    assert "P01_02" in capsys.readouterr().err
    raw = {str(path.relative_to(own.raw_dir)) for path in own.raw_dir.rglob("*.csv")}
    assert raw == set(ek100_files.ANNOTATIONS)
    assert own.source().clips_at_most([]) == {"train": 2, "validation": 0}


def test_the_error_names_what_was_looked_for_and_where(tmp_path):
    write_epic(tmp_path / "csv")
    (tmp_path / "disk").mkdir()
    [problem] = source_problems(DataSet("it", settings(tmp_path / "disk", tmp_path / "csv"), tmp_path / "it"))
    for part in ("disk: none of", "missing: P01_01, P01_02, P02_01", "P01/videos/P01_01.MP4", "`local.path`"):
        assert part in problem
    [problem] = source_problems(DataSet("it", settings(tmp_path / "no", tmp_path / "csv"), tmp_path / "it"))
    assert "no: no such folder; set `local.path`" in problem
    [problem] = source_problems(DataSet("it", settings(tmp_path / "disk"), tmp_path / "it"))
    assert "disk: missing EPIC_100_train.csv" in problem and "`local.annotations`" in problem


def test_annotations_that_differ_are_refused(tmp_path):
    for place in ("a", "b"):
        write_epic(tmp_path / place)
    assert ek100_files.annotation_files(tmp_path)["EPIC_100_train.csv"] == tmp_path / "a/EPIC_100_train.csv"
    (tmp_path / "b/EPIC_100_train.csv").write_text("older")
    with pytest.raises(SourceError, match=r"a/EPIC_100_train\.csv and .*b/EPIC_100_train\.csv differ"):
        ek100_files.annotation_files(tmp_path)
