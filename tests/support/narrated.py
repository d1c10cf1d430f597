"""Clips with human narrations, and shards of them that a provider narrates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avion_core.config import NarratorSettings
from avion_core.data.clips import write_clips
from avion_core.data.tables import map_table
from avion_core.narrate.narrated import NARRATED, narrate_shard


def write_narrated(folder: Path, clips: Sequence[tuple[str, float, float]]) -> None:
    """`train.arrow` with these clips (video and seconds) and their human narrations."""
    names = ("video_id", "start_s", "end_s")
    rows = [
        {**dict(zip(names, clip, strict=True)), "texts": ["#C C does it"], "narration_id": str(place)}
        for place, clip in enumerate(clips)
    ]
    write_clips(folder / "train.arrow", rows)


def narrate(
    folder: Path, home: Path, settings: NarratorSettings, *, shard: str = "1-of-1", model: Path | None = None
) -> list[dict[str, Any]]:
    """Narrate a shard of the clips of `folder`; its journal and table are in `home`."""
    out = home / f"{shard}.arrow"
    narrate_shard(
        folder / "train.arrow",
        folder / "chunks.parquet",
        settings=settings,
        shard=shard,
        model=model,
        journal_dir=home / "journal",
        out=out,
    )
    return map_table(out, NARRATED).to_pylist()
