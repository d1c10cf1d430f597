"""Sources that are hard: what comes out is what a viewer of the source sees, at its time, in its colours."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from avion_core.media import MediaError, chunker
from tests.support.counted_video import read_number, write_counted
from tests.unit.media.place import SETTINGS, ffmpeg, read_all

pytestmark = pytest.mark.slow
FRAMES = 75
X264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p"
TONE, AAC = "-f lavfi -i sine=sample_rate=48000", "-c:a aac"
BT601, LIMITED_RANGE = 6, 1
COLOURS = np.array(
    [[200, 40, 40], [40, 180, 60], [40, 60, 200], [230, 230, 230], [20, 20, 20], [220, 200, 40]], np.uint8
)


@pytest.fixture(scope="module")
def master(tmp_path_factory) -> Path:
    """Frames 0 … 74 at 30 per second, 256×256, lossless."""
    path = tmp_path_factory.mktemp("master") / "master.mkv"
    return write_counted(path, FRAMES, width=256, height=256, codec="ffv1", pixel_format="yuv444p")


def pictures(source: Path, folder: Path) -> NDArray[np.uint8]:
    """All frames of the source's chunks as squares of 128, T,H,W,3."""
    chunks = chunker.make_chunks(source, folder / "chunks", SETTINGS)
    assert all(chunk.frames == 60 for chunk in chunks[:-1]) and chunks[-1].frames
    return read_all([vars(chunk) for chunk in chunks])


def numbers(source: Path, folder: Path) -> list[int]:
    return [read_number(picture) for picture in pictures(source, folder)]


def assert_shown_in_time(shown: Sequence[int], times_s: Sequence[Fraction], length_s: Fraction) -> None:
    """At each 30th of a second the frame that the source shows then, give or take half of one."""
    assert abs(len(shown) - length_s * 30) <= 1
    ends = [*times_s[1:], length_s]
    for place, number in enumerate(shown):
        moment, half = Fraction(place, 30), Fraction(1, 60) + Fraction(1, 1000)  # Matroska counts in ms
        is_first = number == 0  # which fills the time before it
        assert is_first or times_s[number] - half <= moment, (place, number)
        assert moment < ends[number] + half, (place, number)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mkv", "-c:v libx265 -preset ultrafast -x265-params log-level=error -pix_fmt yuv420p10le"),
        ("a.webm", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -pix_fmt yuv420p"),
        ("a.avi", "-c:v mpeg4 -q:v 2 -bf 2 -pix_fmt yuv420p"),
        ("a.avi", "-c:v libx264 -preset veryfast -pix_fmt yuv420p"),
        ("a.avi", "-c:v mjpeg -q:v 2 -pix_fmt yuvj420p"),
        ("a.mov", "-c:v mjpeg -q:v 2 -pix_fmt yuvj422p"),
        ("a.mov", "-c:v prores_ks"),
        ("a.wmv", "-c:v wmv2 -q:v 2 -pix_fmt yuv420p"),
        ("a.ts", "-c:v mpeg2video -q:v 2 -pix_fmt yuv420p"),
        ("a.mp4", "-c:v libx264 -pix_fmt yuv420p10le"),
        ("a.mp4", "-c:v libx264 -pix_fmt yuv422p10le"),
        ("a.mp4", "-c:v libx264 -pix_fmt yuv444p"),
        ("a.mp4", "-c:v libx264 -pix_fmt gray"),
    ],
)
def test_every_codec_and_container_gives_every_frame_its_time(master, tmp_path, name, options):
    assert numbers(ffmpeg(f"-i {master} {options}", tmp_path / name), tmp_path) == list(range(FRAMES))


