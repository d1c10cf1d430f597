"""Chunks whose frames tell their number, and their index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avion_core.data.chunks import ChunkIndex
from avion_core.files import sha256
from avion_core.media.chunk_table import write_chunk_table
from tests.support.counted_video import RANDOM_ACCESS, write_counted


def chunk_row(path: Path, video_id: str, chunk: int, start_frame: int, frames: int) -> dict[str, Any]:
    """A row of the index for a file of 128×128 pixels at 30 frames per second."""
    return {
        "video_id": video_id,
        "chunk": chunk,
        "start_frame": start_frame,
        "frames": frames,
        "fps_num": 30,
        "fps_den": 1,
        "width": 128,
        "height": 128,
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
        "path": str(path),
    }


def chunk_index(folder: Path, videos: Mapping[str, Sequence[int]]) -> ChunkIndex:
    """Videos of chunks with these numbers of frames; writes `chunks.parquet` and `<video><chunk>.mp4`."""
    rows = []
    for video_id, lengths in videos.items():
        for chunk, frames in enumerate(lengths):
            path = folder / f"{video_id}{chunk}.mp4"
            write_counted(path, frames, width=128, height=128, options=RANDOM_ACCESS)
            rows.append(chunk_row(path, video_id, chunk, sum(lengths[:chunk]), frames))
    write_chunk_table(folder / "chunks.parquet", rows)
    return ChunkIndex.load(folder / "chunks.parquet")
