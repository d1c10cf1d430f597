"""Where every packet of a video file lies, so that its frames are read without opening the container.

Opening a file and reading its tables costs more than decoding a few frames. The packet index is made
once, when a chunk is: one record a packet, in decoding order, and the codec's setup bytes. From these a
request for frames becomes a short list of byte ranges: the wanted frames and the references before them,
whatever the layout of the groups of pictures. H.264 and HEVC in MP4 or Matroska can be indexed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from avion_core.files import publish

PACKETS = "packets.npy"
"""Packets of all chunks: of a video in its folder, of a data set beside its chunk index."""
KEYFRAME, REFERENCE = 1, 2
"""Bits of `flags`: decoding can start here; other frames may refer to this one."""
PACKET = np.dtype(
    [
        ("offset", "<u4"),  # of the packet's first byte in the file
        ("size", "<u4"),  # bytes
        ("shift", "i1"),  # the frame's number less the packet's place in decoding order
        ("flags", "u1"),
        ("check", "<u2"),  # lower half of the packet's CRC-32
    ]
)
"""One packet in twelve bytes; Ego4D's 430 million take five gigabytes, memory-mapped."""


LARGEST_SHIFT = 127
"""Largest distance between a frame's places in decoding and display order."""
LARGEST_HEADER = 64
"""Most bytes that a container may put between a packet's stated offset and the packet."""


class NotIndexableError(Exception):
    """The file's packets cannot be found by byte range; decoding must open the file."""


@dataclass(frozen=True)
class PacketIndex:
    """The packets of one file."""

    codec: str
    """`h264` or `hevc`."""
    extradata: bytes
    """The codec's parameter sets, as stored in the container."""
    packets: NDArray[np.void]
    """PACKET records in decoding order."""

    def __len__(self) -> int:
        return len(self.packets)

    def runs(self, wanted: Iterable[int]) -> list[NDArray[np.int64]]:
        """Places of the packets to decode for these frame numbers, in runs that each start at a keyframe.

        A run holds the wanted frames and the reference frames before them. Raises IndexError for a frame
        beyond the end.
        """
        frames = np.array(sorted(set(wanted)), np.int64)
        if not 0 <= frames[0] <= frames[-1] < len(self):
            raise IndexError(f"frames {frames[0]} to {frames[-1]} are asked for, there are {len(self)}")
        begin, end = self._around(int(frames[0]), int(frames[-1]))
        flags = self.packets["flags"][begin:end]
        numbers = np.arange(end - begin) + self.packets["shift"][begin:end]
        place_of = np.empty(end - begin + 2 * LARGEST_SHIFT, np.int64)
        place_of[numbers + LARGEST_SHIFT] = np.arange(end - begin)
        places = np.sort(place_of[frames - begin + LARGEST_SHIFT])
        keys = np.flatnonzero(flags & KEYFRAME)
        entry = np.searchsorted(keys, places, side="right") - 1
        # Frames shown before their preceding keyframe (open groups) refer to the previous group.
        entry = np.maximum(entry - (numbers[places] < numbers[keys[entry]]), 0)
        needed = (flags & REFERENCE) != 0
        needed[places] = True
        return [
            begin + first + np.flatnonzero(needed[first : last + 1])
            for first, last in _joined(keys[entry].tolist(), places.tolist())
        ]

    @property
    def groups_are_closed(self) -> bool:
        """Whether every frame is shown after the keyframe that precedes it in decoding order."""
        places = np.arange(len(self))
        numbers = places + self.packets["shift"]
        keys = np.flatnonzero(self.packets["flags"] & KEYFRAME)
        latest_key = keys[np.searchsorted(keys, places, side="right") - 1]
        return bool((numbers >= numbers[latest_key]).all())

    def _around(self, first: int, last: int) -> tuple[int, int]:
        """A range of places with the packets of these frames and two keyframes before them."""
        lowest = max(first - LARGEST_SHIFT, 0)
        begin, step = lowest, LARGEST_SHIFT
        while begin and np.count_nonzero(self.packets["flags"][begin : lowest + 1] & KEYFRAME) < 2:
            begin, step = max(begin - step, 0), 2 * step
        return begin, min(last + LARGEST_SHIFT + 1, len(self))


def write_packets(path: str | Path, parts: Iterable[NDArray[np.void]], *, count: int) -> None:
    """Publish `count` records, piece by piece, as an .npy file that can be memory-mapped."""
    header = {"descr": np.lib.format.dtype_to_descr(PACKET), "fortran_order": False, "shape": (count,)}
    with publish(path) as draft, draft.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(part.tobytes())


