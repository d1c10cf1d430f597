"""Finished chunks outlive their sources, and only whole chunks take their place."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from avion_core.files import fingerprint, read_json, write_json
from avion_core.media import chunker
from avion_core.media.chunk_table import read_chunk_table
from avion_core.media.source_file import returned_sources
from avion_core.media.transcode import have_other_settings
from tests.support.counted_video import read_number, write_counted
from tests.unit.media.place import SETTINGS, Place, ffmpeg, read_all

OTHER = SETTINGS.model_copy(update={"crf": 40})


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """Names of the sources that FFmpeg was started for."""
    names: list[str] = []
    original = chunker.make_chunks

    def counting(source, *arguments):
        names.append(source.name)
        return original(source, *arguments)

    monkeypatch.setattr("avion_core.media.transcode.make_chunks", counting)
    return names


@pytest.fixture
def done(place: Place, made: list[str]) -> Place:
    """Videos a, b and c with chunks, as of a run that ended well."""
    place.list_videos(*(write_counted(place.folder / f"raw/{name}.mp4", 70) for name in "abc"))
    place.transcode()
    made.clear()
    return place


def files(place: Place) -> dict[Path, tuple[int, int]]:
    """What changes when a chunk or its marker is written again."""
    found = place.chunks.glob("*/chunks/*")
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def unlink(source: Path) -> None:
    source.unlink()


def unmount(source: Path) -> None:
    source.parent.rename(source.parent.with_name("elsewhere"))


def empty(source: Path) -> None:
    source.write_bytes(b"")


def dangle(source: Path) -> None:
    source.unlink()
    source.symlink_to("no/annex/object")


def folder(source: Path) -> None:
    source.unlink()
    source.mkdir()


@pytest.mark.parametrize("take_away", [unlink, unmount, empty, dangle, folder])
def test_chunks_of_a_source_that_is_away_stay_in_use_with_any_number_of_shards(done, made, take_away, capsys):
    before, rows = files(done), read_chunk_table(done.index).to_pylist()
    take_away(done.folder / "raw/b.mp4")
    found = []
    for k in (1, 2):
        found += done.transcode(f"{k}-of-2")
        assert done.reasons() == {}
    assert sorted(found, key=lambda row: (row["video_id"], row["chunk"])) == rows
    assert files(done) == before and made == []
    assert "b.mp4" in capsys.readouterr().err


def test_a_mount_that_answers_with_an_error_is_away_too(done, made, monkeypatch):
    """As a network disk does whose server is gone."""
    rows, source = read_chunk_table(done.index).to_pylist(), done.folder / "raw/b.mp4"
    stat = Path.stat

    def stale(path: Path, **options: object) -> os.stat_result:
        if path == source:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", stale)
    assert done.transcode() == rows and made == []
    shutil.rmtree(done.chunks / "b_mp4")
    assert {row["video_id"] for row in done.transcode()} == {"a_mp4", "c_mp4"}
    assert done.reasons() == {"b_mp4": "Stale file handle"}


def test_a_source_without_chunks_that_is_away_is_quarantined_until_it_is_back(done, made):
    hidden = (done.folder / "raw/b.mp4").rename(done.folder / "hidden")
    shutil.rmtree(done.chunks / "b_mp4")
    assert {row["video_id"] for row in done.transcode()} == {"a_mp4", "c_mp4"}
    assert done.reasons() == {"b_mp4": "no such file"} and returned_sources(done.quarantine) == []
    hidden.rename(done.folder / "raw/b.mp4")
    assert returned_sources(done.quarantine) == [str(done.folder / "raw/b.mp4")]
    assert len(done.transcode()) == 6 and done.reasons() == {} and made == ["b.mp4"]
    assert returned_sources(done.quarantine) == []


def test_other_settings_do_not_cost_the_chunks_of_a_source_that_is_away(done, made):
    before = files(done)
    hidden = (done.folder / "raw/b.mp4").rename(done.folder / "hidden")
    done.transcode(settings=OTHER)
    assert done.reasons() == {"b_mp4": "no such file; its chunks with other settings are kept"}
    kept = {path: mark for path, mark in before.items() if "b_mp4" in str(path)}
    assert kept.items() <= files(done).items()
    hidden.rename(done.folder / "raw/b.mp4")
    made.clear()
    assert len(done.transcode(settings=SETTINGS)) == 6 and made == ["a.mp4", "c.mp4"]


@pytest.mark.parametrize("read_only", [False, True])
def test_the_same_content_with_another_time_makes_nothing_again(done, made, monkeypatch, read_only):
    """As after a copy that kept no times. The digest is computed once, if the new time can be noted."""
    rows = read_chunk_table(done.index).to_pylist()
    chunks = {path: mark for path, mark in files(done).items() if path.suffix == ".mp4"}
    for source in (done.folder / "raw").iterdir():
        os.utime(source, ns=(1, 1))
    if read_only:
        monkeypatch.setattr("avion_core.media.transcode.write_json", refuse_below(done.chunks))
    assert done.transcode() == rows and made == []
    assert chunks.items() <= files(done).items()
    if not read_only:
        monkeypatch.setattr("avion_core.media.transcode.sha256", lambda path: pytest.fail("computed again"))
    assert done.transcode() == rows


def refuse_below(folder: Path) -> Callable[..., None]:
    def write(path: Path, value: object) -> None:
        if path.is_relative_to(folder):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        write_json(path, value)

    return write


def test_another_content_of_the_same_size_and_time_apart_is_made_again(done, made):
    source = done.folder / "raw/a.mp4"
    content = source.read_bytes()
    write_counted(done.folder / "new.mp4", 70, options={"crf": "40"})
    new = (done.folder / "new.mp4").read_bytes()
    source.write_bytes(new + bytes(max(len(content) - len(new), 0)))
    assert source.stat().st_size == len(content)
    done.transcode()
    assert made == ["a.mp4"]


def test_chunks_that_nobody_may_write_are_read(done, made, monkeypatch):
    """Whoever the test runs as: root may write everything."""
    rows, opened = read_chunk_table(done.index).to_pylist(), Path.open

    def refuse(path: Path, mode: str = "r", **options: object) -> object:
        if mode != "r" and mode != "rb" and path.is_relative_to(done.chunks):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, mode, **options)

    monkeypatch.setattr(Path, "open", refuse)
    assert done.transcode() == rows and made == []


@pytest.mark.parametrize("content", [b"text\n" * 500, None], ids=["no video", "cut"])
def test_a_source_that_went_bad_is_quarantined_and_costs_no_chunks(done, made, content):
    """It comes back as it was, and so do the chunks. Meanwhile it is not read again and again."""
    source, before = done.folder / "raw/b.mp4", files(done)
    whole, time = source.read_bytes(), source.stat().st_mtime_ns
    source.write_bytes(content or whole[: len(whole) * 2 // 3])
    for _ in range(2):
        assert {row["video_id"] for row in done.transcode()} == {"a_mp4", "c_mp4"}
        assert list(done.reasons()) == ["b_mp4"]
    assert made == ["b.mp4"] and before == files(done)
    source.write_bytes(whole)
    os.utime(source, ns=(time, time))
    assert len(done.transcode()) == 6 and done.reasons() == {} and made == ["b.mp4"]


def test_old_chunks_stay_until_those_of_a_changed_source_are_whole(done, made, monkeypatch):
    """The kill comes between the two renames that swap them, and the source is away afterwards."""
    before = files(done)
    source = write_counted(done.folder / "raw/b.mp4", 40, width=256, height=256)
    rename = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if path.name == "chunks":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", killed)
        done.transcode()
    hidden = source.rename(done.folder / "hidden")
    assert [row["frames"] for row in done.transcode() if row["video_id"] == "b_mp4"] == [60, 10]
    assert files(done) == before
    hidden.rename(source)
    rows = [row for row in done.transcode() if row["video_id"] == "b_mp4"]
    assert [read_number(frame) for frame in read_all(rows)] == list(range(40))
    assert not list(done.chunks.rglob(".partial-*"))


def test_a_source_that_changes_or_goes_while_it_is_read_leaves_no_verdict(place, made, monkeypatch):
    source = write_counted(place.folder / "a.mp4", 70)
    place.list_videos(source)
    original, hidden = chunker.make_chunks, place.folder / "hidden"

    def unmounted(*arguments):
        chunks = original(*arguments)
        source.rename(hidden)
        return chunks

    with monkeypatch.context() as patched:
        patched.setattr("avion_core.media.transcode.make_chunks", unmounted)
        assert place.transcode() == []
    assert place.reasons() == {"a_mp4": "the file changed while it was read"}
    hidden.rename(source)
    assert [row["frames"] for row in place.transcode()] == [60, 10] and place.reasons() == {}


def as_an_earlier_version_wrote_it(place: Place) -> None:
    for name in "abc":
        source, path = place.folder / f"raw/{name}.mp4", place.chunks / f"{name}_mp4/chunks/done.json"
        found = source.stat()
        identity = {"settings": SETTINGS.model_dump(), "source": [found.st_size, found.st_mtime_ns]}
        entries = read_json(path)["chunks"]
        write_json(path, {"made_of": fingerprint(identity), "reason": None, "chunks": entries})


def test_markers_of_an_earlier_version_hold(done, made):
    rows = read_chunk_table(done.index).to_pylist()
    as_an_earlier_version_wrote_it(done)
    before = files(done)
    assert done.transcode() == rows
    (done.folder / "raw/b.mp4").unlink()
    assert done.transcode() == rows and files(done) == before and made == []
    done.transcode(settings=SETTINGS.model_copy(update={"short_side_px": 64}))
    assert made == ["a.mp4", "c.mp4"] and "chunks with other settings" in done.reasons()["b_mp4"]


def test_refusals_of_an_earlier_version_are_looked_at_again(place):
    place.list_videos(write_counted(place.folder / "a.mp4", 70))
    home = place.chunks / "a_mp4/chunks"
    home.mkdir(parents=True)
    write_json(home / "done.json", {"made_of": "a digest", "reason": "no such file", "chunks": []})
    assert [row["frames"] for row in place.transcode()] == [60, 10] and place.reasons() == {}


@pytest.fixture
def grey(done: Place) -> Place:
    """Videos a, b and c of an earlier version; b is HDR, and its chunks are grey: still tagged as PQ."""
    for number in (0, 1):
        chunk = done.chunks / f"b_mp4/chunks/{number:05}.mp4"
        tagged = ffmpeg(
            f"-i {chunk} -c copy -bsf:v h264_metadata=transfer_characteristics=16", done.folder / "a.mp4"
        )
        tagged.replace(chunk)
    marker = done.chunks / "b_mp4/chunks/done.json"
    content = read_json(marker)
    for entry in content["chunks"]:
        entry["bytes"] = (marker.parent / entry["file"]).stat().st_size
    write_json(marker, content)
    as_an_earlier_version_wrote_it(done)
    return done


def test_grey_chunks_that_an_earlier_version_made_of_hdr_video_are_made_again(grey, made):
    before = files(grey)
    for _ in range(2):
        assert len(grey.transcode()) == 6 and made == ["b.mp4"]
    kept = {path: mark for path, mark in before.items() if "b_mp4" not in str(path)}
    assert kept.items() <= files(grey).items()


def test_grey_chunks_stay_and_are_told_of_while_their_source_is_away(grey, made, capsys):
    before = files(grey)
    (grey.folder / "raw/b.mp4").unlink()
    assert len(grey.transcode()) == 6 and files(grey) == before and made == []
    assert "1 of these" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_source_that_cannot_be_read_stops_no_other_and_costs_no_chunks(done, made, monkeypatch, number):
    """As on a bad disk, or where it is another user's. Its time is new, so that it would be read."""
    rows, source, opened = read_chunk_table(done.index).to_pylist(), done.folder / "raw/b.mp4", Path.open
    os.utime(source, ns=(1, 1))

    def refuse(path: Path, mode: str = "r", **options: object) -> object:
        if path == source:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, mode, **options)

    monkeypatch.setattr(Path, "open", refuse)
    assert done.transcode() == rows and made == []
    shutil.rmtree(done.chunks / "b_mp4")
    assert {row["video_id"] for row in done.transcode()} == {"a_mp4", "c_mp4"}
    assert done.reasons() == {"b_mp4": os.strerror(number)}
    monkeypatch.undo()
    assert done.transcode() == rows and done.reasons() == {}


def test_chunks_of_other_settings_are_told_beforehand(done: Place) -> None:
    def told(settings=SETTINGS) -> bool:
        return have_other_settings(done.videos, chunks_dir=done.chunks, settings=settings)

    assert not told() and told(OTHER)
    (done.folder / "raw/a.mp4").write_bytes(b"another video")
    assert not told(), "a changed source is no other setting"
    for video in "abc":
        path = done.chunks / f"{video}_mp4/chunks/done.json"
        source = (done.folder / f"raw/{video}.mp4").stat()
        identity = {"settings": SETTINGS.model_dump(), "source": [source.st_size, source.st_mtime_ns]}
        write_json(path, {"made_of": fingerprint(identity), "chunks": read_json(path)["chunks"]})
    assert not told() and told(OTHER), "chunks of an earlier version too"
    unmount(done.folder / "raw/a.mp4")
    assert not told(OTHER), "without sources chunks stay"


@pytest.mark.parametrize("content", ["{", "[3]", "3", '[{"away": true}]', '[{"away": true, "path": 3}]'])
def test_a_damaged_list_of_quarantined_videos_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "quarantine.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"{path}: "):
        returned_sources(path)
