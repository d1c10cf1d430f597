"""Transcode one source video to chunk files: build and run the FFmpeg command, interpret its messages.

One process decodes the source once and writes every chunk. Chunks have a constant frame rate (the setting's
or the source's own), even sizes, no sound, and B frames that nothing refers to, so that a decoder can skip
frames that were not requested.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import ffmpeg
from av.video.stream import VideoStream

from avion_core.config import TranscodeSettings
from avion_core.files import CANNOT_WRITE
from avion_core.media import MediaError
from avion_core.media.decode import decode_packets
from avion_core.media.packets import NotIndexableError, PacketIndex, index_packets
from avion_core.media.probe import CUT_SHORT_SECONDS, Colours, VideoInfo, picture_end_s, probe, source_fps
from avion_core.media.program import ffmpeg_binary
from avion_core.processes import end_with_parent

CHUNK_PATTERN = "%05d.mp4"
DIFFUSE_WHITE_NITS, PEAK_NITS = 203, 1000
_DAMAGE = re.compile(
    r"corrupt|error while decoding|error submitting packet|invalid data found|invalid nal|concealing"
    r"|partial file|ended prematurely|truncat|crc mismatch|invalid as first byte of an ebml"
    r"|exceeds containing master|bad vlc|error y=\d",
    re.IGNORECASE,
)
"""FFmpeg's messages about a damaged source that it keeps decoding."""
_NOT_THE_VIDEO = re.compile(
    r"unknown encoder|unrecognized option|option not found|permission denied", re.IGNORECASE
)
"""FFmpeg's messages when FFmpeg, not the source, is at fault."""
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
"""Signals that a damaged source may cause; others come from the system or the user."""
_INTERRUPTED = 255
"""FFmpeg's exit status after a signal that it handles."""


@dataclass(frozen=True)
class Chunk:
    """One chunk file as found on disk."""

    path: Path
    frames: int
    rate: Fraction
    """Frames per second."""
    width: int
    height: int
    index: PacketIndex


def frame_rate(fps: float) -> Fraction:
    """The exact ratio behind a decimal rate: 29.97 is 30000/1001, 12.5 is 25/2."""
    nearest = round(fps)
    if fps != nearest and abs(fps - nearest * 1000 / 1001) < 0.005:
        return Fraction(nearest * 1000, 1001)
    return Fraction(fps).limit_denominator(1000)


def chunk_rate(source: Path, info: VideoInfo, settings: TranscodeSettings) -> Fraction:
    """Frames per second of the chunks of `source`: the setting's, or the source's own."""
    return source_fps(source, info) if settings.fps is None else frame_rate(settings.fps)


def frames_per_chunk(settings: TranscodeSettings, rate: Fraction) -> int:
    """Frames per chunk; the last chunk may have fewer."""
    return max(round(settings.chunk_seconds * rate), 1)


def chunk_command(
    source: Path, info: VideoInfo, settings: TranscodeSettings, *, rate: Fraction, finished: int
) -> list[str]:
    """The FFmpeg command that writes the chunks of `source` after the first `finished` ones.

    It runs in the chunks' folder. Finished parts are decoded too, and dropped frame by frame once the rate is
    constant: seeking would be faster, but is not exact for every source.
    """
    frames = frames_per_chunk(settings, rate)
    threads = settings.ffmpeg_threads
    picture = _constant_rate(source, info, settings, rate=rate)
    picture = (
        picture.filter("trim", start_frame=finished * frames)
        .filter("setpts", "PTS-STARTPTS")
        .filter("fps", fps=str(rate))  # FFmpeg 6 and 7 lose it in setpts
    )
    tune = {} if settings.tune == "none" else {"tune": settings.tune}
    x264 = _x264_options(settings, frames)
    output = ffmpeg.output(
        _scaled(picture, info, settings),
        CHUNK_PATTERN,
        **{"c:v": "libx264", "crf": settings.crf, "preset": settings.preset, **tune},
        **{"x264-params": ":".join(f"{name}={value}" for name, value in x264.items())},
        **{"colorspace": "smpte170m", "color_range": "tv", "threads": threads, "map_metadata": -1},
        **{"force_key_frames": f"expr:not(mod(n,{frames}))", "forced-idr": 1},  # no chunk refers to another
        f="segment",
        segment_format="mp4",
        segment_format_options="movflags=+faststart",
        segment_time=f"{float(frames / rate):.6f}",
        segment_start_number=finished,
        segment_time_delta=f"{float(1 / rate / 2):.6f}",
        reset_timestamps=1,
    )
    quiet = ("-nostdin", "-hide_banner", "-loglevel", "warning", "-filter_complex_threads", str(threads))
    command: list[str] = ffmpeg.compile(output.global_args(*quiet), cmd=ffmpeg_binary())
    return command


