"""The user's CSV: times, and every mistake named with file, line, column, value and the way out."""

import pytest

from avion_core.config import DatasetSettings
from avion_core.data import folder
from avion_core.data.download import check_source, download
from avion_core.data.sources import SourceError

HEADER = "video,start,end,text\n"


@pytest.fixture
def videos(tmp_path):
    root = tmp_path / "videos"
    (root / "day").mkdir(parents=True)
    (root / "a.mp4").write_bytes(b"a")
    (root / "day" / "b.mp4").write_bytes(b"bb")
    return root


def settings_for(videos, text, encoding="utf-8"):
    narrations = videos.parent / "mine.csv"
    narrations.write_bytes(text.encode(encoding))
    source = {"videos": str(videos), "narrations": str(narrations)}
    return DatasetSettings(layout="folder", source="folder", folder=source)


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,start,text\na.mp4,0,x\n", "line 1: column 'end' is missing"),
        (
            HEADER + "a.mp4,0,1,x\na.mp4,soon,2,x\n",
            "line 3: column 'start': 'soon' is not a time; write seconds",
        ),
        (HEADER + "a.mp4,0:05,0:04,x\n", "line 2: column 'end': '0:04' is not after the start '0:05'"),
        (HEADER + "a.mp4,1,1,x\n", "line 2: column 'end': '1' is not after"),
        (HEADER + "a.mp4,0,1,x\nc.mp4,0,1,x\n", "line 3: column 'video': 'c.mp4' is not in"),
        (HEADER + "a.mp4,0,1, \n", "line 2: column 'text': it is empty"),
        (HEADER + ",0,1,x\n", "line 2: column 'video': it is empty"),
        (HEADER + "a.mp4,0,1,cuts, then eats\n", "line 2: more values than columns"),
        (HEADER + "a.mp4,0\n", "line 2: column 'end': '' is not a time"),
        ("video,start,end,text,split\na.mp4,0,1,x,test\n", "line 2: column 'split': 'test' is unknown"),
        (HEADER, "no narrations after the header"),
        ("", "line 1: column 'video' is missing"),
    ],
)
def test_each_mistake_is_named_before_any_work(videos, text, message):
    settings = settings_for(videos, text)
    with pytest.raises(SourceError) as caught:
        check_source("mine", settings)
    assert message in str(caught.value)
    assert "data set 'mine'" in str(caught.value)
    assert "mine.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_encodings_and_missing_files_are_named(videos):
    with pytest.raises(SourceError, match="not UTF-8"):
        check_source("mine", settings_for(videos, HEADER + "a.mp4,0,1,café\n", encoding="latin-1"))
    settings = settings_for(videos, HEADER + "a.mp4,0,1,x\n")
    (videos.parent / "mine.csv").unlink()
    with pytest.raises(SourceError, match="the narrations CSV is not there"):
        check_source("mine", settings)
    gone = settings.model_copy(update={"folder": settings.folder.model_copy(update={"videos": "/nowhere"})})
    with pytest.raises(SourceError, match="/nowhere: no such folder"):
        check_source("mine", gone)


def test_spreadsheet_quirks_are_accepted(videos):
    text = '\ufeffvideo, start ,end,text\na.mp4,0,1,"cut, then eat"\n'
    folder.check(settings_for(videos, text))
    rows = folder.read_narrations(videos.parent / "mine.csv", videos=videos)
    assert rows[0].text == "cut, then eat"


def test_download_lists_the_videos_where_they_are_and_copies_the_csv(videos, tmp_path):
    import pyarrow.parquet as pq

    from avion_core.config import ToyKitchenSettings

    settings = settings_for(videos, HEADER + "day/b.mp4,0,1,x\na.mp4,0,1,y\n")
    out = tmp_path / "data" / "videos.parquet"
    download(
        "mine", settings=settings, toy_kitchen=ToyKitchenSettings(), raw_dir=tmp_path / "raw", videos=out
    )
    assert pq.read_table(out).to_pylist() == [
        {
            "video_id": name.replace("/", "__"),
            "path": str(videos / f"{name}.mp4"),
            "bytes": size,
            "mtime_ns": (videos / f"{name}.mp4").stat().st_mtime_ns,
        }
        for name, size in (("a", 1), ("day/b", 2))
    ]
    assert (tmp_path / "raw" / "narrations.csv").read_text() == (tmp_path / "mine.csv").read_text()


def test_two_videos_with_one_name_are_refused(videos, tmp_path):
    from avion_core.config import ToyKitchenSettings

    (videos / "a.avi").write_bytes(b"")
    settings = settings_for(videos, HEADER + "a.avi,0,1,x\na.mp4,0,1,y\n")
    with pytest.raises(SourceError, match="would both be called 'a'; rename one"):
        download(
            "mine",
            settings=settings,
            toy_kitchen=ToyKitchenSettings(),
            raw_dir=tmp_path / "raw",
            videos=tmp_path / "videos.parquet",
        )
    assert not (tmp_path / "videos.parquet").exists()


def test_the_held_out_share_is_stable_and_about_right():
    names = [f"video {number}.mp4" for number in range(2000)]
    held_out = {name for name in names if folder.split_of(name, validation_fraction=0.2) == "validation"}
    assert 0.17 < len(held_out) / len(names) < 0.23
    assert held_out <= {
        name for name in names if folder.split_of(name, validation_fraction=0.3) == "validation"
    }
    assert all(folder.split_of(name, validation_fraction=0.0) == "train" for name in names)
    assert all(folder.split_of(name, validation_fraction=1.0) == "validation" for name in names)
