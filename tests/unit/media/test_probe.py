import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from avion_core.media import MediaError
from avion_core.media.probe import probe
from tests.support.counted_video import write_counted


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        tone.rate = 16000
        container.mux(stream.encode(tone))
        container.mux(stream.encode())
    return path


def test_what_a_video_says_about_itself(tmp_path):
    info = probe(
        write_counted(tmp_path / "a.mp4", 60, width=172, height=132, fps=Fraction(30000, 1001), sound=True)
    )
    assert info.fps == Fraction(30000, 1001) and (info.width, info.height) == (172, 132)
    assert info.end_s == pytest.approx(60 * 1001 / 30000) and info.end_is_exact
    assert info.codec == "h264" and info.has_audio


def test_matroska_states_the_length_of_the_video_stream(tmp_path):
    info = probe(write_counted(tmp_path / "a.mkv", 45))
    assert info.end_s == pytest.approx(1.5, abs=0.05) and info.end_is_exact


def test_files_that_are_no_video_are_refused_with_the_reason(tmp_path):
    empty = tmp_path / "empty.mp4"
    empty.touch()
    text = tmp_path / "text.mp4"
    text.write_text("video,start,end,text\n" * 100)
    whole = write_counted(tmp_path / "whole.mp4", 60).read_bytes()
    no_index = tmp_path / "no_index.mp4"
    no_index.write_bytes(whole[: len(whole) * 3 // 4])
    picture = write_counted(tmp_path / "picture.png", 1, codec="png", pixel_format="rgb24")
    renamed = picture.rename(tmp_path / "renamed.mp4")
    playlist, parts, fifo = (tmp_path / name for name in ("live.m3u8", "parts.mp4", "fifo.mp4"))
    parts.write_text("ffconcat version 1.0\nfile whole.mp4\n")
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{tmp_path / 'whole.mp4'}\n")
    os.mkfifo(fifo)
    reasons = {
        tmp_path / "gone.mp4": "no such file",
        empty: "the file is empty",
        tmp_path: "not a file",
        fifo: "not a file",
        Path("/dev/zero"): "not a file",
        playlist: "not a video (text or a playlist)",
        parts: "not a video (text or a playlist)",
        text: "corrupt or not a video",
        no_index: "corrupt or not a video",
        renamed: "not a video",
        write_sound(tmp_path / "sound.mp4"): "no video stream (it holds audio)",
    }
    for path, reason in reasons.items():
        with pytest.raises(MediaError) as caught:
            probe(path)
        assert caught.value.reason.startswith(reason) and str(path) in str(caught.value)


def test_a_name_with_a_colon_is_a_file(tmp_path, monkeypatch):
    """FFmpeg takes what stands before a colon for a protocol."""
    write_counted(tmp_path / "a.mp4", 5).rename(tmp_path / "12:30 walk.mp4")
    monkeypatch.chdir(tmp_path)
    assert probe(Path("12:30 walk.mp4")).fps == 30


def test_a_time_stamp_gone_astray_is_damage_and_not_a_day_of_one_picture(tmp_path):
    day = 86400 * 30  # frames
    path = write_counted(tmp_path / "a.mp4", 20, times=[*range(10), *range(day, day + 10)])
    with pytest.raises(MediaError, match="damaged: one frame in 4320 seconds"):
        probe(path)
    slides = write_counted(tmp_path / "b.mp4", 4, times=[0, 150, 300, 450])
    assert probe(slides).fps < 1