def _constant_rate(source: Path, info: VideoInfo, settings: TranscodeSettings, *, rate: Fraction) -> Any:
    """The source's pictures, all of the first one's size, deinterlaced and at a constant rate."""
    shift_s = info.forgotten_s - info.run_in_s
    threads = settings.ffmpeg_threads
    opened = ffmpeg.input(f"file:{source.resolve()}", threads=threads, itsoffset=shift_s, reinit_filter=0)
    # Pictures of another size are scaled to the first one's: a new filter chain would restart the time.
    picture = opened[str(info.stream)].filter("scale", "iw", "ih")
    # Only frames marked as two fields are merged.
    picture = picture.filter("bwdif", mode="send_frame", deint="interlaced")
    if settings.fps is None:
        # Move the first frame to the nearest time of the rate: halfway, rounding drops and repeats others.
        picture = picture.filter("setpts", f"PTS-STARTPTS+round(STARTPTS*TB*{rate})/({rate})/TB")
    # A late first picture fills the time before it. In a file without display times it is not late.
    beginning = {"start_time": 0} if info.has_times else {}
    return picture.filter("fps", fps=str(rate), **beginning)


def _scaled(picture: Any, info: VideoInfo, settings: TranscodeSettings) -> Any:
    """Filters to the short side of the setting, in BT.601's matrix."""
    short = settings.short_side_px
    # Sizes follow the shape as displayed: after rotation (which FFmpeg applies) and with square pixels.
    width = f"if(lt(iw*sar,ih),{short},2*round({short}*iw*sar/ih/2))"
    height = f"if(lt(iw*sar,ih),2*round({short}*ih/(iw*sar)/2),{short})"
    size = {"w": width, "h": height, "flags": "bicubic"}
    if info.hdr:
        picture = _tone_mapped(picture.filter("scale", **size), info.hdr)
    else:
        picture = picture.filter("scale", **size, out_color_matrix="bt601", out_range="tv")
    return picture.filter("setsar", "1").filter("format", "yuv420p")


def _x264_options(settings: TranscodeSettings, frames: int) -> dict[str, str | float]:
    """libx264's options for chunks of this many frames."""
    x264: dict[str, str | float] = {
        "keyint": min(settings.keyframe_interval_frames, frames),
        "bframes": settings.b_frames,
    }
    if settings.skippable_frames:
        x264 |= {"open-gop": 1, "min-keyint": 1, "scenecut": 0, "b-adapt": 0, "b-pyramid": "none", "ref": 1}
        x264["ipratio"] = 1.3  # keyframes this close need less advantage over other frames
        # Three quarters of the encoding time at equal quality: no trellis, no quarter blocks in B frames.
        x264 |= {"trellis": 0, "deadzone-intra": 10, "partitions": "i8x8,i4x4"}
    return x264


def _tone_mapped(picture: Any, colours: Colours) -> Any:
    """Filters from HDR to SDR colours: sRGB, in BT.601's matrix as in every chunk.

    Diffuse white, 203 nits (ITU-R BT.2408), becomes white. Darker light is kept; the last tenth of the range
    is left to highlights of up to 1000 nits. HLG's system gamma applies to the luminance (BT.2100); zscale
    (`agamma`) would approximate it per channel, with colours too strong by 40 levels.
    """
    tags = {"color_trc": colours.transfer, "color_primaries": colours.primaries, "colorspace": colours.matrix}
    return (
        picture.filter("setparams", **tags)
        .filter("zscale", transfer="linear", npl=DIFFUSE_WHITE_NITS, agamma=0)
        .filter("format", "gbrpf32le")
        .filter("zscale", primaries="bt709")
        .filter("tonemap", "mobius", param=0.9, peak=PEAK_NITS / DIFFUSE_WHITE_NITS, desat=0)
        .filter("zscale", transfer="iec61966-2-1", matrix="smpte170m", range="tv")
        .filter("setparams", color_trc="bt709", color_primaries="bt709")  # as SDR video is tagged
    )


