"""Transcode source videos into chunks for random access, one index row per chunk.

A shard is every n-th video. A video's chunks are published together with a marker that records their source
and settings. A later run with the same ones reuses them, and continues after the chunks that a killed run
had finished. A source may be removed once it has chunks. A video that cannot be used is quarantined with
the reason, and the others go on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, astuple
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from avion_core.config import TranscodeSettings
from avion_core.files import (
    claim,
    fingerprint,
    publish,
    read_json,
    remove_partials,
    restore,
    sha256,
    write_json,
)
from avion_core.media import MediaError
from avion_core.media.chunk_table import read_chunk_table, write_chunk_table
from avion_core.media.chunker import Chunk, frame_rate, make_chunks
from avion_core.media.file_table import read_file_table
from avion_core.media.packets import PACKETS, read_packets, write_packets
from avion_core.media.probe import probe
from avion_core.media.program import ffmpeg_program
from avion_core.media.source_file import FileMark, look_at
from avion_core.progress import Progress
from avion_core.shards import shard_numbers

CHUNKS = "chunks"
"""Folder of chunks within a video's folder."""
MARKER = "done.json"
"""Beside the chunks: the settings, source and FFmpeg version behind them, and their index rows."""
LOOKED_AT = 5
"""Videos checked to decide whether chunks have other settings."""
REFUSAL = "refused.json"
"""Beside the folder of chunks: why the source cannot be used, with the same details."""


def transcode_shard(
    videos: Path,
    *,
    settings: TranscodeSettings,
    shard: str,
    chunks_dir: Path,
    index: Path,
    quarantine: Path,
) -> None:
    """Transcode every n-th video of `videos` from the k-th on, for the shard "k-of-n" (k from 1).

    Publishes the shard's chunk index and its list of quarantined videos. Raises ValueError for an
    unknown shard or an unusable list of videos, OSError if the disk is full.
    """
    rows: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    away: list[Path] = []
    grey: list[Path] = []
    sources = _videos_of_shard(videos, shard)
    with Progress(f"transcode {shard}", len(sources), unit="videos") as progress:
        for video_id, source in sources:
            with claim(chunks_dir / video_id / CHUNKS):
                marker = _transcode_video(source, chunks_dir / video_id, settings)
            if marker["reason"] is None:
                rows += [_index_row(video_id, chunks_dir, entry) for entry in marker["chunks"]]
                if look_at(source) is None:
                    away.append(source)
                    grey += [source] if _is_grey(chunks_dir / video_id, marker) else []
            else:
                entry = {"video_id": video_id, "path": str(source), "reason": marker["reason"]}
                refused.append({**entry, "away": look_at(source) is None})
            progress.advance()
    if away:
        count = f"{len(away)} of {len(sources)} videos are away, {away[0]} for one"
        print(f"transcode {shard}: {count}; the chunks made of them stay in use", file=sys.stderr)
    if grey:
        print(
            f"transcode {shard}: {len(grey)} of these, {grey[0]} for one, are HDR videos of which an earlier "
            "version made grey chunks; bring them back and run "
            "`snakemake --cores 2 transcode --forcerun transcode_videos`",
            file=sys.stderr,
        )
    write_json(quarantine, refused)
    write_chunk_table(index, rows)


def gather_chunks(
    shards: Sequence[Path], quarantines: Sequence[Path], *, index: Path, quarantine: Path
) -> None:
    """Join the shards' indexes, the videos' packets and the quarantine lists.

    The packets become `packets.npy` beside `index`. Raises ValueError if not one video is left.
    """
    table = pa.concat_tables([read_chunk_table(path) for path in shards])
    refused = sorted(
        (entry for path in quarantines for entry in read_json(path)), key=lambda e: e["video_id"]
    )
    write_json(quarantine, refused)
    if refused and table.num_rows:
        count = f"{len(refused)}, {refused[0]['path']} ({refused[0]['reason']}) for one"
        print(f"videos that cannot be used, listed in {quarantine}: {count}", file=sys.stderr)
    if not table.num_rows:
        reasons = "".join(f"\n  {entry['path']}: {entry['reason']}" for entry in refused[:5])
        raise ValueError(
            f"{index}: none of the {len(refused)} videos can be used{':' if reasons else ''}{reasons}"
        )
    table = table.sort_by([("video_id", "ascending"), ("chunk", "ascending")])
    frames = table["frames"].to_numpy()
    starts = pa.array(np.cumsum(frames, dtype=np.int64) - frames, pa.int64())
    homes = dict.fromkeys(Path(path.as_py()).parent for path in table["path"])
    write_packets(
        index.with_name(PACKETS), (read_packets(home / PACKETS) for home in homes), count=int(frames.sum())
    )
    write_chunk_table(
        index, table.set_column(table.column_names.index("first_packet"), "first_packet", starts)
    )


