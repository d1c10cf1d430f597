"""Read a file's video properties with PyAV, without ffprobe."""

from __future__ import annotations

import stat
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.format import Flags
from av.video.stream import VideoStream

from avion_core.media import MediaError

STILL_FORMATS = ("image2", "_pipe", "tty", "gif")
"""Demuxers of still pictures, and of text drawn as one."""
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<")
"""First bytes of playlists. FFmpeg would read the listed files, and wait for ever for the next entry of a
live one."""
SLOWEST_FPS = Fraction(1, 10)
"""A lower frame rate means a damaged time stamp, and would give hours of one picture."""
OWN_LENGTHS = ("mov,mp4,m4a,3gp,3g2,mj2", "avi")
"""Demuxers that state each stream's length. Others state the file's, which may be its sound's."""
CUT_SHORT_SECONDS = 0.5
"""A video whose frames end at least this much too early was cut short."""
RUN_IN_SECONDS = 0.1
"""Longest padding that sound encoders add before the first sample."""
LARGEST_TICK = Fraction(1, 500)
"""Longest tick that files round times to, in seconds; longer ticks are whole frame durations."""
PAUSE = 10
"""A frame shown longer than this many times the average is a pause and does not count."""
UNSPECIFIED, BT2020, BT2020_NCL = 2, 9, 9
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
"""Transfer characteristics of high dynamic range. These numbers and those of `Colours` are ITU-T H.273's."""


@dataclass(frozen=True)
class Colours:
    """How a stream codes its colours."""

    transfer: int
    primaries: int
    matrix: int


@dataclass(frozen=True)
class VideoInfo:
    """A video stream as declared by its file."""

    end_s: float
    """End of the video stream or file, in seconds from its first picture or sound; 0 if not stated."""
    end_is_exact: bool
    """Whether this is the video stream's own end, not the whole file's with its sound."""
    forgotten_s: float
    """Sound before the first picture, which FFmpeg ignores when it reads pictures alone (MPEG streams)."""
    run_in_s: float
    """A sound encoder's padding before the first picture, which takes no time. MPEG streams: 0."""
    has_times: bool
    """Whether the file has display times (AVI and raw streams have decoding times)."""
    fps: Fraction
    """Average frames per second in the file's header, which may be wrong; `source_fps` measures it."""
    width: int
    height: int
    """Size in pixels as coded, before any rotation."""
    codec: str
    has_audio: bool
    stream: int
    """Number of the video stream within the file."""
    hdr: Colours | None
    """Colours of an HDR video; None for others."""


