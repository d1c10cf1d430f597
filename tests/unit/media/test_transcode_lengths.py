"""Pictures that end before the sound are whole; files that were cut are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from avion_core.media import MediaError, chunker
from tests.unit.media.place import SETTINGS, ffmpeg

X264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p"
pytestmark = pytest.mark.slow

CONTAINERS = [
    ("a.mkv", f"{X264} -c:a aac"),
    ("a.mp4", f"{X264} -c:a aac"),
    ("a.mov", f"{X264} -c:a aac"),
    ("a.ts", f"{X264} -c:a aac"),
    ("a.avi", "-c:v mpeg4 -q:v 2 -c:a libmp3lame"),
    ("a.flv", f"{X264} -c:a aac -ar 44100"),
    ("a.webm", "-c:v libvpx -deadline realtime -c:a libopus"),
    ("a.wmv", "-c:v wmv2 -q:v 2 -c:a wmav2"),
    ("a.mpg", "-c:v mpeg2video -q:v 2 -c:a mp2"),
]


def source(path: Path, codecs: str, *, pictures_s: float, sound_s: float) -> Path:
    pictures = f"-f lavfi -t {pictures_s} -i testsrc2=size=128x128:rate=30"
    return ffmpeg(f"{pictures} -f lavfi -t {sound_s} -i sine=sample_rate=48000 {codecs}", path)


def frames(path: Path, folder: Path) -> int:
    return sum(chunk.frames for chunk in chunker.make_chunks(path, folder, SETTINGS))


def without_duration_tags(path: Path) -> None:
    """As other programs than FFmpeg write Matroska: the file states its length, and no stream does."""
    content = path.read_bytes()
    assert content.count(b"DURATION") == 2
    path.write_bytes(content.replace(b"DURATION", b"OTHERTAG"))


def test_three_pictures_beside_twenty_seconds_of_sound(tmp_path):
    assert frames(Path(__file__).with_name("videos") / "sound.mkv", tmp_path / "chunks") == 3


@pytest.mark.parametrize(("name", "codecs"), CONTAINERS)
def test_sound_may_go_on_after_the_pictures(tmp_path, name, codecs):
    path = source(tmp_path / name, codecs, pictures_s=0.5, sound_s=20)
    assert frames(path, tmp_path / "chunks") in (15, 16)  # FFmpeg's AVI muxer repeats a picture


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
def test_where_only_the_length_of_the_file_is_stated_its_longest_stream_counts(tmp_path, name):
    path = source(tmp_path / name, dict(CONTAINERS)[name], pictures_s=0.5, sound_s=20)
    without_duration_tags(path)
    assert frames(path, tmp_path / "chunks") == 15


@pytest.mark.parametrize(("name", "codecs"), CONTAINERS)
@pytest.mark.parametrize("sound_s", [4, 8])
def test_cut_files_with_sound_are_refused(tmp_path, name, codecs, sound_s):
    if name == "a.mpg":
        pytest.skip("MPEG program streams neither state their length nor mark their end")
    path = source(tmp_path / name, codecs, pictures_s=4, sound_s=sound_s)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(
        MediaError, match=r"cut short: |damaged: |corrupt or not a video|FFmpeg cannot read it"
    ):
        chunker.make_chunks(path, tmp_path / "chunks", SETTINGS)


def test_a_file_cut_between_two_clusters_is_refused(tmp_path):
    """Where no message tells: nothing is broken, there is only less than the file's head states."""
    path = source(
        tmp_path / "a.mkv", f"{X264} -g 15 -c:a aac -cluster_time_limit 500", pictures_s=4, sound_s=4
    )
    without_duration_tags(path)
    content = path.read_bytes()
    cluster = bytes.fromhex("1f43b675")
    middle = content.index(cluster, len(content) // 2)
    path.write_bytes(content[:middle])
    with pytest.raises(MediaError, match=r"cut short: |damaged: "):
        chunker.make_chunks(path, tmp_path / "chunks", SETTINGS)


def test_a_cut_file_at_whose_end_the_demuxer_fails_is_refused(tmp_path):
    """RealMedia ends with an error there, where other formats just end."""
    path = source(tmp_path / "a.rm", "-c:v rv20 -s 176x144 -c:a ac3", pictures_s=4, sound_s=4)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(MediaError, match=r"cut short: |damaged: "):
        chunker.make_chunks(path, tmp_path / "chunks", SETTINGS)
