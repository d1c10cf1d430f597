"""Chunks whose frames tell their number, and clips of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from avion_core.data.chunks import ChunkIndex
from avion_core.files import sha256
from avion_core.media.chunk_table import write_chunk_table
from tests.support.counted_video import RANDOM_ACCESS, write_counted


def chunk_index(folder: Path, videos: Mapping[str, Sequence[int]]) -> ChunkIndex:
    """Videos of chunks with these numbers of frames, 30 a second; writes `chunks.parquet`."""
    rows = []
    for video_id, lengths in videos.items():
        for chunk, frames in enumerate(lengths):
            path = folder / f"{video_id}{chunk}.mp4"
            write_counted(path, frames, width=128, height=128, options=RANDOM_ACCESS)
            rows.append(
                {
                    "video_id": video_id,
                    "chunk": chunk,
                    "start_frame": sum(lengths[:chunk]),
                    "frames": frames,
                    "fps_num": 30,
                    "fps_den": 1,
                    "width": 128,
                    "height": 128,
                    "bytes": path.stat().st_size,
                    "sha256": sha256(path),
                    "path": str(path),
                }
            )
    write_chunk_table(folder / "chunks.parquet", rows)
    return ChunkIndex.load(folder / "chunks.parquet")
