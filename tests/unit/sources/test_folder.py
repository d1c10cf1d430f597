"""The user's CSV and videos: every mistake named with file, line, column, value and the way out."""

from pathlib import Path

import pytest

from avion_core.config import DatasetSettings
from avion_core.data.folder import read_narrations
from avion_core.data.source_videos import SourceError
from avion_core.media.file_table import read_file_table
from avion_core.sources.download import DataSet, download, source_problems

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


def data_set(settings, home):
    return DataSet("mine", settings, home)


def check_narrations(settings):
    data_set(settings, Path("nowhere")).source().check_narrations()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,start,text\na.mp4,0,x\n", "line 1: column 'end' is missing"),
        (
            HEADER + "c.mp4,0,1,x\na.mp4,0,1,x\nd.mp4,0,1,x\nc.mp4,0,1,x\n",
            "line 2: column 'video': 'c.mp4' is not in",
        ),
        (HEADER + "c.mp4,0,1,x\nd.mp4,0,1,x\n", ", nor are d.mp4; correct the name or add the file"),
        (
            HEADER + "a.mp4,0,1,x\na.mp4,soon,2,x\n",
            "line 3: column 'start': 'soon' is not a time; write seconds",
        ),
        (HEADER + "a.mp4,0:05,0:04,x\n", "line 2: column 'end': '0:04' is not after the start '0:05'"),
        (HEADER + "a.mp4,1,1,x\n", "line 2: column 'end': '1' is not after"),
        (HEADER + "a.mp4,0,1,x\nc.mp4,0,1,x\n", "line 3: column 'video': 'c.mp4' is not in"),
        (HEADER + "a.mp4,0,1, \n", "line 2: column 'text': it says nothing"),
        (HEADER + "a.mp4,0,1,...\u200b\n", "line 2: column 'text': it says nothing"),
        (HEADER + "a.mp4,0,1_5,x\n", "line 2: column 'end': '1_5' is not a time"),
        (HEADER + "a.mp4,0,\u0661,x\n", "line 2: column 'end': '\u0661' is not a time"),
        (HEADER + "a" * 5000 + ".mp4,0,1,x\n", "is not in"),
        (HEADER + ",0,1,x\n", "line 2: column 'video': it is empty"),
        (HEADER + "a.mp4,0,1,cuts, then eats\n", "line 2: more values than columns"),
        (HEADER + "a.mp4,0\n", "line 2: the row ends before column 'end' (2 values, 4 columns); complete"),
        ("video,start,end,text,split\na.mp4,0,1,x,test\n", "line 2: column 'split': 'test' is unknown"),
        (HEADER, "no narrations after the header"),
        ("", "line 1: column 'video' is missing"),
    ],
)
def test_each_mistake_is_named_before_any_work(videos, text, message):
    settings = settings_for(videos, text)
    [problem] = source_problems(data_set(settings, videos.parent))
    assert message in problem
    assert "data set 'mine'" in problem
    assert "mine.csv" in problem
    assert "\n" not in problem


def test_other_encodings_and_missing_files_are_named(videos):
    latin = settings_for(videos, HEADER + "a.mp4,0,1,café\n", encoding="latin-1")
    [problem] = source_problems(data_set(latin, videos.parent))
    assert "not UTF-8" in problem
    settings = settings_for(videos, HEADER + "a.mp4,0,1,x\n")
    (videos.parent / "mine.csv").unlink()
    [problem] = source_problems(data_set(settings, videos.parent))
    assert "mine.csv: no such file; add it or correct the path" in problem


@pytest.mark.parametrize(
    ("text", "message"),
    [("movie,start,end,text\n", "column 'video' is missing"), (HEADER + "x.mp4,0,1,x\n", None)],
)
def test_a_wrong_folder_and_a_wrong_csv_are_told_at_once(videos, text, message):
    settings = settings_for(videos, text)
    settings = settings.model_copy(
        update={"folder": settings.folder.model_copy(update={"videos": "/nowhere"})}
    )
    told = list(source_problems(data_set(settings, videos.parent)))
    assert "/nowhere: no such folder; set `folder.videos`" in told[0]
    assert [message in line for line in told[1:]] == ([True] if message else [])