@pytest.mark.parametrize(
    ("name", "line", "first_s"),
    [
        ("start_offset.ts", f"-i {{}} {X264} -output_ts_offset 1000", 0),
        ("start_offset.mkv", f"-i {{}} {X264} -output_ts_offset 17.37", 0),
        ("start_offset_and_sound.mkv", f"-i {{}} {TONE} {X264} {AAC} -t 2.5 -output_ts_offset 17.37", 0),
        ("sound.ts", f"-i {{}} {TONE} {X264} {AAC} -t 2.5", 0),
        ("sound.mkv", f"-i {{}} {TONE} {X264} -c:a libopus -t 2.5", 0),
        ("late_sound.mp4", f"-i {{}} -itsoffset 0.7 {TONE} {X264} {AAC} -t 2.5", 0),
        ("late_sound.mkv", f"-i {{}} -itsoffset 0.7 {TONE} {X264} {AAC} -t 2.5", 0),
        ("late_sound.ts", f"-i {{}} -itsoffset 0.7 {TONE} {X264} {AAC} -t 2.5", 0),
        ("long_sound.mp4", f"-i {{}} {TONE} {X264} {AAC} -t 5", 0),
        ("long_sound.ts", f"-i {{}} {TONE} {X264} {AAC} -t 5", 0),
        ("late_picture.mp4", f"-itsoffset 0.5 -i {{}} {TONE} {X264} {AAC} -t 3", Fraction(1, 2)),
        ("late_picture.mkv", f"-itsoffset 0.5 -i {{}} {TONE} {X264} {AAC} -t 3", Fraction(1, 2)),
        ("late_picture.ts", f"-itsoffset 0.5 -i {{}} {TONE} {X264} {AAC} -t 3", Fraction(1, 2)),
    ],
)
def test_time_begins_where_the_file_does(master, tmp_path, name, line, first_s):
    shown = numbers(ffmpeg(line.format(master), tmp_path / name), tmp_path)
    times = [first_s + Fraction(number, 30) for number in range(FRAMES)]
    assert_shown_in_time(shown, times, times[-1] + Fraction(1, 30))
    assert first_s or shown == list(range(FRAMES))


@pytest.mark.parametrize("name", ["a.ts", "a.mp4"])
def test_pictures_that_cannot_be_decoded_at_the_beginning_take_their_time(master, tmp_path, name):
    """As in a recording that begins between two keyframes. What follows keeps its time."""
    whole = ffmpeg(f"-i {master} {X264} -g 40", tmp_path / "whole.ts")
    content = whole.read_bytes()
    with av.open(str(whole)) as container:
        starts = [packet.pos for packet in container.demux(video=0) if packet.size]
    tables = content[: starts[0]]
    (tmp_path / "begun.ts").write_bytes(tables + content[starts[20] :])
    source = ffmpeg(f"-i {tmp_path / 'begun.ts'} -c copy -copyinkf", tmp_path / name)
    assert numbers(source, tmp_path) == [40] * 20 + list(range(40, FRAMES))


@pytest.mark.parametrize("size", ["256x256", "128x256", "64x64"])
@pytest.mark.parametrize("kept", [0, 1])
def test_pictures_may_change_their_size(tmp_path, size, kept):
    """As in a broadcast or a call. A resumed run counts the frames as one that was not killed."""
    large = write_counted(tmp_path / "large.mkv", 140, width=128, height=128, codec="ffv1")
    ffmpeg(f"-i {large} -frames:v 70 {X264}", tmp_path / "first.ts")
    ffmpeg(f"-ss {70 / 30} -i {large} -s {size} {X264}", tmp_path / "second.ts")
    parts = tmp_path / "parts"
    parts.write_text("ffconcat version 1.0\nfile first.ts\nfile second.ts\n")
    source = ffmpeg(f"-i {parts} -c copy", tmp_path / "a.ts")
    folder = tmp_path / "chunks"
    chunks = chunker.make_chunks(source, folder, SETTINGS)
    for chunk in chunks[kept:]:
        chunk.path.unlink()
    chunks = chunker.make_chunks(source, folder, SETTINGS)
    assert {(chunk.width, chunk.height) for chunk in chunks} == {(128, 128)}
    assert [read_number(frame) for frame in read_all([vars(chunk) for chunk in chunks])] == list(range(140))


@pytest.mark.parametrize(("fps", "frames"), [(Fraction(60000, 1001), 1300), (50, FRAMES), (10, FRAMES)])
@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_other_rates_keep_time(tmp_path, fps, frames, name):
    """Of 59.94 frames a second so many that 60 would be too fast by more than half a frame."""
    source = write_counted(tmp_path / name, frames, width=128, height=128, fps=fps)
    times = [Fraction(number) / fps for number in range(frames)]
    assert_shown_in_time(numbers(source, tmp_path), times, Fraction(frames) / fps)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_frames_that_an_edit_list_skips_are_not_shown(master, tmp_path, name):
    whole = ffmpeg(f"-i {master} {TONE} {X264} -g 30 -bf 2 {AAC} -shortest", tmp_path / "whole.mp4")
    cut = ffmpeg(f"-ss {40 / 30} -i {whole} -c copy", tmp_path / name)
    with av.open(str(cut)) as container:  # the file has what comes before, from the keyframe on
        assert sum(packet.size > 0 for packet in container.demux(video=0)) == 45
    assert numbers(cut, tmp_path) == list(range(40, FRAMES))