def read_packets(path: str | Path) -> NDArray[np.void]:
    """Records of a packet file, memory-mapped. Raises ValueError, naming the file, if it is not one."""
    try:
        packets = np.load(path, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a packet index ({error}); run the stage `transcode` again") from None
    if packets.dtype != PACKET:
        raise ValueError(f"{path}: not a packet index; its records are {packets.dtype}")
    return packets.view(np.ndarray)


def index_packets(path: str | Path) -> PacketIndex:
    """Index a file's first video stream, comparing every packet with the bytes at its offset.

    Raises NotIndexableError with the reason if frames cannot be read by byte range, av.FFmpegError for a
    file that is not a video.
    """
    path = Path(path)
    if path.stat().st_size >= 2**32:
        raise NotIndexableError("the file has more than 4 GiB")
    with av.open(str(path), metadata_errors="ignore") as container, path.open("rb") as file:
        if not container.streams.video:
            raise NotIndexableError("no video stream")
        stream = container.streams.video[0]
        slices = _slice_reader(stream)
        records, times, layers = [], list[int](), []
        for packet in container.demux(stream):
            if packet.size == 0:  # the end of the file
                break
            data = bytes(packet)
            offset, time = _place_and_time(file, packet, data)
            layer, referenced = slices(data)
            flags = KEYFRAME * packet.is_keyframe | REFERENCE * referenced
            records.append((offset, len(data), 0, flags, zlib.crc32(data) & 0xFFFF))
            times.append(time)
            layers.append(layer)
        packets = np.array(records, PACKET)
        if not len(packets) or not packets["flags"][0] & KEYFRAME:
            raise NotIndexableError("it does not begin with a keyframe")
        # A higher temporal layer may refer to a frame that its own layer does not refer to.
        packets["flags"][np.asarray(layers) < max(layers)] |= REFERENCE
        packets["shift"] = _shifts(times)
        return PacketIndex(stream.codec_context.name, stream.codec_context.extradata or b"", packets)


def _joined(firsts: Sequence[int], lasts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Inclusive ranges in ascending order; those that start alike or overlap are merged."""
    ranges = sorted(zip(firsts, lasts, strict=True))
    first, last = ranges[0]
    for next_first, next_last in ranges:
        if next_first > last:
            yield first, last
            first = next_first
        last = max(last, next_last)
    yield first, last


def _place_and_time(file: BinaryIO, packet: av.Packet, data: bytes) -> tuple[int, int]:
    """Offset of a packet's bytes in the file, after a short header if any, and its time stamp."""
    if packet.pts is None or packet.is_discard or packet.is_corrupt:
        raise NotIndexableError("a packet has no time stamp, is damaged or is not shown")
    if packet.pos is None or packet.pos < 0:
        raise NotIndexableError("its container does not say where packets lie")
    file.seek(packet.pos)
    header = file.read(len(data) + LARGEST_HEADER).find(data)
    if header < 0:
        raise NotIndexableError("its container does not keep packets as they are decoded")
    return packet.pos + header, packet.pts


def _shifts(times: Sequence[int]) -> NDArray[np.int8]:
    """Frame number (rank of the time stamp) less decoding place."""
    order = np.argsort(times, kind="stable")
    numbers = np.empty(len(times), np.int64)
    numbers[order] = np.arange(len(times))
    shifts = numbers - np.arange(len(times))
    if len(set(times)) < len(times) or np.abs(shifts).max() > LARGEST_SHIFT:
        raise NotIndexableError("its time stamps do not put the frames into one order")
    return shifts.astype(np.int8)


def _slice_reader(stream: VideoStream) -> Callable[[bytes], tuple[int, bool]]:
    """Function from a packet to its temporal layer and whether that layer may refer to it."""
    setup = stream.codec_context.extradata or b""
    codec = stream.codec_context.name
    if codec == "h264" and len(setup) > 4 and setup[0] == 1:
        return lambda data: _h264(_units(data, length_bytes=(setup[4] & 3) + 1))
    if codec == "hevc" and len(setup) > 21 and setup[0] == 1:
        return lambda data: _hevc(_units(data, length_bytes=(setup[21] & 3) + 1))
    raise NotIndexableError(f"{codec} in this container is not H.264 or HEVC with separate parameter sets")


def _units(data: bytes, *, length_bytes: int) -> Iterator[bytes]:
    """First two bytes of each network abstraction layer unit of a length-prefixed packet."""
    place = 0
    while place + length_bytes < len(data):
        length = int.from_bytes(data[place : place + length_bytes], "big")
        place += length_bytes
        yield data[place : place + 2]
        place += length


def _h264(headers: Iterable[bytes]) -> tuple[int, bool]:
    """ITU-T H.264, 7.4.1: types 1 to 5 are slices; nal_ref_idc 0 marks a picture that none refers to."""
    for header in headers:
        if 1 <= header[0] & 0x1F <= 5:
            return 0, bool(header[0] & 0x60)
    raise NotIndexableError("a packet holds no picture")


def _hevc(headers: Iterable[bytes]) -> tuple[int, bool]:
    """ITU-T H.265, 7.4.2.2: even types up to 14 are not referred to within their temporal layer."""
    for header in headers:
        nal_type, layer = header[0] >> 1 & 0x3F, (header[1] & 7) - 1
        if nal_type < 32:
            return layer, nal_type > 14 or nal_type % 2 == 1
    raise NotIndexableError("a packet holds no picture")
