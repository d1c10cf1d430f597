import os
import resource
import signal
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avion_core.files import sha256, write_json
from avion_core.media import chunker
from avion_core.media.chunk_table import CHUNK_SCHEMA, read_chunk_table
from avion_core.media.transcode import gather_chunks
from tests.support.counted_video import read_number, write_counted
from tests.unit.media.place import SETTINGS, Place, read_all, wait_until


def test_chunks_of_a_video_follow_each_other_without_gap(place):
    place.list_videos(write_counted(place.folder / "a.mp4", 150, width=256, height=256, sound=True))
    rows = place.transcode()
    assert [row["frames"] for row in rows] == [60, 60, 30]
    assert [row["start_frame"] for row in rows] == [0, 60, 120]
    assert [row["chunk"] for row in rows] == [0, 1, 2] and {row["video_id"] for row in rows} == {"a_mp4"}
    assert {(row["fps_num"], row["fps_den"], row["width"], row["height"]) for row in rows} == {
        (30, 1, 128, 128)
    }
    for row in rows:
        path = Path(row["path"])
        assert row["bytes"] == path.stat().st_size and row["sha256"] == sha256(path)
        with av.open(str(path)) as container:
            assert [stream.type for stream in container.streams] == ["video"]
    assert [read_number(frame) for frame in read_all(rows)] == list(range(150))
    assert pq.read_schema(place.index).equals(CHUNK_SCHEMA) and place.reasons() == {}


@pytest.mark.parametrize(("frames", "expected"), [(120, [60, 60]), (121, [60, 60, 1]), (60, [60]), (1, [1])])
def test_a_whole_number_of_chunks_leaves_no_empty_last_one(place, frames, expected):
    place.list_videos(write_counted(place.folder / "a.mp4", frames))
    assert [row["frames"] for row in place.transcode()] == expected
    assert len(list(place.chunks.rglob("*.mp4"))) == len(expected)


@pytest.mark.parametrize(("b_frames", "references"), [(0, 70), (5, 13), (11, 7)])
def test_keyframes_lie_at_their_distance_and_nothing_refers_to_b_frames(place, b_frames, references):
    """70 frames, a keyframe every 12: between two of them 11 B frames, or 5, a reference and 5."""
    place.list_videos(write_counted(place.folder / "a.mp4", 70))
    settings = SETTINGS.model_copy(
        update={"keyframe_interval_frames": 12, "b_frames": b_frames, "chunk_seconds": 3.0}
    )
    [row] = place.transcode(settings=settings)
    with av.open(row["path"]) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    order = sorted(packet.pts for packet in packets)
    keyframes = [order.index(packet.pts) for packet in packets if packet.is_keyframe]
    referred = [any(nal & 0x60 for nal in _slices(bytes(packet))) for packet in packets]
    assert keyframes == [0, 12, 24, 36, 48, 60]
    assert sum(referred) == references  # the last frame is one, since no keyframe follows


def _slices(data: bytes) -> list[int]:
    """Header bytes of the picture slices in an MP4 packet (4-byte lengths)."""
    headers, place = [], 0
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        if data[place + 4] & 0x1F in (1, 5):
            headers.append(data[place + 4])
        place += 4 + length
    return headers


@pytest.mark.parametrize(
    ("source_fps", "chunk_fps"),
    [
        (25, 30.0),
        (60, 30.0),
        (Fraction(30000, 1001), 30.0),
        (30, 29.97),
        (30, 12.5),
    ],
)
def test_frame_k_is_the_frame_shown_at_its_time(place, source_fps, chunk_fps):
    place.list_videos(write_counted(place.folder / "a.mp4", 100, width=256, height=256, fps=source_fps))
    rows = place.transcode(settings=SETTINGS.model_copy(update={"fps": chunk_fps}))
    rate = Fraction(rows[0]["fps_num"], rows[0]["fps_den"])
    assert rate == (Fraction(30000, 1001) if chunk_fps == 29.97 else Fraction(chunk_fps))
    shown = np.array([read_number(frame) for frame in read_all(rows)])
    expected = np.arange(len(shown)) * float(source_fps / rate)
    # shown from its time stamp until the next frame's, give or take half a frame of the chunk
    assert (shown - expected <= 0.5 * max(1, source_fps / rate) + 1e-6).all()
    assert (expected - shown <= 1 + 1e-6).all()
    assert len(shown) == pytest.approx(100 / float(source_fps) * float(rate), abs=1.01)


def test_a_late_first_frame_and_a_varying_rate_keep_their_times(place):
    times = [15, 16, 17, 20, 30, 31, 45, 60, 61, 75]
    place.list_videos(
        write_counted(place.folder / "a.mp4", 10, width=256, height=256, times=times, sound=True)
    )
    shown = [read_number(frame) for frame in read_all(place.transcode())]
    for number, moment in enumerate(times):
        assert shown[moment] == number
    assert shown[:15] == [0] * 15 and shown[44] == 5