def combing(frames: NDArray[np.uint8]) -> float:
    """How much every other line differs from its neighbours, in levels."""
    lines = frames[:, 72:].mean(axis=-1)  # below the number
    return float(np.abs(lines[:, 1:-1] - (lines[:, :-2] + lines[:, 2:]) / 2).mean())


TWO_FIELDS = "-vf tinterlace=interleave_top,setfield=tff -flags +ildct+ilme -pix_fmt yuv420p"
MPEG2 = "-c:v mpeg2video -q:v 2"


@pytest.fixture
def fields(tmp_path) -> Path:
    """100 pictures, a 50th of a second apart."""
    path = tmp_path / "fields.mkv"
    return write_counted(path, 100, width=128, height=128, fps=50, codec="ffv1", pixel_format="yuv420p")


def assert_no_combs(source: Path, fields: Path, folder: Path) -> None:
    """The source is every other field, or two of them a frame: what is seen are whole pictures in time."""
    frames = pictures(source, folder)
    assert len(frames) == 60
    smooth = pictures(ffmpeg(f"-i {fields} -vf framestep=2 {X264}", folder / "smooth.mp4"), folder / "smooth")
    assert combing(frames) < 1.2 * combing(smooth)
    for place in range(0, 60, 6):  # where a chunk's frame and a source's coincide
        assert np.abs(frames[place, 72:].astype(int) - smooth[place, 72:]).mean() < 6


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "-c:v libx264"), ("a.ts", MPEG2)])
def test_interlaced_sources_lose_their_combs_and_keep_their_times(fields, tmp_path, name, codec):
    assert_no_combs(ffmpeg(f"-i {fields} {TWO_FIELDS} {codec}", tmp_path / name), fields, tmp_path)


def test_a_source_that_becomes_interlaced_loses_its_combs_too(fields, tmp_path):
    ffmpeg(f"-i {fields} -vf trim=end_frame=50,framestep=2 {MPEG2}", tmp_path / "first.ts")
    ffmpeg(f"-ss 1 -i {fields} {TWO_FIELDS} {MPEG2}", tmp_path / "second.ts")
    parts = tmp_path / "parts"
    parts.write_text("ffconcat version 1.0\nfile first.ts\nfile second.ts\n")
    source = ffmpeg(f"-i {parts} -c copy", tmp_path / "a.ts")
    assert_no_combs(source, fields, tmp_path)