def test_spreadsheet_quirks_are_accepted(videos):
    text = '\ufeffvideo, start ,end,text\na.mp4,0,1,"cut, then eat"\n'
    check_narrations(settings_for(videos, text))
    rows = read_narrations(videos.parent / "mine.csv", videos=videos)
    assert rows[0].text == "cut, then eat"


@pytest.mark.parametrize("start", ["", "sep=;\r\n"])
def test_a_german_spreadsheet_is_read(videos, start):
    text = (
        f"\ufeff{start}video;start;end;text;split;;\r\nday\\b.mp4;0:01,5;3,5;cuts, then eats;;;\r\n;;;;;;\r\n"
    )
    settings_for(videos, text)
    (row,) = read_narrations(videos.parent / "mine.csv", videos=videos)
    assert (row.video, row.start_s, row.end_s, row.text) == ("day/b.mp4", 1.5, 3.5, "cuts, then eats")


def test_a_decimal_comma_needs_the_separator_that_goes_with_it(videos):
    with pytest.raises(SourceError, match="column 'end': '3,5' is not a time"):
        check_narrations(settings_for(videos, HEADER + 'a.mp4,0,"3,5",x\n'))


def test_one_video_under_several_spellings_is_one_video(videos):
    composed, decomposed = "caf\u00e9.mp4", "cafe\u0301.mp4"
    (videos / decomposed).write_bytes(b"c")
    text = HEADER + f"{composed},0,1,x\n./{decomposed},1,2,y\na.mp4,0,1,z\n.//day/../a.mp4,1,2,w\n"
    settings = settings_for(videos, text)
    check_narrations(settings)
    rows = read_narrations(videos.parent / "mine.csv", videos=videos)
    assert [row.video for row in rows] == [composed, composed, "a.mp4", "a.mp4"]
    found = data_set(settings, videos).source().list_videos()
    assert [(video.video_id, video.path) for video in found] == [
        ("a", videos / "a.mp4"),
        ("caf\u00e9", videos / decomposed),
    ]


def test_files_of_one_name_are_told_all_at_once_before_any_work(videos):
    for name in ("a.mkv", "A.mov", "day__b.mp4", "c.mp4"):
        (videos / name).write_bytes(b"")
    names = ("a.mp4", "a.mkv", "A.mov", "day/b.mp4", "day__b.mp4", "c.mp4")
    settings = settings_for(videos, HEADER + "".join(f"{n},0,1,x\n" for n in names))
    [message] = source_problems(data_set(settings, videos.parent))
    assert all(str(videos / name) in message for name in names[:-1])
    assert "c.mp4" not in message


def test_a_quotation_mark_that_is_never_closed_costs_no_row(videos):
    rows = [f"a.mp4,{n},{n + 1},opens the drawer" for n in range(3500)]
    rows[100] = 'a.mp4,100,101,"opens the drawer'
    with pytest.raises(SourceError, match=r"mine\.csv: line 102: a quotation mark is not closed"):
        check_narrations(settings_for(videos, HEADER + "\n".join(rows)))


def test_download_lists_the_videos_where_they_are_and_copies_the_csv(videos, tmp_path):
    settings = settings_for(videos, HEADER + "day/b.mp4,0,1,x\na.mp4,0,1,y\n")
    download(data_set(settings, tmp_path))
    assert read_file_table(tmp_path / "videos.parquet").to_pylist() == [
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
    (videos / "a.avi").write_bytes(b"")
    settings = settings_for(videos, HEADER + "a.avi,0,1,x\na.mp4,0,1,y\n")
    with pytest.raises(SourceError, match=r"same name: .*a\.avi and .*a\.mp4; rename all but one"):
        download(data_set(settings, tmp_path))
    assert not (tmp_path / "videos.parquet").exists()
