"""Read frames of a file by number: three decoders behind one protocol, one crop-and-scale for all.

A backend turns (path, frame numbers) into whole pictures. Cropping and scaling use the same code for every
backend, so the same request gives the same picture whatever decodes it. PyAV reads by the packet index: it
fetches and decodes only the requested frames and the frames they refer to.
"""

from __future__ import annotations

import functools
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.plane import VideoPlane
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from avion_core.media import MediaError
from avion_core.media.crop import Crop
from avion_core.media.packets import NotIndexableError, PacketIndex, index_packets

Picture = av.VideoFrame | NDArray[np.uint8]
"""A whole frame: the decoder's own object, or RGB [height, width, 3]."""
NumberedPictures = Iterator[tuple[int, Picture]]
PLANAR_420 = ("yuv420p", "yuvj420p")
"""Pixel formats whose planes are cropped directly; others are converted to RGB first."""


def decode_frames(
    path: str | Path,
    frames: Sequence[int],
    *,
    crop: Crop,
    size_px: int | tuple[int, int],
    backend: str = "pyav",
    packets: PacketIndex | None = None,
    out_THWC: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """The frames with these numbers (0 is the file's first), cropped, then scaled to a square, or to
    `size_px` as width and height.

    Numbers may repeat and come in any order. The box is rounded to whole pixels (of 4:2:0 colour, to the
    nearest); scaling is bilinear, with antialiasing where it shrinks. `packets` is the file's index, if
    there is one; without it `pyav` makes its own. Returns uint8 [T, size_px, size_px, 3], RGB: `out_THWC`,
    or a new clip from `empty_clip`. Raises MediaError for a missing, changed or damaged file and for a frame
    beyond its end, ValueError for a crop outside the frame or an unknown backend, and ImportError if the
    backend cannot be loaded.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown decoding backend '{backend}'; known: {', '.join(BACKENDS)}")
    path = os.fspath(path)
    clip_THWC = empty_clip(len(frames), size_px) if out_THWC is None else out_THWC
    places: dict[int, list[int]] = {}
    for place, number in enumerate(frames):
        places.setdefault(int(number), []).append(place)
    if not places:
        return clip_THWC
    if min(places) < 0:
        raise MediaError(path, f"frame {min(places)} is asked for; the first is 0")
    if packets is None and not Path(path).is_file():
        raise MediaError(path, "no such file")
    scale = Scaler(crop, size_px)
    for number, picture in BACKENDS[backend](path, sorted(places), packets):
        first, *repeats = places.pop(number, (None,))
        if first is not None:
            scale(picture, clip_THWC[first])
            for repeat in repeats:
                clip_THWC[repeat] = clip_THWC[first]
    if places:
        raise MediaError(path, f"frame {min(places)} is asked for, but the file ends before it")
    return clip_THWC


def empty_clip(frames: int, size_px: int | tuple[int, int]) -> NDArray[np.uint8]:
    """An uninitialised clip, uint8 [T, H, W, 3] of a side or (width, height), stored as planes.

    Decoders scale to planes and models take planes, so channels are never interleaved; np.stack keeps planes
    too.
    """
    width, height = _width_height(size_px)
    return np.empty((frames, 3, height, width), np.uint8).transpose(0, 2, 3, 1)


def _width_height(size_px: int | tuple[int, int]) -> tuple[int, int]:
    return (size_px, size_px) if isinstance(size_px, int) else size_px


class Scaler:
    """Crop a box from pictures, scale it and convert it to RGB in one pass of libswscale."""

    def __init__(self, crop: Crop, size_px: int | tuple[int, int]) -> None:
        self._crop, self._reformatter = crop, VideoReformatter()
        self._width, self._height = _width_height(size_px)
        self._box: _Box | None = None

    def __call__(self, picture: Picture, out_HWC: NDArray[np.uint8]) -> None:
        """Write the scaled box to `out_HWC`, uint8 [H, W, 3]."""
        # Planes: twice as fast as packed RGB, and with colour at full resolution.
        cut = self._cut(picture)
        scaled = self._reformatter.reformat(
            cut, self._width, self._height, "gbrp", interpolation=self._method(cut), threads=1
        )
        order = slice(None, None, -1) if self._crop.flip else slice(None)
        for channel, plane in zip((1, 2, 0), scaled.planes, strict=True):  # green, blue, red
            out_HWC[:, order, channel] = _rows(plane)[:, : self._width]

    def _method(self, cut: av.VideoFrame) -> Interpolation:
        """Bilinear. Where nothing is scaled, libswscale's fast conversion leaves the last columns of some
        widths uninitialised; its accurate one does not."""
        unscaled = (cut.width, cut.height) == (self._width, self._height)
        if unscaled and cut.format.name in PLANAR_420 and 0 < self._width % 16 <= 8:
            return Interpolation.BILINEAR | Interpolation.ACCURATE_RND
        return Interpolation.BILINEAR

    def _cut(self, picture: Picture) -> av.VideoFrame:
        if isinstance(picture, av.VideoFrame) and picture.format.name in PLANAR_420:
            if self._box is None or self._box.source != (picture.width, picture.height, picture.format.name):
                self._box = _Box(picture, self._crop)
            return self._box.cut(picture)
        if isinstance(picture, av.VideoFrame):
            picture = np.asarray(picture.to_ndarray(format="rgb24"), dtype=np.uint8)
        left, top, width, height = self._crop.on_whole_pixels(picture.shape[1], picture.shape[0])
        cut = np.ascontiguousarray(picture[top : top + height, left : left + width])
        return av.VideoFrame.from_ndarray(cut, format="rgb24")


class _Box:
    """Crops of 4:2:0 frames of one size; one frame's memory is reused for every picture of a clip."""

    def __init__(self, picture: av.VideoFrame, crop: Crop) -> None:
        self.source = picture.width, picture.height, picture.format.name
        left, top, width, height = crop.on_whole_pixels(picture.width, picture.height)
        self._whole = (width, height) == (picture.width, picture.height)
        self._frame = av.VideoFrame(width, height, picture.format.name)
        self._frame.colorspace, self._frame.color_range = picture.colorspace, picture.color_range
        self._parts = []
        for plane, step in zip(self._frame.planes, (1, 2, 2), strict=True):
            columns, rows = -(-width // step), -(-height // step)
            inside = slice(top // step, top // step + rows), slice(left // step, left // step + columns)
            self._parts.append((_rows(plane)[:rows, :columns], inside))

    def cut(self, picture: av.VideoFrame) -> av.VideoFrame:
        """The crop of a picture, valid until the next call."""
        if self._whole:
            return picture
        for plane, (part, inside) in zip(picture.planes, self._parts, strict=True):
            part[:] = _rows(plane)[inside]
        return self._frame


def _rows(plane: VideoPlane) -> NDArray[np.uint8]:
    """A plane's bytes, [rows, bytes per row], without a copy."""
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]


def _pyav_pictures(path: str, wanted: Sequence[int], packets: PacketIndex | None) -> NumberedPictures:
    try:
        left = set(wanted)
        index = packets or _own_index(path, Path(path).stat().st_mtime_ns)
        if index is not None:
            for number, frame in decode_packets(path, index, wanted):
                left.discard(number)
                yield number, frame
        if left:
            yield from _in_sequence(path, left)
    except av.FFmpegError as error:
        raise MediaError(path, f"cannot be decoded ({error.strerror})") from None
    except OSError as error:
        raise MediaError(path, f"cannot be read ({error.strerror})") from None


@functools.lru_cache(maxsize=64)
def _own_index(path: str, modified_ns: int) -> PacketIndex | None:
    """Index a file that has no stored index; None if it cannot be indexed."""
    try:
        return index_packets(path)
    except NotIndexableError:
        return None


def decode_packets(
    path: str | Path, index: PacketIndex, wanted: Sequence[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """The frames with these ascending numbers, by the packet index alone, in decoding order.

    Raises MediaError if the file is not the indexed one, or has no such frame.
    """
    if wanted[-1] >= len(index):
        raise MediaError(path, f"frame {wanted[-1]} is asked for, the file has {len(index)}")
    asked = set(wanted)
    file = os.open(path, os.O_RDONLY)
    try:
        with _decoder(index) as context:
            for run in index.runs(wanted):
                for place, record in zip(run.tolist(), index.packets[run].tolist(), strict=True):
                    offset, size, shift, _, check = record
                    packet = av.Packet(_packet_bytes(path, file, offset, size, check))
                    packet.pts = place + shift
                    yield from _wanted(path, context.decode(packet), asked)
                yield from _wanted(path, context.decode(None), asked)
                context.flush_buffers()
    finally:
        os.close(file)


class _IdleDecoders(threading.local):
    """A thread's decoders between clips; a new one would have to allocate its frames again."""

    LARGEST = 8

    def __init__(self) -> None:
        self.by_setup: dict[tuple[str, bytes], av.VideoCodecContext] = {}


_idle = _IdleDecoders()


@contextmanager
def _decoder(index: PacketIndex) -> Iterator[av.VideoCodecContext]:
    """A flushed decoder for the index's stream, kept for the next clip unless the body fails."""
    setup = (index.codec, index.extradata)
    context = _idle.by_setup.pop(setup, None)
    if context is None:
        context = cast(av.VideoCodecContext, av.CodecContext.create(index.codec, "r"))
        context.extradata, context.thread_count = index.extradata, 1
    yield context
    if len(_idle.by_setup) >= _idle.LARGEST:
        _idle.by_setup.clear()
    _idle.by_setup[setup] = context


def _packet_bytes(path: str | Path, file: int, offset: int, size: int, check: int) -> bytes:
    data = os.pread(file, size, offset)
    if zlib.crc32(data) & 0xFFFF != check:
        raise MediaError(path, f"damaged: the packet at byte {offset} is not the one indexed")
    return data


def _wanted(
    path: str | Path, frames: Sequence[av.VideoFrame], asked: set[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """The requested ones among decoded frames. Any damaged frame spoils those that refer to it."""
    for frame in frames:
        if frame.is_corrupt:
            raise MediaError(path, f"frame {frame.pts} is damaged")
        if frame.pts in asked:
            yield frame.pts, frame


def _in_sequence(path: str, wanted: set[int]) -> NumberedPictures:
    """Open the file and decode everything up to the last wanted frame: correct for any file, but slow."""
    with av.open(path, metadata_errors="ignore") as container:
        if not container.streams.video:
            raise MediaError(path, "no video stream")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if frame.is_corrupt:
                raise MediaError(path, f"frame {number} is damaged")
            if number in wanted:
                yield number, frame
            if number >= max(wanted):
                return


def _decord_pictures(path: str, wanted: Sequence[int], packets: PacketIndex | None) -> NumberedPictures:
    import decord

    try:
        reader = decord.VideoReader(path, num_threads=1)
        if wanted[-1] >= len(reader):
            raise MediaError(path, f"frame {wanted[-1]} is asked for, the file has {len(reader)}")
        index = packets or _own_index(path, Path(path).stat().st_mtime_ns)
        if index is not None and index.groups_are_closed:
            yield from zip(wanted, reader.get_batch(list(wanted)).asnumpy(), strict=True)
            return
        # With open groups of pictures decord seeks to wrong frames; without seeking it is correct, but slow.
        asked = set(wanted)
        for number in range(wanted[-1] + 1):
            picture = reader.next()
            if number in asked:
                yield number, picture.asnumpy()
    except (decord.DECORDError, av.FFmpegError, RuntimeError) as error:
        raise MediaError(path, f"cannot be decoded ({str(error).splitlines()[0]})") from None


def _torchcodec_pictures(path: str, wanted: Sequence[int], packets: PacketIndex | None) -> NumberedPictures:
    try:
        from torchcodec.decoders import VideoDecoder

        decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1)
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


BACKENDS: dict[str, Callable[[str, Sequence[int], PacketIndex | None], NumberedPictures]] = {
    "pyav": _pyav_pictures,
    "decord": _decord_pictures,
    "torchcodec": _torchcodec_pictures,
}
"""Decoders by name: (path, ascending distinct numbers, index) to numbered pictures, in any order. Pictures
that were not requested are ignored."""