def patches(picture: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The six colours of a picture that shows COLOURS, 6,3."""
    return np.array([picture[row, column] for row in (32, 96) for column in (21, 64, 106)], int)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", "-vf scale=out_color_matrix=bt709:out_range=tv,format=yuv420p -colorspace bt709"),
        ("a.mp4", "-vf scale=out_color_matrix=bt709:out_range=pc,format=yuvj420p -colorspace bt709"),
        ("a.mp4", "-vf scale=out_color_matrix=bt709:out_range=pc,format=yuv420p10 -colorspace bt709"),
        ("a.mp4", "-vf scale=out_color_matrix=bt601:out_range=tv,format=yuv422p10 -colorspace smpte170m"),
        ("a.mp4", "-vf scale=out_color_matrix=bt601:out_range=tv,format=yuv444p"),
        ("a.mp4", "-vf format=yuv420p"),
        (
            "a.mp4",
            "-vf scale=out_color_matrix=bt2020:out_range=tv,format=yuv420p10"
            " -colorspace bt2020nc -color_primaries bt2020 -color_trc bt2020-10",
        ),
        ("a.mov", "-vf scale=out_color_matrix=bt601:out_range=pc,format=yuvj422p -c:v mjpeg -q:v 1"),
        ("a.mkv", "-c:v libx264rgb"),
        ("a.mp4", "-vf scale=out_range=tv,format=gray -color_range tv"),
        ("a.mov", "-vf format=gray -c:v mjpeg -q:v 1"),
        (
            "a.mov",
            "-vf scale=out_color_matrix=bt709:out_range=tv,format=yuv422p10,setfield=tff"
            " -colorspace bt709 -c:v prores_ks -flags +ildct+ilme",
        ),
    ],
)
def test_colours_come_out_as_they_are(tmp_path, name, options):
    fields = np.repeat(np.repeat(COLOURS.reshape(2, 3, 3), 126, axis=0), 84, axis=1)
    (tmp_path / "colours").write_bytes(fields.tobytes() * 12)
    raw = f"-f rawvideo -pixel_format rgb24 -video_size 252x252 -framerate 30 -i {tmp_path / 'colours'}"
    source = ffmpeg(
        f"{raw} {options} -crf 5" if "-c:v" not in options else f"{raw} {options}", tmp_path / name
    )
    found = patches(pictures(source, tmp_path)[6])
    luma = (COLOURS @ [0.299, 0.587, 0.114]).round().astype(int)[:, None]
    expected = luma if "gray" in options else COLOURS.astype(int)
    assert np.abs(found - expected).max() <= 6
    with av.open(str(tmp_path / "chunks/00000.mp4")) as container:  # for decoders that take it for granted
        frame = next(container.decode(video=0))
    size = "scale=128:128:flags=bicubic:out_color_matrix=bt601:out_range=tv,format=yuv420p"
    with av.open(str(ffmpeg(f"-i {source} -vf {size} -c:v ffv1", tmp_path / "plain.mkv"))) as container:
        ffmpegs_own = next(container.decode(video=0))
    ours, theirs = (
        patches(np.moveaxis(picture.to_ndarray(format="yuv444p"), 0, -1)) for picture in (frame, ffmpegs_own)
    )
    assert np.abs(ours - theirs).max() <= 2
    assert (frame.format.name, frame.colorspace, frame.color_range) == ("yuv420p", BT601, LIMITED_RANGE)


BT709_TO_BT2020 = np.array(
    [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
)  # ITU-R BT.2087


def displayed_nits(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Light of sRGB colours in BT.2020's primaries where white is 203 nits (ITU-R BT.2408)."""
    value = rgb / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return 203 * linear @ BT709_TO_BT2020.T


def pq(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The signal for a displayed light (SMPTE ST 2084)."""
    power = (nits / 10_000) ** (2610 / 16384)
    c1, c2, c3 = 3424 / 4096, 2413 / 128, 2392 / 128
    return ((c1 + c2 * power) / (1 + c3 * power)) ** (2523 / 32)


def hlg(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The signal for a light displayed at 1000 nits (ITU-R BT.2100: inverse OOTF, then OETF)."""
    shown = nits / 1000
    luma = np.maximum(shown @ [0.2627, 0.6780, 0.0593], 1e-9)[:, None]
    scene = shown * luma ** (1 / 1.2 - 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def write_hdr(folder: Path, nits: NDArray[np.float64], curve: Any, name: str, options: str) -> Path:
    """A video of six patches with these lights, coded by `curve`."""
    signal = (curve(nits) * 65535).round().astype("<u2")[:, [1, 2, 0]]  # planes are G, B, R
    fields = np.repeat(np.repeat(signal.reshape(2, 3, 3), 126, axis=0), 84, axis=1).transpose(2, 0, 1)
    (folder / "fields").write_bytes(fields.tobytes() * 12)
    raw = f"-f rawvideo -pixel_format gbrp16le -video_size 252x252 -framerate 30 -i {folder / 'fields'}"
    return ffmpeg(f"{raw} {options}", folder / name)


X265 = "-c:v libx265 -preset ultrafast -x265-params log-level=error:crf=5"
HDR = "-vf scale=out_color_matrix=bt2020:out_range={},format={},setparams=color_trc={{}}"


@pytest.mark.parametrize(("curve", "trc"), [(pq, "smpte2084"), (hlg, "arib-std-b67")])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", f"{HDR.format('tv', 'yuv420p10')}:color_primaries=bt2020 {X265}"),
        ("a.mov", f"{HDR.format('tv', 'yuv422p10')}:color_primaries=bt2020 -c:v prores_ks"),
        ("a.mkv", f"{HDR.format('pc', 'yuv420p10')}:color_primaries=bt2020 {X265}"),
        ("a.ts", f"{HDR.format('tv', 'yuv420p10')}:colorspace=unknown {X265}"),
    ],
)
def test_high_dynamic_range_comes_out_in_the_colours_of_its_sdr_twin(tmp_path, curve, trc, name, options):
    source = write_hdr(tmp_path, displayed_nits(COLOURS), curve, name, options.format(trc))
    found = patches(pictures(source, tmp_path)[6])
    assert np.abs(found - COLOURS).max() <= 6
    with av.open(str(tmp_path / "chunks/00000.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_range, frame.color_trc) == (BT601, LIMITED_RANGE, 1)


@pytest.mark.parametrize(("curve", "trc"), [(pq, "smpte2084"), (hlg, "arib-std-b67")])
def test_diffuse_white_is_white_and_what_is_brighter_no_darker(tmp_path, curve, trc):
    nits = np.array([50, 100, 150, 203, 500, 1000])[:, None] * np.ones(3)
    options = f"{HDR.format('tv', 'yuv420p10')}:color_primaries=bt2020 {X265}"
    found = patches(pictures(write_hdr(tmp_path, nits, curve, "a.mp4", options.format(trc)), tmp_path)[6])
    assert (np.ptp(found, axis=1) <= 3).all()
    assert (np.diff(found.mean(axis=1)) > -1).all() and 235 <= found[3].mean() <= 255


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_sources_come_out_upright(tmp_path, degrees):
    lying = write_counted(tmp_path / "lying.mp4", 12, width=256, height=128)
    turned = tmp_path / "turned.mp4"
    ffmpeg(f"-display_rotation {degrees} -i {lying} -c copy", turned)
    [chunk] = chunker.make_chunks(turned, tmp_path / "chunks", SETTINGS)
    assert (chunk.width, chunk.height) == ((256, 128) if degrees == 180 else (128, 256))
    with av.open(str(chunk.path)) as container:
        upright = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    # the metadata turns against the clock
    assert [read_number(np.rot90(frame, -degrees // 90)) for frame in upright] == list(range(12))


@pytest.mark.parametrize(("shape", "size"), [("2/1", (256, 128)), ("1/2", (128, 256)), ("4/3", (170, 128))])
def test_pixels_become_square(master, tmp_path, shape, size):
    source = ffmpeg(f"-i {master} -vf setsar={shape} {X264}", tmp_path / "a.mp4")
    chunks = chunker.make_chunks(source, tmp_path / "chunks", SETTINGS)
    assert {(chunk.width, chunk.height) for chunk in chunks} == {size}
    assert [read_number(frame) for frame in read_all([vars(chunk) for chunk in chunks])] == list(
        range(FRAMES)
    )


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *((name, X264) for name in ("a.mp4", "a.mkv", "a.ts", "a.avi")),
        ("a.webm", "-c:v libvpx -deadline realtime"),
        ("a.webm", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8"),
        ("a.mkv", "-c:v libx265 -preset ultrafast -x265-params log-level=error"),
        ("a.mkv", "-c:v ffv1"),  # which has checksums
    ],
)
@pytest.mark.parametrize("damage", ["cut", "zeros"])
def test_damaged_sources_are_refused(master, tmp_path, name, codec, damage):
    content = ffmpeg(f"-i {master} {codec}", tmp_path / name).read_bytes()
    middle = len(content) // 2
    rest = b"" if damage == "cut" else bytes(3000) + content[middle + 3000 :]
    (tmp_path / name).write_bytes(content[:middle] + rest)
    with pytest.raises(MediaError, match=r"cut short: |damaged: |corrupt or not a video"):
        chunker.make_chunks(tmp_path / name, tmp_path / "chunks", SETTINGS)


@pytest.mark.parametrize(
    "codec", ["-c:v libx265 -preset ultrafast -x265-params log-level=error", "-c:v libvpx-vp9"]
)
def test_few_frames_lost_at_the_end_are_damage(master, tmp_path, codec):
    """Too few to be cut short; all before the block whose header is overwritten decodes without complaint."""
    path = ffmpeg(f"-i {master} {codec} -pix_fmt yuv420p", tmp_path / "a.mkv")
    with av.open(str(path)) as container:
        place = [packet.pos for packet in container.demux(video=0) if packet.size][-8]
    content = bytearray(path.read_bytes())
    content[place : place + 8] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(MediaError, match="damaged: "):
        chunker.make_chunks(path, tmp_path / "chunks", SETTINGS)
