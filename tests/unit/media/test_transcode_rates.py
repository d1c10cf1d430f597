"""Chunks that keep the frame rate of their source."""

from __future__ import annotations

import random
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest

from avion_core.media import MediaError, chunker
from avion_core.media.probe import probe, source_fps
from avion_core.media.program import ffmpeg_binary
from tests.support.counted_video import read_number, write_counted
from tests.unit.media.place import SETTINGS, Place, read_all

OWN_RATE = SETTINGS.model_copy(update={"fps": None})
NTSC, FILM = Fraction(30000, 1001), Fraction(24000, 1001)


def rewrapped(source: Path, name: str, *options: str) -> Path:
    """The packets of a video in another container."""
    copy = source.with_name(name)
    command = [ffmpeg_binary(), "-v", "error", "-i", str(source), "-c", "copy", *options, str(copy)]
    subprocess.run(command, check=True)
    return copy


def fps_of(path: Path) -> Fraction:
    return source_fps(path, probe(path))


def numbers(place: Place, source: Path) -> list[int]:
    """Numbers of the source's frames that its chunks show, one after the other."""
    place.list_videos(source)
    return [read_number(frame) for frame in read_all(place.transcode(settings=OWN_RATE))]


@pytest.mark.parametrize("fps", [FILM, 24, 25, NTSC, 30, 50, 60, Fraction(25, 2), Fraction(15000, 1001)])
@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "avi", "flv"])
def test_a_constant_rate_is_found_whatever_the_ticks_of_the_file(tmp_path, container, fps):
    """A second and a half: time stamps in milliseconds leave an error of a thousandth."""
    frames = int(1.5 * fps)
    assert fps_of(write_counted(tmp_path / f"a.{container}", frames, fps=fps, options={"bf": "2"})) == fps


@pytest.mark.parametrize("frames", [2, 3, 8])
def test_few_frames_in_milliseconds_have_a_usual_rate(tmp_path, frames):
    assert fps_of(write_counted(tmp_path / "a.mkv", frames)) in (30, NTSC)


def test_a_head_that_states_another_rate_counts_for_nothing(tmp_path):
    source = write_counted(tmp_path / "a.mp4", 50)
    fast = rewrapped(source, "a.avi", "-r", "1000")
    assert probe(fast).fps == 1000 and fps_of(fast) == 30


def test_a_varying_rate_counts_by_its_average(tmp_path):
    times = [0, *sorted(random.Random(0).sample(range(1, 600), 415)), 600]
    assert fps_of(write_counted(tmp_path / "a.mp4", len(times), fps=60, times=times)) == Fraction("41.6")


def test_a_pause_does_not_slow_what_is_around_it(tmp_path):
    times = [*range(50), *range(1000, 1050)]
    assert fps_of(write_counted(tmp_path / "a.mkv", 100, fps=NTSC, times=times)) == NTSC


@pytest.mark.parametrize("frames", [1, 40])
def test_without_times_the_rate_is_that_by_which_ffmpeg_counts(place, frames):
    source = write_counted(place.folder / "a.mp4", frames, fps=50, width=256, height=256)
    raw = rewrapped(source, "a.h264", "-bsf:v", "h264_mp4toannexb")
    assert fps_of(raw) == 50 and numbers(place, raw) == list(range(frames))


def test_packets_that_are_minutes_apart_are_damage_whatever_the_head_says(tmp_path):
    path = write_counted(tmp_path / "a.mkv", 4, times=[0, 3000, 6000, 9000])
    assert probe(path).fps == 30
    with pytest.raises(MediaError, match="damaged: one frame in 100 seconds"):
        fps_of(path)


@pytest.mark.parametrize("fps", [FILM, 25, NTSC, 50, 60])
def test_frame_k_of_the_chunks_is_frame_k_of_the_source(place, fps):
    """Chunks last two seconds, to the frame, and the index has the rate."""
    source = write_counted(place.folder / "a.mp4", int(5 * fps), width=256, height=256, fps=fps)
    assert numbers(place, source) == list(range(int(5 * fps)))
    rows = place.transcode(settings=OWN_RATE)
    assert {Fraction(row["fps_num"], row["fps_den"]) for row in rows} == {Fraction(fps)}
    assert [row["frames"] for row in rows[:-1]] == [round(2 * fps)] * 2


@pytest.mark.parametrize("late_ms", [83, 483])
def test_no_frame_is_lost_where_the_first_one_is_shown_between_two_times_of_the_rate(place, late_ms):
    """In milliseconds, half a frame after a time of the rate, some would be nearer to the next one."""
    source = write_counted(place.folder / "a.mp4", 60, width=256, height=256)
    sound = ["-f", "lavfi", "-i", "anullsrc=r=48000:d=2", "-map", "1", "-map", "0", "-c:a", "libopus"]
    late = place.folder / "late.mkv"
    command = [ffmpeg_binary(), "-v", "error", "-itsoffset", f"{late_ms / 1000}", "-i", str(source)]
    subprocess.run([*command, *sound, "-c:v", "copy", str(late)], check=True)
    shown = numbers(place, late)
    assert shown[-60:] == list(range(60)) and set(shown[:-60]) <= {0}


def test_a_late_first_frame_fills_the_time_before_it(place):
    times = [15, *range(16, 40)]
    source = write_counted(place.folder / "a.mp4", 25, fps=25, times=times, width=256, height=256, sound=True)
    assert numbers(place, source) == [0] * 15 + list(range(25))


@pytest.mark.parametrize("finished", [1, 2, 3])
def test_gone_on_or_not_the_frames_are_the_same(tmp_path, finished):
    source = write_counted(tmp_path / "a.mkv", 150, fps=NTSC, width=256, height=256)
    undisturbed = chunker.make_chunks(source, tmp_path / "undisturbed", OWN_RATE)
    folder = tmp_path / "gone_on"
    folder.mkdir()
    for chunk in undisturbed[:finished]:
        shutil.copy(chunk.path, folder)
    made = chunker.make_chunks(source, folder, OWN_RATE)
    assert [(chunk.frames, chunk.rate) for chunk in made] == [(60, NTSC), (60, NTSC), (30, NTSC)]
    assert [read_number(frame) for frame in read_all([vars(chunk) for chunk in made])] == list(range(150))


def test_videos_of_one_data_set_have_each_their_rate_also_when_their_source_is_away(place):
    sources = [write_counted(place.folder / f"{fps}.mp4", 2 * fps, fps=fps) for fps in (25, 50)]
    place.list_videos(*sources)
    rows = place.transcode(settings=OWN_RATE)
    assert [(row["fps_num"], row["frames"]) for row in rows] == [(25, 50), (50, 100)]
    for source in sources:
        source.unlink()
    assert place.transcode(settings=OWN_RATE) == rows and place.reasons() == {}
    assert place.transcode() == [] and len(place.reasons()) == 2  # they have not the settings' rate


def test_chunks_of_few_frames_a_second_are_not_cut_short(place):
    """They end up to half a frame before the video does: here after 2 of 2.9 seconds."""
    place.list_videos(write_counted(place.folder / "a.mp4", 87))
    rows = place.transcode(settings=SETTINGS.model_copy(update={"fps": 0.5}))
    assert place.reasons() == {} and [row["frames"] for row in rows] == [1]