@pytest.mark.parametrize(
    ("width", "height", "expected"), [(171, 131, (168, 128)), (131, 171, (128, 168)), (64, 64, (128, 128))]
)
def test_odd_and_small_sizes_become_even_with_the_short_side_asked_for(place, width, height, expected):
    source = write_counted(
        place.folder / "a.mkv", 12, width=width, height=height, codec="ffv1", pixel_format="yuv444p"
    )
    place.list_videos(source)
    [row] = place.transcode()
    assert (row["width"], row["height"]) == expected


def test_bad_videos_are_quarantined_and_the_rest_goes_on(place):
    good = write_counted(place.folder / "good.mp4", 100)
    whole = place.folder / "whole.mp4"
    command = [chunker.ffmpeg_binary(), "-v", "error", "-i", str(good), "-c", "copy"]
    subprocess.run([*command, "-movflags", "+faststart", str(whole)], check=True)
    content = whole.read_bytes()
    cut, damaged, no_index, empty, text = (
        place.folder / f"{name}.mp4" for name in ("cut", "damaged", "no_index", "empty", "text")
    )
    cut.write_bytes(content[: len(content) * 6 // 10])
    middle = len(content) * 6 // 10
    damaged.write_bytes(content[:middle] + bytes(400) + content[middle + 400 :])
    no_index.write_bytes(good.read_bytes()[: len(content) // 2])
    empty.touch()
    text.write_text("text\n" * 500)
    place.list_videos(cut, damaged, no_index, good, empty, text, place.folder / "gone.mp4")
    rows = place.transcode()
    assert {row["video_id"] for row in rows} == {"good_mp4"}
    reasons = place.reasons()
    assert reasons["cut_mp4"].startswith("cut short: ") and "of 3.3 seconds" in reasons["cut_mp4"]
    assert reasons["damaged_mp4"].startswith("damaged: ")
    assert reasons["no_index_mp4"].startswith("corrupt or not a video")
    assert reasons["empty_mp4"] == "the file is empty" and reasons["gone_mp4"] == "no such file"
    assert reasons["text_mp4"].startswith("corrupt or not a video")
    assert len(list(place.chunks.rglob("*.mp4"))) == len(rows)


def test_finished_videos_are_not_made_again_unless_source_or_settings_change(place, monkeypatch):
    first, second = (write_counted(place.folder / name, 30) for name in ("a.mp4", "b.mp4"))
    empty = place.folder / "c.mp4"
    empty.touch()
    place.list_videos(first, second, empty)
    rows = place.transcode()
    made: list[str] = []
    original = chunker.make_chunks

    def counting(source, folder, settings):
        made.append(source.name)
        return original(source, folder, settings)

    monkeypatch.setattr("avion_core.media.transcode.make_chunks", counting)
    assert place.transcode() == rows and made == [] and list(place.reasons()) == ["c_mp4"]
    write_counted(first, 40)
    assert [row["frames"] for row in place.transcode()] == [40, 30] and made == ["a.mp4"]
    Path(rows[1]["path"]).write_bytes(b"short")
    assert place.transcode()[1] == rows[1] and made == ["a.mp4", "b.mp4"]
    other = place.transcode(settings=SETTINGS.model_copy(update={"crf": 40}))
    assert len(made) == 4 and other[1]["sha256"] != rows[1]["sha256"]


@pytest.mark.slow
def test_a_kill_in_the_middle_leaves_finished_videos_as_they_are_and_the_rest_is_made_after(place, tmp_path):
    sources = [write_counted(place.folder / f"{name}.mp4", 130, width=256, height=256) for name in "abcd"]
    place.list_videos(*sources)
    settings = SETTINGS.model_copy(update={"preset": "veryfast"})
    process = place.start(settings)
    wait_until(lambda: bool(list(place.chunks.glob("*/chunks/done.json"))))
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in place.chunks.glob("*/chunks/done.json")}
    assert 1 <= len(finished) < len(sources) and not place.index.exists()
    rows = place.transcode(settings=settings)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert not list(place.chunks.rglob(".partial-*"))

    undisturbed = Place(tmp_path / "undisturbed")
    undisturbed.list_videos(*sources)
    again = undisturbed.transcode(settings=settings)
    assert [row["frames"] for row in again] == [row["frames"] for row in rows] == 4 * [60, 60, 10]
    assert [read_number(frame) for frame in read_all(rows)] == 4 * list(range(130))


def test_shards_divide_the_videos_and_are_gathered_in_order(place, capsys):
    sources = [write_counted(place.folder / f"{name}.mp4", 70) for name in "cab"]
    place.list_videos(*sources, place.folder / "gone.mp4")
    shards, quarantines = [], []
    for k in (1, 2):
        place.index, place.quarantine = place.folder / f"{k}.parquet", place.folder / f"{k}.json"
        place.transcode(f"{k}-of-2")
        shards.append(place.index)
        quarantines.append(place.quarantine)
    assert {row["video_id"] for row in read_chunk_table(shards[0]).to_pylist()} == {"c_mp4", "b_mp4"}
    place.index, place.quarantine = place.folder / "all.parquet", place.folder / "all.json"
    gather_chunks(shards, quarantines, index=place.index, quarantine=place.quarantine)
    rows = read_chunk_table(place.index).to_pylist()
    assert [(row["video_id"], row["chunk"]) for row in rows] == [
        (f"{name}_mp4", chunk) for name in "abc" for chunk in (0, 1)
    ]
    assert list(place.reasons()) == ["gone_mp4"]
    assert f"listed in {place.quarantine}: 1, {place.folder / 'gone.mp4'} (" in capsys.readouterr().err


def test_a_data_set_without_one_good_video_is_an_error(place):
    place.list_videos(place.folder / "gone.mp4")
    assert place.transcode() == []
    with pytest.raises(ValueError, match=r"none of the 1 videos can be used:\n.*gone\.mp4: no such file"):
        gather_chunks(
            [place.index],
            [place.quarantine],
            index=place.folder / "all.parquet",
            quarantine=place.folder / "all.json",
        )


@pytest.mark.parametrize("shard", ["0-of-2", "3-of-2", "1of2", ""])
def test_a_shard_that_does_not_exist_is_refused(place, shard):
    place.list_videos()
    with pytest.raises(ValueError, match="not of the form k-of-n"):
        place.transcode(shard)


def test_a_video_id_that_leaves_the_folder_is_refused(place):
    pq.write_table(pa.table({"video_id": ["../a"], "path": ["a.mp4"], "bytes": [0]}), place.videos)
    with pytest.raises(ValueError, match=r"video_id '\.\./a' cannot be the name of a folder"):
        place.transcode()


@pytest.mark.parametrize(
    ("message", "code", "error"),
    [
        ("av_interleaved_write_frame(): No space left on device", 228, OSError),
        ("av_interleaved_write_frame(): Disk quota exceeded", 134, OSError),
        ("[segment] Failed to open segment '00001.mp4': Read-only file system", 226, OSError),
        ("[vost#0:0] Unknown encoder 'libx264'", 8, ChildProcessError),
        ("it was sent SIGTERM, of which it says nothing", 255, ChildProcessError),
    ],
)
def test_faults_of_the_machine_stop_the_run_and_blame_no_video(place, monkeypatch, message, code, error):
    fake = place.folder / "ffmpeg"
    fake.write_text(f'#!/bin/sh\necho "{message}" >&2\nexit {code}\n')
    fake.chmod(0o755)
    monkeypatch.setattr(chunker, "ffmpeg_binary", lambda: str(fake))
    place.list_videos(write_counted(place.folder / "a.mp4", 10))
    with pytest.raises(error) as caught:
        place.transcode()
    assert not place.quarantine.exists() and not list(place.chunks.rglob("done.json"))
    if error is OSError:
        assert os.strerror(caught.value.errno) in message


def test_a_file_as_large_as_the_system_allows_blames_no_video(place):
    """The kernel ends FFmpeg by a signal, as it does where a job is out of processor time."""
    place.list_videos(write_counted(place.folder / "a.mp4", 60, width=256, height=256))
    process = place.start(
        SETTINGS, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
    )
    assert process.wait() != 0
    assert not place.quarantine.exists() and not list(place.chunks.rglob("done.json"))


@pytest.mark.parametrize(
    "line",
    [
        "[mjpeg @ 0x55d0] mjpeg_decode_dc: bad vlc: 0:0 (0x7f52)",
        "[mjpeg @ 0x55d0] error y=12 x=3",
        "[in#0/matroska,webm @ 0x55d0] Element at 0x9 ending at 0x7 exceeds containing master element",
        "[dec:ffv1 @ 0x55d0] slice CRC mismatch 5F1D!at 0.1 seconds",
    ],
)
def test_messages_of_damage_are_known(place, monkeypatch, line):
    """As FFmpeg 9 prints them of a video stream, though it goes on and ends well."""
    fake = place.folder / "ffmpeg"
    fake.write_text(f'#!/bin/sh\n"{chunker.ffmpeg_binary()}" "$@"\necho "{line}" >&2\n')
    fake.chmod(0o755)
    monkeypatch.setattr(chunker, "ffmpeg_binary", lambda: str(fake))
    place.list_videos(write_counted(place.folder / "a.mp4", 10))
    assert place.transcode() == [] and place.reasons()["a_mp4"].startswith("damaged: 1 decoding messages")


def test_a_table_that_is_no_chunk_index_is_refused(tmp_path):
    write_json(tmp_path / "a.parquet", {})
    with pytest.raises(ValueError, match=r"a\.parquet: not a Parquet file"):
        read_chunk_table(tmp_path / "a.parquet")
    pq.write_table(pa.table({"video": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="its columns are video"):
        read_chunk_table(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="run the stage `transcode` first"):
        read_chunk_table(tmp_path / "c.parquet")