def probe(path: str | Path) -> VideoInfo:
    """Open a file, read its header and decode one frame.

    Raises MediaError with the reason if the file is missing, empty, damaged, not a video, or has no
    decodable video stream.
    """
    path = Path(path)
    try:
        found, head = path.stat(), b""
        if stat.S_ISREG(found.st_mode):
            with path.open("rb") as file:
                head = file.read(16)
    except (FileNotFoundError, NotADirectoryError):
        raise MediaError(path, "no such file") from None
    except OSError as error:  # such as a network disk whose server is gone
        raise MediaError(path, error.strerror or str(error)) from None
    if not stat.S_ISREG(found.st_mode):
        raise MediaError(path, "not a file")
    if found.st_size == 0:
        raise MediaError(path, "the file is empty")
    if head.startswith(PLAYLISTS):
        raise MediaError(path, "not a video (text or a playlist)")
    declared = _avi_bytes(head)
    if found.st_size < 0.99 * declared:
        raise MediaError(path, f"cut short: {found.st_size:,} of {declared:,} bytes are there")
    try:
        with av.open(str(path.absolute()), metadata_errors="ignore") as container:
            return _read(path, container)
    except (av.FFmpegError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(path, f"corrupt or not a video ({reason})") from None


def _avi_bytes(head: bytes) -> int:
    """Stated length of an AVI file's first part, or 0. FFmpeg takes a truncated part for the whole."""
    size = int.from_bytes(head[4:8], "little")
    return size + 8 if head.startswith(b"RIFF") and head[8:12] == b"AVI " and size < 0xFFFFFFFF else 0


def _read(path: Path, container: av.container.InputContainer) -> VideoInfo:
    if any(name in container.format.name for name in STILL_FORMATS):
        raise MediaError(path, f"not a video ({container.format.long_name})")
    stream = _video_stream(container)
    if stream is None:
        stream_types = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise MediaError(path, f"no video stream (it holds {stream_types})")
    frame = next(container.decode(stream), None)
    if frame is None:
        raise MediaError(path, "corrupt: not one frame can be decoded")
    fps = Fraction(stream.average_rate or stream.guessed_rate or 0)
    _refuse_slow(path, fps)
    flags, late_s = Flags(container.format.flags), _late_s(container, stream)
    end_s, exact = _end(container, stream, late_s)
    return VideoInfo(
        end_s=end_s,
        end_is_exact=exact,
        forgotten_s=late_s if Flags.ts_discont in flags else 0.0,
        run_in_s=0.0 if Flags.ts_discont in flags else _run_in_s(container, frame),
        has_times=container.format.name != "avi" and Flags.no_timestamps not in flags,
        fps=fps,
        width=stream.width,
        height=stream.height,
        codec=stream.codec_context.name,
        has_audio=bool(container.streams.audio),
        stream=stream.index,
        hdr=_hdr(frame),
    )


def _refuse_slow(path: Path, fps: Fraction) -> None:
    if 0 < fps < SLOWEST_FPS:
        raise MediaError(path, f"damaged: one frame in {float(1 / fps):.0f} seconds")


def _video_stream(container: av.container.InputContainer) -> VideoStream | None:
    """The first video stream that is not a cover picture."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    return None


def _hdr(frame: av.VideoFrame) -> Colours | None:
    """Colours of an HDR frame; BT.2020 where it does not say."""
    if frame.color_trc not in HDR_TRANSFERS:
        return None
    primaries, matrix = int(frame.color_primaries), int(frame.colorspace)
    return Colours(
        transfer=int(frame.color_trc),
        primaries=BT2020 if primaries == UNSPECIFIED else primaries,
        matrix=BT2020_NCL if matrix == UNSPECIFIED else matrix,
    )


def _run_in_s(container: av.container.InputContainer, first: av.VideoFrame) -> float:
    """Seconds from the start of the file to its first picture; 0 if that picture is late."""
    if first.time is None or container.start_time is None:
        return 0.0
    after_s = first.time - container.start_time / av.time_base
    return after_s if 0 < after_s <= RUN_IN_SECONDS else 0.0


def _late_s(container: av.container.InputContainer, stream: VideoStream) -> float:
    """Seconds by which pictures start after their sound, beyond its padding."""
    sound = container.streams.best("audio", related=stream)
    if sound is None or sound.start_time is None or stream.start_time is None:
        return 0.0
    assert sound.time_base is not None and stream.time_base is not None
    late_s = float(stream.start_time * stream.time_base - sound.start_time * sound.time_base)
    return late_s if late_s > RUN_IN_SECONDS else 0.0


def _end(container: av.container.InputContainer, stream: VideoStream, late_s: float) -> tuple[float, bool]:
    if Flags.no_timestamps in Flags(container.format.flags):
        return 0.0, False
    if container.format.name in OWN_LENGTHS and stream.duration is not None and stream.time_base is not None:
        return late_s + float(stream.duration * stream.time_base), True
    # Matroska states when a stream and the file end, not how long they are.
    start_s = (container.start_time or 0) / av.time_base if "matroska" in container.format.name else 0.0
    tag = stream.metadata.get("DURATION", "")  # hh:mm:ss.fraction
    if tag.count(":") == 2:
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - start_s, True
    return (container.duration or 0) / av.time_base - start_s, False


def picture_end_s(path: Path, info: VideoInfo) -> float:
    """End of the pictures in a file whose declared end may be that of its sound; same scale as `info.end_s`.

    Reads all packets. If any stream's packets reach the declared end, the file is whole, and the pictures end
    with their own last packet.
    """
    ends: dict[int, float] = {info.stream: 0.0}
    with av.open(str(path.absolute()), metadata_errors="ignore") as container:
        start_s = (container.start_time or 0) / av.time_base
        with suppress(av.FFmpegError):  # some formats end a cut file with an error
            for packet in container.demux([*container.streams.video, *container.streams.audio]):
                time = packet.pts if packet.pts is not None else packet.dts
                if packet.size and time is not None and packet.time_base is not None:
                    end_s = float((time + (packet.duration or 0)) * packet.time_base) - start_s
                    ends[packet.stream_index] = max(ends.get(packet.stream_index, 0.0), end_s)
    return ends[info.stream] if max(ends.values()) > info.end_s - CUT_SHORT_SECONDS else info.end_s


def source_fps(path: Path, info: VideoInfo) -> Fraction:
    """Average frames per second, measured over all packets: headers state anything from 1 to 90,000.

    Pauses do not count. Returns the nearest of 24, 25, 30, … and their 1000/1001 if it fits within the
    rounding of the times, otherwise the average to two decimals. For packets without times, as in raw
    streams, returns the header's rate. Raises MediaError like `probe`.
    """
    with av.open(str(path.absolute()), metadata_errors="ignore") as container:
        stream = container.streams[info.stream]
        assert isinstance(stream, VideoStream) and stream.time_base is not None
        declared = Fraction(stream.guessed_rate or stream.average_rate or 1)
        tick_s, times = stream.time_base, set[int]()
        with suppress(av.FFmpegError):  # damaged: FFmpeg reports it better
            for packet in container.demux(stream):
                time = packet.pts if packet.pts is not None else packet.dts
                if packet.size and time is not None:
                    times.add(time)
    if len(times) < 2:
        return declared
    intervals = np.diff(sorted(times))
    intervals = intervals[intervals <= PAUSE * intervals.mean()]
    span_s = int(intervals.sum()) * tick_s
    average = len(intervals) / span_s
    _refuse_slow(path, average)
    usual = (Fraction(round(average)), Fraction(round(average * 1001 / 1000) * 1000, 1001))
    nearest = min(usual, key=lambda rate: abs(rate - average))
    fits = abs(len(intervals) - nearest * span_s) <= nearest * min(tick_s, LARGEST_TICK)
    return nearest if fits else round(average, 2)
