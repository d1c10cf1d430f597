"""Source videos become chunks made for random access, and each chunk a row of the index.

A shard works off every n-th video. A video's chunks appear together with a marker that says what they
were made of, or not at all; a later run with the same source and settings takes them as they are, and
goes on with the chunks that a killed run had finished. A video that cannot be used is quarantined with
its reason, and the rest goes on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from avion_core.config import TranscodeSettings
from avion_core.files import claim, fingerprint, publish, read_json, remove_partials, sha256, write_json
from avion_core.media import MediaError
from avion_core.media.chunk_table import read_chunk_table, write_chunk_table
from avion_core.media.chunker import frame_rate, make_chunks
from avion_core.media.packets import PACKETS, read_packets, write_packets
from avion_core.media.program import ffmpeg_program
from avion_core.progress import Progress

MARKER = "done.json"
"""Beside a video's chunks: the fingerprint of source and settings, the index rows or why there are none, and
the version of FFmpeg that made them."""


def transcode_shard(
    videos: Path,
    *,
    settings: TranscodeSettings,
    shard: str,
    chunks_dir: Path,
    index: Path,
    quarantine: Path,
) -> None:
    """Transcode every n-th video of `videos`, beginning with the k-th, for the shard "k-of-n" (k from 1).

    Publishes the shard's chunk index and its list of quarantined videos. Raises ValueError for a shard
    that does not exist or an unusable list of videos, OSError when the disk is full.
    """
    rows: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    sources = _videos_of_shard(videos, shard)
    with Progress(f"transcode {shard}", len(sources), unit="videos") as progress:
        for video_id, source in sources:
            with claim(chunks_dir / video_id / "chunks"):
                marker = _transcode_video(source, chunks_dir / video_id, settings)
            if marker["reason"] is None:
                rows += [_index_row(video_id, chunks_dir, entry) for entry in marker["chunks"]]
            else:
                refused.append({"video_id": video_id, "path": str(source), "reason": marker["reason"]})
            progress.advance()
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


def _videos_of_shard(videos: Path, shard: str) -> list[tuple[str, Path]]:
    match = re.fullmatch(r"(\d+)-of-(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"shard '{shard}' is not of the form k-of-n with k from 1 to n")
    table = pq.read_table(videos, columns=["video_id", "path"])
    sources = list(zip(table["video_id"].to_pylist(), table["path"].to_pylist(), strict=True))
    if len({video_id for video_id, _ in sources}) < len(sources):
        raise ValueError(f"{videos}: a video_id stands there twice")
    for video_id, _ in sources:
        if not video_id or Path(video_id).is_absolute() or ".." in Path(video_id).parts:
            raise ValueError(f"{videos}: video_id '{video_id}' cannot be the name of a folder")
    first, count = int(match[1]), int(match[2])
    return [(video_id, Path(path)) for video_id, path in sources[first - 1 :: count]]


def _transcode_video(source: Path, home: Path, settings: TranscodeSettings) -> dict[str, Any]:
    """The marker of a video: that of an earlier run if it still holds, else that of a fresh one."""
    made_of = _made_of(source, settings)
    marker = _valid_marker(home / "chunks", made_of)
    remove_partials(home, except_key=None if marker else made_of)
    if marker is not None:
        return marker
    with publish(home / "chunks", key=made_of) as draft:
        try:
            chunks = make_chunks(source, draft, settings)
            packets = [chunk.index.packets for chunk in chunks]
            write_packets(draft / PACKETS, packets, count=sum(map(len, packets)))
            marker = {"made_of": made_of, "reason": None, "chunks": _entries(chunks, settings)}
        except MediaError as error:
            _remove_files(draft)
            marker = {"made_of": made_of, "reason": error.reason, "chunks": []}
        write_json(draft / MARKER, marker | {"ffmpeg": ffmpeg_program().version})
    return marker


def _made_of(source: Path, settings: TranscodeSettings) -> str:
    stat = source.stat() if source.is_file() else None
    identity = [stat.st_size, stat.st_mtime_ns] if stat else []
    return fingerprint({"settings": settings.model_dump(), "source": identity})


def _valid_marker(folder: Path, made_of: str) -> dict[str, Any] | None:
    if not (folder / MARKER).is_file():
        return None
    marker: dict[str, Any] = read_json(folder / MARKER)
    whole = (folder / PACKETS).is_file() or not marker["chunks"]
    whole = whole and all(
        (folder / entry["file"]).is_file() and (folder / entry["file"]).stat().st_size == entry["bytes"]
        for entry in marker["chunks"]
    )
    return marker if whole and marker["made_of"] == made_of else None


def _entries(chunks: Sequence[Any], settings: TranscodeSettings) -> list[dict[str, Any]]:
    """Index rows of a video's chunks, without what depends on where they will lie."""
    rate, entries, start = frame_rate(settings.fps), [], 0
    for number, chunk in enumerate(chunks):
        entries.append(
            {
                "file": chunk.path.name,
                "chunk": number,
                "start_frame": start,
                "frames": chunk.frames,
                "fps_num": rate.numerator,
                "fps_den": rate.denominator,
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
    path = chunks_dir / video_id / "chunks" / entry["file"]
    extradata = bytes.fromhex(entry["extradata"])
    return {"video_id": video_id, "path": str(path), **values, "extradata": extradata}


def _remove_files(folder: Path) -> None:
    """Empty a draft whose video was refused; it may not have been made."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