def make_chunks(source: Path, folder: Path, settings: TranscodeSettings) -> list[Chunk]:
    """Write all chunks of a video into `folder` and verify each. Returns them in order.

    Whole chunks left by an unfinished call with the same source and settings are kept.
    Raises MediaError if the video cannot be used (corrupt, empty, without pictures, or cut short), OSError
    if the disk is full, ChildProcessError (an OSError) if FFmpeg fails, and RuntimeError as verify_chunk.
    """
    info = probe(source)
    folder.mkdir(parents=True, exist_ok=True)
    rate = chunk_rate(source, info, settings)
    kept = _finished_chunks(folder, rate, frames=frames_per_chunk(settings, rate))
    command = chunk_command(source, info, settings, rate=rate, finished=len(kept))
    done = subprocess.run(
        command,
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        preexec_fn=end_with_parent,
    )
    lines = done.stderr.decode("utf-8", "replace").splitlines()
    _raise_if_not_the_video(source, done.returncode, lines)
    if done.returncode != 0:
        raise MediaError(source, f"FFmpeg cannot read it ({_last(lines)})")
    made = sorted(folder.glob("*.mp4"))[len(kept) :]
    if any("nothing was encoded" in line for line in lines):
        (folder / (CHUNK_PATTERN % len(kept))).unlink(missing_ok=True)
        made = []
    chunks = kept + [verify_chunk(path, rate) for path in made]
    found_s = float(sum(chunk.frames for chunk in chunks) / rate)
    if not chunks:
        raise MediaError(source, "corrupt: no frame can be decoded")
    end_s, slack_s = info.end_s, max(CUT_SHORT_SECONDS, float(1 / rate))
    if found_s <= end_s - slack_s and not info.end_is_exact:
        end_s = picture_end_s(source, info)
    if found_s <= end_s - slack_s:
        raise MediaError(source, f"cut short: {found_s:.1f} of {end_s:.1f} seconds can be decoded")
    damage = [line for line in lines if _is_damage(line, info.stream)]
    if damage:
        raise MediaError(source, f"damaged: {len(damage)} decoding messages, first: {_plain(damage[0])}")
    return chunks


def _finished_chunks(folder: Path, rate: Fraction, *, frames: int) -> list[Chunk]:
    """Leading whole chunks of `frames` each in a folder; everything after them is deleted."""
    chunks: list[Chunk] = []
    files = sorted(folder.glob("*.mp4"))
    for path in files:
        try:
            chunk = verify_chunk(path, rate)
        except RuntimeError:
            break
        if path.name != CHUNK_PATTERN % len(chunks) or chunk.frames != frames:
            break
        chunks.append(chunk)
    for path in files[len(chunks) :]:
        path.unlink()
    return chunks


def verify_chunk(path: Path, rate: Fraction) -> Chunk:
    """Index a chunk, decode every frame by the index, and check that all lie on the rate's grid.

    Raises RuntimeError if not: the encoder did not follow its options.
    """
    try:
        index = index_packets(path)
        every = list(range(len(index)))
        decoded = sorted(number for number, _ in decode_packets(path, index, every))
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            width, height, times = stream.width, stream.height, _frame_times(container, stream)
    except (NotIndexableError, MediaError, av.FFmpegError) as error:
        raise RuntimeError(f"{path}: FFmpeg wrote a chunk that cannot be read ({error})") from None
    if [time * rate for time in times] != every:
        raise RuntimeError(f"{path}: FFmpeg wrote a chunk whose frames are not at {rate} per second")
    if decoded != every:
        raise RuntimeError(f"{path}: {len(decoded)} of {len(every)} frames come out of FFmpeg's chunk")
    return Chunk(path, len(every), rate, width, height, index)


def _frame_times(container: av.container.InputContainer, stream: VideoStream) -> list[Fraction]:
    """Seconds from the first frame to each, in display order."""
    assert stream.time_base is not None
    stamps = sorted(packet.pts or 0 for packet in container.demux(stream) if packet.size)
    return [(stamp - stamps[0]) * stream.time_base for stamp in stamps]


def _raise_if_not_the_video(source: Path, code: int, lines: list[str]) -> None:
    for number in CANNOT_WRITE:
        if any(os.strerror(number) in line for line in lines):
            raise OSError(number, f"{os.strerror(number)} while transcoding {source}")
    if code == _INTERRUPTED or (code < 0 and -code not in _CRASHES):
        which = f"signal {-code}" if code < 0 else "a signal"
        raise ChildProcessError(f"FFmpeg was ended by {which} while transcoding {source}")
    blamed = [line for line in lines if _NOT_THE_VIDEO.search(line)]
    if code and blamed:
        raise ChildProcessError(f"{ffmpeg_binary()} cannot transcode {source}: {_plain(blamed[0])}")


def _is_damage(line: str, stream: int) -> bool:
    other = re.search(r"stream (?:= )?#?(?:0:)?(\d+)", line)
    return bool(_DAMAGE.search(line)) and (other is None or int(other[1]) == stream)


def _plain(line: str) -> str:
    """A message without FFmpeg's memory addresses."""
    return re.sub(r"\s*@ 0x[0-9a-f]+", "", line).strip()


def _last(lines: list[str]) -> str:
    return _plain(lines[-1]) if lines else "no message"
