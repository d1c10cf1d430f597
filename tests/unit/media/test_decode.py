from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avion_core.media import MediaError
from avion_core.media import decode as decode_module
from avion_core.media.crop import Crop, center_crop
from avion_core.media.decode import BACKENDS, Scaler, decode_frames, decode_packets, empty_clip
from avion_core.media.packets import index_packets
from tests.support.counted_video import RANDOM_ACCESS, read_number, write_counted

WHOLE = Crop(0, 0, 170, 128)
FRAMES = 130
STREAMS = {
    "random access": RANDOM_ACCESS,
    "x264 defaults": {"preset": "medium"},
    "open groups": {"preset": "medium", "g": "20", "x264-params": "open-gop=1:scenecut=0"},
    "all intra": {"g": "1"},
    "no B frames": {"g": "30", "bf": "0"},
    "pyramid": {"g": "48", "bf": "7", "x264-params": "b-pyramid=normal:ref=4:b-adapt=0"},
    "HEVC": {"g": "40", "x265-params": "log-level=error:keyint=40:bframes=4"},
    "HEVC open groups": {"x265-params": "log-level=error:keyint=30:open-gop=1:scenecut=0:bframes=4"},
    "HEVC layers": {"x265-params": "log-level=error:keyint=64:temporal-layers=2:bframes=3"},
}


def _torchcodec_loads() -> bool:
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder("there is no such file")
    except (ImportError, RuntimeError, OSError, ValueError) as error:
        return "libtorchcodec" not in str(error)
    return True


