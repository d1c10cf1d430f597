"""What a file says about its video, read with PyAV: no ffprobe is needed."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.video.stream import VideoStream

from avion_core.media import MediaError

STILL_FORMATS = ("image2", "_pipe", "tty", "gif")
"""Demuxers that find a picture, or text drawn as one, where a video was expected."""


@dataclass(frozen=True)
class VideoInfo:
    """A video stream as its file declares it."""

    duration_s: float
    """Length of the video stream; 0 when the file does not say."""
    duration_is_exact: bool
    """Whether the length is the video stream's own, not that of the whole file with its sound."""
    fps: Fraction
    """Average frames per second."""
    width: int
    height: int
    """Size in pixels as coded, before any rotation."""
    codec: str
    has_audio: bool
    stream: int
    """Number of the video stream within the file."""


def probe(path: str | Path) -> VideoInfo:
    """Open a file, read its header and decode one frame.

    Raises MediaError with the reason if the file is missing, empty, damaged, not a video, or holds no
    video stream that can be decoded.
    """
    path = Path(path)
    if not path.is_file():
        raise MediaError(path, "no such file")
    if path.stat().st_size == 0:
        raise MediaError(path, "the file is empty")
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            return _read(path, container)
    except (av.FFmpegError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(path, f"corrupt or not a video ({reason})") from None


def _read(path: Path, container: av.container.InputContainer) -> VideoInfo:
    if any(name in container.format.name for name in STILL_FORMATS):
        raise MediaError(path, f"not a video ({container.format.long_name})")
    stream = _video_stream(container)
    if stream is None:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise MediaError(path, f"no video stream (it holds {kinds})")
    duration_s, exact = _duration(container, stream)
    if next(container.decode(stream), None) is None:
        raise MediaError(path, "corrupt: not one frame can be decoded")
    return VideoInfo(
        duration_s=duration_s,
        duration_is_exact=exact,
        fps=Fraction(stream.average_rate or stream.guessed_rate or 0),
        width=stream.width,
        height=stream.height,
        codec=stream.codec_context.name,
        has_audio=bool(container.streams.audio),
        stream=stream.index,
    )


def _video_stream(container: av.container.InputContainer) -> VideoStream | None:
    """The first video stream that is not a cover picture."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    return None


def _duration(container: av.container.InputContainer, stream: VideoStream) -> tuple[float, bool]:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base), True
    tag = stream.metadata.get("DURATION", "")  # Matroska: hh:mm:ss.fraction
    if tag.count(":") == 2:
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds), True
    whole = (container.duration or 0) / av.time_base
    return whole, not container.streams.audio and whole > 0