def have_other_settings(videos: Path, *, chunks_dir: Path, settings: TranscodeSettings) -> bool:
    """Whether these settings would remake finished chunks, judged by the first few videos."""
    table = read_file_table(videos, columns=["video_id", "path"]).slice(0, LOOKED_AT)
    answers = []
    for video_id, path in zip(table["video_id"].to_pylist(), table["path"].to_pylist(), strict=True):
        marker, seen = _read(chunks_dir / video_id / CHUNKS / MARKER), look_at(Path(path))
        if marker is not None and seen is not None:
            answers.append(not _is_made_with(marker, seen, settings))
    return bool(answers) and all(answers)


def _is_made_with(marker: dict[str, Any], seen: FileMark, settings: TranscodeSettings) -> bool:
    """Whether a marker has these settings; an earlier version's must also have this very source."""
    if "made_of" in marker:
        identity = {"settings": settings.model_dump(), "source": list(astuple(seen))}
        return bool(marker["made_of"] == fingerprint(identity))
    return _has_settings(marker, settings)


def _videos_of_shard(videos: Path, shard: str) -> list[tuple[str, Path]]:
    first, count = shard_numbers(shard)
    table = read_file_table(videos, columns=["video_id", "path"])
    sources = list(zip(table["video_id"].to_pylist(), table["path"].to_pylist(), strict=True))
    if len({video_id for video_id, _ in sources}) < len(sources):
        raise ValueError(f"{videos}: a video_id appears twice")
    for video_id, _ in sources:
        if not video_id or Path(video_id).is_absolute() or ".." in Path(video_id).parts:
            raise ValueError(f"{videos}: video_id '{video_id}' cannot be the name of a folder")
    return [(video_id, Path(path)) for video_id, path in sources[first - 1 :: count]]


def _transcode_video(source: Path, home: Path, settings: TranscodeSettings) -> dict[str, Any]:
    """A video's marker, with chunks or a reason. Only whole chunks ever replace chunks."""
    recipe, seen = fingerprint(settings.model_dump()), look_at(source)
    restore(home / CHUNKS)
    earlier = _whole_chunks(home / CHUNKS)
    if seen is None:
        return _without_source(source, earlier, settings)
    key = fingerprint([recipe, asdict(seen)])
    try:
        for path, marker in ((home / CHUNKS / MARKER, earlier), (home / REFUSAL, _read(home / REFUSAL))):
            if marker and _is_of(path, marker, source, seen, settings) and not _is_grey(home, marker):
                remove_partials(home)
                return marker
        content = sha256(source)
    except OSError as error:  # a bad disk, or the source has just disappeared
        return _without_source(source, earlier, settings, reason=error.strerror)
    remove_partials(home, except_key=key)
    made_of: dict[str, Any] = {
        "settings": recipe,
        "source": {**asdict(seen), "sha256": content},
        "ffmpeg": ffmpeg_program().version,
    }
    try:
        with publish(home / CHUNKS, key=key) as draft:
            chunks = make_chunks(source, draft, settings)
            if look_at(source) != seen:
                raise MediaError(source, "the file changed while it was read")
            packets = [chunk.index.packets for chunk in chunks]
            write_packets(draft / PACKETS, packets, count=sum(map(len, packets)))
            marker = {**made_of, "reason": None, "chunks": _entries(chunks)}
            write_json(draft / MARKER, marker)
        (home / REFUSAL).unlink(missing_ok=True)
    except MediaError as error:
        remove_partials(home)
        marker = {**made_of, "reason": error.reason, "chunks": []}
        if look_at(source) == seen:
            write_json(home / REFUSAL, marker)
    return marker