needs_torchcodec = pytest.mark.skipif(
    not _torchcodec_loads(), reason="torchcodec finds no FFmpeg shared libraries on this system"
)
backends = pytest.mark.parametrize(
    "backend",
    [pytest.param(name, marks=needs_torchcodec if name == "torchcodec" else ()) for name in BACKENDS],
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("streams")
    return {
        name: write_counted(
            folder / f"{index}.mp4",
            FRAMES,
            options=options,
            codec="libx265" if name.startswith("HEVC") else "libx264",
        )
        for index, (name, options) in enumerate(STREAMS.items())
    }


def sequential(path: Path) -> np.ndarray:
    """Every frame of a file as a plain decoder gives them, T,H,W,3."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="gbrp") for frame in container.decode(video=0)])


@pytest.mark.parametrize("name", STREAMS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=st.lists(st.integers(0, FRAMES - 1), min_size=1, max_size=8))
def test_any_request_equals_a_sequential_decode(videos, name, numbers):
    """Repeats, any order, first and last frames, over every group structure."""
    clip = decode_frames(videos[name], numbers, crop=Crop(10, 0, 128, 128), size_px=128)
    reference = _sequential_once(videos[name])
    np.testing.assert_array_equal(clip, reference[numbers][:, :, 10:138])
    assert [read_number(reference[number]) for number in numbers] == numbers


_REFERENCES: dict[Path, np.ndarray] = {}


def _sequential_once(path: Path) -> np.ndarray:
    if path not in _REFERENCES:
        _REFERENCES[path] = sequential(path)
    return _REFERENCES[path]


@backends
@pytest.mark.parametrize("name", STREAMS)
def test_backends_return_the_numbered_frames(videos, backend, name):
    numbers = [129, 0, 64, 31, 32, 33, 64, 1, 79, 58, 39]
    clip = decode_frames(videos[name], numbers, crop=WHOLE, size_px=128, backend=backend)
    default = decode_frames(videos[name], numbers, crop=WHOLE, size_px=128)
    errors = np.mean((clip.astype(float) - default) ** 2, axis=(1, 2, 3))
    assert errors.max() < 255**2 / 10**4  # PSNR above 40 dB
    assert clip.shape == (11, 128, 128, 3) and clip.dtype == np.uint8


@backends
def test_backends_refuse_what_is_not_there(videos, backend, tmp_path):
    request = {"crop": WHOLE, "size_px": 64, "backend": backend}
    with pytest.raises(MediaError, match=f"frame {FRAMES} is asked for"):
        decode_frames(videos["random access"], [3, FRAMES], **request)
    with pytest.raises(MediaError, match="frame -1 is asked for"):
        decode_frames(videos["random access"], [-1], **request)
    with pytest.raises(MediaError, match=r"gone\.mp4: no such file"):
        decode_frames(tmp_path / "gone.mp4", [0], **request)
    text = tmp_path / "text.mp4"
    text.write_text("not a video\n" * 50)
    with pytest.raises(MediaError, match="cannot be decoded"):
        decode_frames(text, [0], **request)


def test_unneeded_frames_are_not_decoded(videos, monkeypatch):
    """Of a group of 32 only the references up to the wanted frame, and it, are fed to the decoder."""
    read = []
    original = decode_module._packet_bytes

    def recording(path, file, offset, size, check):
        read.append(offset)
        return original(path, file, offset, size, check)

    monkeypatch.setattr(decode_module, "_packet_bytes", recording)
    decode_frames(videos["random access"], [40], crop=WHOLE, size_px=128)
    assert len(read) == 3  # the keyframe 32, the reference 48, the B frame 40
    read.clear()
    decode_frames(videos["all intra"], [40, 3, 99, 3], crop=WHOLE, size_px=128)
    assert len(read) == 3


@pytest.mark.parametrize("name", STREAMS)
def test_every_frame_alone_is_reached_by_the_packet_index(videos, monkeypatch, name):
    def refuse(*arguments):
        raise AssertionError("decoded in sequence")

    monkeypatch.setattr(decode_module, "_in_sequence", refuse)
    reference = _sequential_once(videos[name])
    for number in range(FRAMES):
        [frame] = decode_frames(videos[name], [number], crop=Crop(0, 0, 128, 128), size_px=128)
        np.testing.assert_array_equal(frame, reference[number, :, :128])


def test_variable_frame_rate_is_counted_frame_by_frame(tmp_path):
    times = [0, 1, 2, 5, 6, 7, 20, 21, 22, 30]
    path = write_counted(tmp_path / "vfr.mp4", 10, times=times)
    for backend in ("pyav", "decord"):
        clip = decode_frames(path, [9, 3, 6], crop=Crop(0, 0, 128, 128), size_px=128, backend=backend)
        assert [read_number(frame) for frame in clip] == [9, 3, 6]
    with pytest.raises(MediaError, match="frame 10 is asked for"):
        decode_frames(path, [10], crop=WHOLE, size_px=128)


def test_other_containers_and_codecs(tmp_path):
    for name, codec in (("a.mkv", "libx264"), ("b.ts", "libx264"), ("c.avi", "mpeg4")):
        path = write_counted(tmp_path / name, 40, codec=codec, options={"g": "12"})
        reference = sequential(path)
        clip = decode_frames(path, [39, 0, 11, 12, 13], crop=Crop(0, 0, 128, 128), size_px=128)
        np.testing.assert_array_equal(clip, reference[[39, 0, 11, 12, 13], :, :128])


def test_crop_scale_and_flip(videos):
    path = videos["random access"]
    whole = decode_frames(path, [7], crop=center_crop(170, 128), size_px=128)
    half = decode_frames(path, [7], crop=center_crop(170, 128), size_px=64)
    means = whole.reshape(1, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(half - means).mean() < 4  # shrinking averages; it does not pick pixels
    mirrored = decode_frames(path, [7], crop=Crop(21, 0, 128, 128, flip=True), size_px=128)
    np.testing.assert_array_equal(mirrored, whole[:, :, ::-1])
    fractional = decode_frames(path, [7], crop=Crop(10.5, 2.25, 100.5, 99.75), size_px=32)
    assert fractional.shape == (1, 32, 32, 3)


@pytest.mark.parametrize("name", ["yuv420p", "yuvj420p"])
def test_a_frame_that_is_not_scaled_is_whole_at_every_width(name):
    """libswscale's fast conversion leaves up to eight columns as they were in memory."""
    for width in range(32, 65):
        frame = av.VideoFrame(width, 48, name)
        for plane in frame.planes:
            np.frombuffer(plane, np.uint8)[:] = 160
        clip_THWC = empty_clip(1, (width, 48))
        Scaler(Crop(0, 0, width, 48), (width, 48))(frame, clip_THWC[0])
        assert (clip_THWC == clip_THWC[:, :1, :1]).all(), width


def test_a_crop_outside_the_frame_and_an_unknown_backend_are_refused(videos):
    with pytest.raises(ValueError, match="within the frame of 170x128"):
        decode_frames(videos["all intra"], [0], crop=Crop(50, 0, 128, 128), size_px=64)
    with pytest.raises(ValueError, match="known: pyav, decord, torchcodec"):
        decode_frames(videos["all intra"], [0], crop=WHOLE, size_px=64, backend="gstreamer")


def test_no_frames_asked_for(videos):
    assert decode_frames(videos["all intra"], [], crop=WHOLE, size_px=8).shape == (0, 8, 8, 3)


@pytest.mark.parametrize("name", ["random access", "x264 defaults"])
def test_a_damaged_frame_or_reference_is_an_error(videos, tmp_path, name):
    """Never silently another picture: the frame is right, or MediaError is raised."""
    path, reference = videos[name], _sequential_once(videos[name])
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        places = [(packet.pos, packet.size, packet.pts) for packet in packets]
    numbers = {pts: number for number, pts in enumerate(sorted(pts for _, _, pts in places))}
    rng = np.random.default_rng(0)
    refused = 0
    for position, size, pts in [places[i] for i in rng.integers(1, len(places), 25)]:
        content = bytearray(path.read_bytes())
        start = position + size // 3
        content[start : start + min(size // 2, 40)] = rng.bytes(min(size // 2, 40))
        damaged = tmp_path / "damaged.mp4"
        damaged.write_bytes(content)
        request = [numbers[pts], int(rng.integers(FRAMES))]
        try:
            clip = decode_frames(damaged, request, crop=Crop(0, 0, 128, 128), size_px=128)
        except MediaError:
            refused += 1
        else:
            np.testing.assert_array_equal(clip, reference[request][:, :, :128])
    assert refused >= 20


@pytest.mark.skipif(_torchcodec_loads(), reason="torchcodec loads here")
def test_torchcodec_that_cannot_load_says_what_it_needs(videos):
    with pytest.raises(ImportError, match="FFmpeg's shared libraries"):
        decode_frames(videos["all intra"], [0], crop=WHOLE, size_px=64, backend="torchcodec")


def test_decoders_are_used_again_only_after_a_clean_end(videos, monkeypatch):
    """A request that fails in the middle leaves no half-fed decoder to the next one."""
    monkeypatch.setattr(decode_module, "_idle", decode_module._IdleDecoders())
    path, whole = videos["open groups"], Crop(0, 0, 128, 128)
    index, reference = index_packets(path), _sequential_once(videos["open groups"])
    unfinished = decode_packets(path, index, [5, 25])
    next(unfinished)  # its decoder is in use: the next request must not get it
    [frame] = decode_frames(path, [44], crop=whole, size_px=128)
    np.testing.assert_array_equal(frame, reference[44, :, :128])
    [idle] = decode_module._idle.by_setup.values()
    unfinished.close()
    assert list(decode_module._idle.by_setup.values()) == [idle]
    decode_frames(path, [100], crop=whole, size_px=128)
    assert list(decode_module._idle.by_setup.values()) == [idle]
