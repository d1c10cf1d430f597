"""Seconds of video per CPU second of our transcoder, against plain FFmpeg and against seeking chunk by chunk.

Plain: one FFmpeg run with our encoder's settings that writes the same chunks with the segment muxer, and
does nothing else. `over_plain_ffmpeg` is its CPU time over the whole transcoder's: FFmpeg, decoding every
chunk, packet index and checksums. One thread each; medians of three rounds on two minutes of footage.

Seeking: LaViLa's public script starts FFmpeg for every chunk with `-ss START` before `-i`, so that it seeks
to the keyframe before, and `-t LENGTH`, scales, and leaves the rest to FFmpeg and x264 (medium, crf 23, as
many threads as there are cores). So it is run here, on ten minutes, with chunks of 15 seconds (AVION's; the
script has 300), and ours in the same size. Its calls of ffprobe are left out, and the footage
has no sound, which it would encode anew. `over_seeking` is its CPU time by ours with the default format,
`over_seeking_same_settings` that with our encoder's settings in it. `over_decoding_to_the_start` puts `-ss`
behind `-i`, which decodes everything before each chunk and is not what the script does; of its forty chunks
eight are measured whose mean start is that of all. One round: these take minutes.

Seeking wastes what lies between keyframe and start, and decoding is a tenth of the work on this footage: the
rest is x264, so `over_seeking` says above all what our default format costs to encode.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from avion_core.config import TranscodeSettings
from avion_core.media.chunker import chunk_command, chunk_rate
from avion_core.media.probe import probe
from avion_core.media.program import ffmpeg_binary
from avion_core.media.transcode import transcode_shard
from benchmarks import write_result
from benchmarks.footage import street

ROUNDS, SHORT_SECONDS, LONG_SECONDS = 3, 120, 600
SETTINGS = TranscodeSettings()
FFMPEG = (ffmpeg_binary(), "-nostdin", "-loglevel", "error")


def cpu_seconds(work: Callable[[], object]) -> float:
    """User and system time of this process and its children while `work` runs."""
    before = _used()
    work()
    return _used() - before


def _used() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(entry.ru_utime + entry.ru_stime for entry in usage)


def with_ours(source: Path, folder: Path) -> None:
    """The whole transcoder."""
    folder.mkdir()
    pq.write_table(pa.table({"video_id": ["street"], "path": [str(source)]}), folder / "videos")
    transcode_shard(
        folder / "videos",
        settings=SETTINGS,
        shard="1-of-1",
        chunks_dir=folder,
        index=folder / "index",
        quarantine=folder / "quarantine",
    )


def with_our_ffmpeg(source: Path, folder: Path) -> None:
    """The transcoder's FFmpeg process alone."""
    folder.mkdir()
    subprocess.run(our_command(source), cwd=folder, check=True)


def our_command(source: Path) -> list[str]:
    """The transcoder's FFmpeg command."""
    info = probe(source)
    return chunk_command(source, info, SETTINGS, rate=chunk_rate(source, info, SETTINGS), finished=0)


def encoder(source: Path) -> list[str]:
    """Our encoder's options in FFmpeg's form."""
    command = our_command(source)
    names = ("-c:v", "-crf", "-preset", "-tune", "-x264-params")
    places = [place for place, word in enumerate(command) if word in names]
    return [word for place in places for word in command[place : place + 2]] + ["-threads", "1"]


def with_plain_ffmpeg(source: Path, folder: Path) -> None:
    """One run, the same chunks."""
    folder.mkdir()
    line = [*FFMPEG, "-threads", "1", "-i", str(source), "-vf", "fps=30,scale=-2:288"]
    line += [
        *encoder(source),
        "-force_key_frames",
        f"expr:gte(t,n_forced*{SETTINGS.chunk_seconds})",
    ]
    line += ["-f", "segment", "-segment_time", str(SETTINGS.chunk_seconds), "-reset_timestamps", "1"]
    subprocess.run([*line, "%05d.mp4"], cwd=folder, check=True)


def with_seeking(
    source: Path, folder: Path, starts_s: range, *options: str, behind_input: bool = False
) -> None:
    """One run per chunk; `-ss` before the input seeks, after it decodes everything up to the start."""
    folder.mkdir()
    for start_s in starts_s:
        seek, opened = ["-ss", str(start_s)], ["-i", str(source)]
        line = [*opened, *seek] if behind_input else [*seek, *opened]
        line += ["-filter:v", "scale=-2:288", "-t", str(SETTINGS.chunk_seconds), *options]
        subprocess.run([*FFMPEG, *line, str(folder / f"{start_s}.mp4")], check=True)


def against_plain(folder: Path) -> dict[str, float]:
    """Median CPU seconds of each way to make the chunks of the short footage."""
    source = street(folder / "short.mp4", seconds=SHORT_SECONDS)
    ways: dict[str, Callable[[Path], None]] = {
        "ours": lambda place: with_ours(source, place),
        "our_ffmpeg_alone": lambda place: with_our_ffmpeg(source, place),
        "plain_ffmpeg": lambda place: with_plain_ffmpeg(source, place),
    }
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(ROUNDS):
        for way, run in ways.items():
            place = folder / f"{way}-{number}"
            spent[way].append(cpu_seconds(lambda run=run, place=place: run(place)))  # type: ignore[misc]
    return {way: statistics.median(values) for way, values in spent.items()}


def against_seeking(folder: Path) -> dict[str, float]:
    """CPU seconds of each way to make the chunks of the long footage."""
    part, source = street(folder / "part.mp4", seconds=20), folder / "long.mp4"
    repeat = ["-stream_loop", str(LONG_SECONDS // 20 - 1), "-i", str(part), "-c", "copy"]
    subprocess.run([*FFMPEG, *repeat, str(source)], check=True)
    chunk_s = int(SETTINGS.chunk_seconds)
    starts, eighth = range(0, LONG_SECONDS, chunk_s), range(2 * chunk_s, LONG_SECONDS, 5 * chunk_s)
    same = encoder(source)
    return {
        "ours": cpu_seconds(lambda: with_ours(source, folder / "ours")),
        "seeking": cpu_seconds(lambda: with_seeking(source, folder / "seeking", starts)),
        "seeking_same_settings": cpu_seconds(lambda: with_seeking(source, folder / "same", starts, *same)),
        "decoding_to_the_start": len(starts)
        / len(eighth)
        * cpu_seconds(lambda: with_seeking(source, folder / "decoding", eighth, behind_input=True)),
    }


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="avion-transcode-") as name:
        plain, seeking = against_plain(Path(name)), against_seeking(Path(name))
    ratios = {"over_plain_ffmpeg": plain["plain_ffmpeg"] / plain["ours"]}
    ratios |= {f"over_{way}": spent / seeking["ours"] for way, spent in seeking.items() if way != "ours"}
    figures = {
        "seconds_of_video_per_cpu_second": {
            "two_minutes": {way: SHORT_SECONDS / spent for way, spent in plain.items()},
            "ten_minutes": {way: LONG_SECONDS / spent for way, spent in seeking.items()},
        },
        "cpu_seconds": {"two_minutes": plain, "ten_minutes": seeking},
    }
    write_result("transcode", figures=figures, ratios=ratios)


if __name__ == "__main__":
    main()
