"""Transcoding that breaks off in the middle of a video goes on at the chunk."""

from __future__ import annotations

import errno
import shutil
import signal
from pathlib import Path

import pytest

from avion_core.media import chunker
from tests.support.counted_video import read_number, write_counted
from tests.unit.media.place import SETTINGS, read_all, wait_until

pytestmark = pytest.mark.slow
FRAMES = 400
SECOND_CHUNKS = SETTINGS.model_copy(update={"chunk_seconds": 1.0})


def identity(paths: list[Path]) -> dict[str, tuple[int, int]]:
    """What changes when a file is written again."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


@pytest.fixture
def broken_off(place, monkeypatch):
    """A video of seven chunks whose disk is full in the fourth, so that three are whole."""
    full = place.folder / "ffmpeg"
    full.write_text(
        f'#!/bin/sh\n{chunker.ffmpeg_binary()} "$@"\nrm -f 0000[456]*\n'
        'head -c 3000 00003.mp4 >cut && mv cut 00003.mp4\necho "No space left on device" >&2\nexit 228\n'
    )
    full.chmod(0o755)
    place.list_videos(write_counted(place.folder / "a.mp4", 200, width=256, height=256))
    with monkeypatch.context() as patched, pytest.raises(OSError) as caught:
        patched.setattr(chunker, "ffmpeg_binary", lambda: str(full))
        place.transcode(settings=SECOND_CHUNKS)
    assert caught.value.errno == errno.ENOSPC and not (place.chunks / "a_mp4/chunks").exists()
    return place


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_after_a_kill_finished_chunks_stay_and_the_others_hold_the_frames_they_would_have(place, ending):
    settings = SECOND_CHUNKS.model_copy(update={"preset": "slow", "short_side_px": 256})
    place.list_videos(write_counted(place.folder / "a.mp4", FRAMES, width=256, height=256))
    process = place.start(settings)
    wait_until(lambda: len(place.drafts()) > 4)
    process.send_signal(ending)
    process.wait()
    *finished, _ = identity(place.drafts()).items()
    assert 4 <= len(finished) < 13 and not (place.chunks / "a_mp4/chunks").exists()

    rows = place.transcode(settings=settings)
    made = identity(sorted((place.chunks / "a_mp4/chunks").glob("*.mp4")))
    assert dict(finished).items() <= made.items()
    assert [row["frames"] for row in rows] == [30] * 13 + [10]
    assert [read_number(frame) for frame in read_all(rows)] == list(range(FRAMES))
    assert not list(place.chunks.rglob(".partial-*"))


def test_a_video_that_another_process_works_on_is_left_to_it(place):
    """Whatever the settings: two that write into each other's chunks would spoil them unseen."""
    settings = SECOND_CHUNKS.model_copy(update={"preset": "slow", "short_side_px": 256})
    place.list_videos(write_counted(place.folder / "a.mp4", FRAMES, width=256, height=256))
    process = place.start(settings)
    wait_until(lambda: len(place.drafts()) > 1)
    for own in (settings, SECOND_CHUNKS):
        with pytest.raises(BlockingIOError, match="a_mp4/chunks: another process is at work on it"):
            place.transcode(settings=own)
    assert process.wait() == 0
    rows = place.transcode(settings=settings)
    assert [read_number(frame) for frame in read_all(rows)] == list(range(FRAMES))


def test_a_full_disk_loses_only_the_chunk_in_work(broken_off):
    finished = identity(broken_off.drafts()[:3])
    rows = broken_off.transcode(settings=SECOND_CHUNKS)
    made = identity(sorted((broken_off.chunks / "a_mp4/chunks").glob("*.mp4")))
    assert finished.items() <= made.items() and len(made) == 7
    assert [read_number(frame) for frame in read_all(rows)] == list(range(200))


def test_chunks_of_other_settings_or_another_source_are_not_gone_on_with(broken_off):
    left = identity(broken_off.drafts())
    rows = broken_off.transcode(settings=SECOND_CHUNKS.model_copy(update={"crf": 40}))
    assert len(rows) == 7 and not list(broken_off.chunks.rglob(".partial-*"))
    assert not left.items() & identity([Path(row["path"]) for row in rows]).items()


def test_a_video_that_is_refused_after_a_break_leaves_no_chunk(broken_off):
    (broken_off.folder / "a.mp4").write_text("text\n" * 500)
    assert broken_off.transcode(settings=SECOND_CHUNKS) == []
    assert broken_off.reasons()["a_mp4"].startswith("corrupt or not a video")
    assert [path.name for path in (broken_off.chunks / "a_mp4").iterdir()] == ["refused.json"]


def test_work_begun_with_settings_that_were_taken_back_is_removed(place):
    place.list_videos(write_counted(place.folder / "a.mp4", 20))
    before = place.transcode()
    (place.chunks / "a_mp4/.partial-other/chunks").mkdir(parents=True)
    assert place.transcode() == before and not list(place.chunks.rglob(".partial-*"))


def test_a_kill_while_the_old_chunks_are_deleted_leaves_nothing_for_long(place, monkeypatch):
    place.list_videos(write_counted(place.folder / "a.mp4", 20))
    place.transcode()
    with monkeypatch.context() as patched:
        patched.setattr("avion_core.files.shutil.rmtree", lambda *_, **__: None)
        rows = place.transcode(settings=SECOND_CHUNKS)
    assert list(place.chunks.glob("a_mp4/.partial-*"))
    assert place.transcode(settings=SECOND_CHUNKS) == rows
    assert not list(place.chunks.glob("a_mp4/.partial-*"))


def uneven(folder: Path) -> Path:
    """A late first frame, gaps, and more frames a second than a chunk has."""
    times = [*range(15, 60), 61, 64, 70, *range(95, 215)]
    return write_counted(folder / "a.mp4", len(times), fps=60, times=times, width=256, height=256, sound=True)


@pytest.mark.parametrize("finished", [1, 2, 4])
@pytest.mark.parametrize(
    "source", [uneven, lambda folder: write_counted(folder / "a.ts", 200, fps=50, width=256, height=256)]
)
def test_gone_on_or_not_the_frames_are_the_same(tmp_path, source, finished):
    """Also when nothing is left to be made: the sources have four whole chunks, or a little more or less."""
    video = source(tmp_path)
    undisturbed = chunker.make_chunks(video, tmp_path / "undisturbed", SECOND_CHUNKS)
    folder = tmp_path / "gone_on"
    folder.mkdir()
    for chunk in undisturbed[:finished]:
        shutil.copy(chunk.path, folder)
    unfinished = folder / f"{finished:05d}.mp4"
    unfinished.write_bytes(undisturbed[0].path.read_bytes()[:-100])
    gone_on = chunker.make_chunks(video, folder, SECOND_CHUNKS)
    assert [chunk.frames for chunk in gone_on] == [chunk.frames for chunk in undisturbed]
    shown, expected = (
        [read_number(frame) for frame in read_all([vars(chunk) for chunk in chunks])]
        for chunks in (gone_on, undisturbed)
    )
    assert shown == expected
    assert sorted(folder.glob("*.mp4")) == [chunk.path for chunk in gone_on]
