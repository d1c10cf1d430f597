"""Frames of a file by their number: three decoders behind one protocol, one crop-and-scale for all.

A backend turns (path, frame numbers) into whole RGB frames; the crop and the scaling are done here, by
the same code for every backend, so the same request gives the same picture whatever decodes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from avion_core.media import MediaError
from avion_core.media.crop import Crop

Frame = NDArray[np.uint8]
"""One RGB frame, [height, width, 3]."""
NumberedFrames = Iterator[tuple[int, Frame]]
SEEK_GAP_FRAMES = 48
"""Wanted frames further apart than this are reached by seeking again instead of reading on."""


def decode_frames(
    path: str | Path, frames: Sequence[int], *, crop: Crop, size_px: int, backend: str = "pyav"
) -> NDArray[np.uint8]:
    """The frames with these numbers (0 is the file's first), cropped, then scaled to a square.

    Numbers may repeat and come in any order. Scaling is bilinear, with antialiasing where it shrinks.
    Returns uint8 [T, size_px, size_px, 3], RGB. Raises MediaError for a missing or damaged file and a
    frame that it does not have; ValueError for a crop outside the frame or an unknown backend;
    ImportError if the backend cannot be loaded.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown decoding backend '{backend}'; known: {', '.join(BACKENDS)}")
    path = Path(path)
    numbers = np.asarray(frames, dtype=np.int64)
    clip_THWC = np.empty((len(numbers), size_px, size_px, 3), np.uint8)
    missing = set(numbers.tolist())
    if missing and min(missing) < 0:
        raise MediaError(path, f"frame {min(missing)} is asked for; the first is 0")
    if missing and not path.is_file():
        raise MediaError(path, "no such file")
    for number, picture in BACKENDS[backend](path, sorted(missing)) if missing else ():
        clip_THWC[numbers == number] = crop_and_scale(picture, crop=crop, size_px=size_px)
        missing.discard(number)
    if missing:
        raise MediaError(path, f"frame {min(missing)} is asked for, but the file ends before it")
    return clip_THWC


def crop_and_scale(picture: Frame, *, crop: Crop, size_px: int) -> Frame:
    """Cut the box out of an RGB frame and scale it to size_px × size_px, without a copy in between."""
    height, width = picture.shape[:2]
    crop.check(width, height)
    box = (
        crop.left,
        crop.top,
        min(crop.left + crop.width, float(width)),
        min(crop.top + crop.height, float(height)),
    )
    scaled = np.asarray(
        Image.fromarray(picture).resize((size_px, size_px), Image.Resampling.BILINEAR, box=box)
    )
    return scaled[:, ::-1] if crop.flip else scaled


class _NotInStepError(Exception):
    """The file's packets do not lie on a regular grid of closed groups; it must be decoded in sequence."""


def _pyav_frames(path: Path, wanted: Sequence[int]) -> NumberedFrames:
    try:
        with _opened(path) as (container, stream):
            yield from _by_seeking(container, stream, path, wanted)
    except _NotInStepError:
        with _opened(path) as (container, stream):
            yield from _in_sequence(container, stream, path, wanted)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise MediaError(path, "no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            yield container, stream
    except av.FFmpegError as error:
        raise MediaError(path, f"cannot be decoded ({error.strerror})") from None


def _in_sequence(
    container: InputContainer, stream: VideoStream, path: Path, wanted: Sequence[int]
) -> NumberedFrames:
    """Decode everything up to the last wanted frame: right for any file, and slow."""
    numbers, reformatter = set(wanted), VideoReformatter()
    for number, frame in enumerate(container.decode(stream)):
        _refuse_damage(frame, path, number)
        if number in numbers:
            yield number, _rgb(frame, reformatter)
        if number >= wanted[-1]:
            return


def _by_seeking(
    container: InputContainer, stream: VideoStream, path: Path, wanted: Sequence[int]
) -> NumberedFrames:
    """Decode only wanted frames and those they may refer to, in files with a constant frame rate."""
    grid = _Grid(stream)
    if stream.frames and wanted[-1] >= stream.frames:
        raise MediaError(path, f"frame {wanted[-1]} is asked for, the file has {stream.frames}")
    reformatter = VideoReformatter()
    breaks = [i for i in range(1, len(wanted)) if wanted[i] - wanted[i - 1] > SEEK_GAP_FRAMES]
    for first, stop in zip([0, *breaks], [*breaks, len(wanted)], strict=True):
        run = set(wanted[first:stop])
        container.seek(grid.pts(wanted[first]), stream=stream)
        for group in _groups(container, stream, grid, through=wanted[stop - 1]):
            found = run.intersection(group)
            if found:
                for frame in _decode_group(stream, group, found):
                    number = grid.number(frame.pts)
                    _refuse_damage(frame, path, number)
                    if number in found:
                        run.discard(number)
                        yield number, _rgb(frame, reformatter)
        if run:
            raise _NotInStepError


class _Grid:
    """Time stamps of a stream at a constant rate as frame numbers, and back."""

    def __init__(self, stream: VideoStream) -> None:
        if not stream.average_rate or not stream.time_base:
            raise _NotInStepError
        ticks = 1 / (Fraction(stream.average_rate) * stream.time_base)
        if ticks.denominator != 1:
            raise _NotInStepError
        self._ticks, self._start = int(ticks), stream.start_time or 0

    def number(self, pts: int | None) -> int:
        if pts is None:
            raise _NotInStepError
        number, rest = divmod(pts - self._start, self._ticks)
        if rest:
            raise _NotInStepError
        return number

    def pts(self, number: int) -> int:
        return self._start + number * self._ticks


def _groups(
    container: InputContainer, stream: VideoStream, grid: _Grid, *, through: int
) -> Iterator[dict[int, Packet]]:
    """Packets from here on, a keyframe's group at a time, by frame number in decoding order."""
    group: dict[int, Packet] = {}
    for packet in container.demux(stream):
        if packet.size == 0:  # the end of the file
            break
        number = grid.number(packet.pts)
        if packet.is_keyframe and group:
            yield _closed(group)
            group = {}
            if number > through:
                return
        group[number] = packet
    if group:
        yield _closed(group)


def _closed(group: dict[int, Packet]) -> dict[int, Packet]:
    """The group, if it begins with its keyframe and leaves no number out, so that it stands alone."""
    first = next(iter(group))
    if first != min(group) or max(group) - first + 1 != len(group) or not group[first].is_keyframe:
        raise _NotInStepError
    return group


def _decode_group(stream: VideoStream, group: dict[int, Packet], wanted: set[int]) -> Iterator[av.VideoFrame]:
    """Feed a group up to the last wanted packet; frames that nothing refers to are skipped unless wanted."""
    context, left = stream.codec_context, len(wanted)
    for number, packet in group.items():
        context.skip_frame = "DEFAULT" if number in wanted else "NONREF"
        yield from context.decode(packet)
        left -= number in wanted
        if left == 0:
            break
    yield from context.decode(None)
    context.flush_buffers()


def _refuse_damage(frame: av.VideoFrame, path: Path, number: int) -> None:
    """A damaged frame is no picture to train on, and spoils those that refer to it."""
    if frame.is_corrupt:
        raise MediaError(path, f"frame {number} is damaged")


def _rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> Frame:
    return np.asarray(reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray(), dtype=np.uint8)


def _decord_frames(path: Path, wanted: Sequence[int]) -> NumberedFrames:
    import decord

    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        if wanted[-1] >= len(reader):
            raise MediaError(path, f"frame {wanted[-1]} is asked for, the file has {len(reader)}")
        pictures = reader.get_batch(list(wanted)).asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        raise MediaError(path, f"cannot be decoded ({str(error).splitlines()[0]})") from None
    yield from zip(wanted, pictures, strict=True)


def _torchcodec_frames(path: Path, wanted: Sequence[int]) -> NumberedFrames:
    try:
        from torchcodec.decoders import VideoDecoder

        decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1)
        count = decoder.metadata.num_frames or 0
        if wanted[-1] >= count:
            raise MediaError(path, f"frame {wanted[-1]} is asked for, the file has {count}")
        pictures = decoder.get_frames_at(list(wanted)).data.numpy()
    except (ImportError, RuntimeError, OSError) as error:
        if isinstance(error, ImportError) or "libtorchcodec" in str(error):
            raise ImportError(
                "the backend 'torchcodec' cannot be loaded: it needs the package torchcodec and FFmpeg's "
                "shared libraries on this system; the backend 'pyav' carries its own"
            ) from None
        raise MediaError(path, f"cannot be decoded ({str(error).splitlines()[0]})") from None
    yield from zip(wanted, pictures, strict=True)


BACKENDS: dict[str, Callable[[Path, Sequence[int]], NumberedFrames]] = {
    "pyav": _pyav_frames,
    "decord": _decord_frames,
    "torchcodec": _torchcodec_frames,
}
"""Decoders by name: (path, ascending distinct numbers) to numbered RGB frames, in any order."""