def _without_source(
    source: Path, earlier: dict[str, Any] | None, settings: TranscodeSettings, *, reason: str | None = None
) -> dict[str, Any]:
    """Chunks with these settings stand in for a missing source. Nothing is written: it may come back."""
    if earlier is not None and _has_settings(earlier, settings):
        return earlier
    try:
        probe(source)
        reason = reason or "the file is away"
    except MediaError as error:
        reason = error.reason
    kept = "; its chunks with other settings are kept" if earlier else ""
    return {"reason": reason + kept, "chunks": []}


def _has_settings(marker: dict[str, Any], settings: TranscodeSettings) -> bool:
    if "settings" in marker:
        return bool(marker["settings"] == fingerprint(settings.model_dump()))
    entry = marker["chunks"][0]  # an earlier version recorded only these settings
    rate = None if settings.fps is None else frame_rate(settings.fps)
    same_rate = rate == Fraction(entry["fps_num"], entry["fps_den"])
    return same_rate and min(entry["width"], entry["height"]) == settings.short_side_px


def _is_grey(home: Path, marker: dict[str, Any]) -> bool:
    """Whether an earlier version made the chunks from HDR video without tone mapping: its tags remain."""
    if "made_of" not in marker or not marker["chunks"]:
        return False
    return probe(home / CHUNKS / marker["chunks"][0]["file"]).hdr is not None


def _whole_chunks(folder: Path) -> dict[str, Any] | None:
    """The marker of a folder with at least one chunk and all that it lists."""
    marker = _read(folder / MARKER)
    if marker is None or not marker["chunks"] or not (folder / PACKETS).is_file():
        return None
    files = [(folder / entry["file"], entry["bytes"]) for entry in marker["chunks"]]
    return marker if all(path.is_file() and path.stat().st_size == size for path, size in files) else None


def _is_of(
    path: Path, marker: dict[str, Any], source: Path, seen: FileMark, settings: TranscodeSettings
) -> bool:
    """Whether a marker has these settings and this source; content decides if only the time differs."""
    if not _is_made_with(marker, seen, settings):
        return False
    if "made_of" in marker:
        return True
    of = marker["source"]
    if of["bytes"] != seen.bytes:
        return False
    if of["mtime_ns"] == seen.mtime_ns:
        return True
    if of["sha256"] != sha256(source):
        return False
    with suppress(OSError):  # read-only chunks: the digest is computed again next time
        write_json(path, {**marker, "source": {**of, **asdict(seen)}})
    return True


def _read(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None


def _entries(chunks: Sequence[Chunk]) -> list[dict[str, Any]]:
    """Index rows of a video's chunks, without columns that depend on their final place."""
    entries: list[dict[str, Any]] = []
    start = 0
    for number, chunk in enumerate(chunks):
        entries.append(
            {
                "file": chunk.path.name,
                "chunk": number,
                "start_frame": start,
                "frames": chunk.frames,
                "fps_num": chunk.rate.numerator,
                "fps_den": chunk.rate.denominator,
                "width": chunk.width,
                "height": chunk.height,
                "bytes": chunk.path.stat().st_size,
                "sha256": sha256(chunk.path),
                "codec": chunk.index.codec,
                "extradata": chunk.index.extradata.hex(),
                "first_packet": start,
            }
        )
        start += chunk.frames
    return entries


def _index_row(video_id: str, chunks_dir: Path, entry: dict[str, Any]) -> dict[str, Any]:
    values = {name: value for name, value in entry.items() if name != "file"}
    path = chunks_dir / video_id / CHUNKS / entry["file"]
    extradata = bytes.fromhex(entry["extradata"])
    return {"video_id": video_id, "path": str(path), **values, "extradata": extradata}
