"""Videos to chunks and their index in one step, for tests of what reads them."""

from __future__ import annotations

from pathlib import Path

from avion_core.config import TranscodeSettings
from avion_core.media.transcode import gather_chunks, transcode_shard


def transcode_all(home: Path, settings: TranscodeSettings) -> Path:
    """Transcode what `home/videos.parquet` lists; returns `home/chunks.parquet`, its packets beside it."""
    shard, refused = home / "chunks/shard.parquet", home / "chunks/shard.json"
    transcode_shard(
        home / "videos.parquet",
        settings=settings,
        shard="1-of-1",
        chunks_dir=home / "chunks",
        index=shard,
        quarantine=refused,
    )
    index = home / "chunks.parquet"
    gather_chunks([shard], [refused], index=index, quarantine=home / "quarantine.json")
    return index
