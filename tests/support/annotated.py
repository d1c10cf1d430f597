"""Annotates a raw folder with videos of given lengths, without chunks."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from avion_core.config import DatasetSettings
from avion_core.data import annotate as module
from avion_core.data.source_videos import SourceVideo, write_videos
from avion_core.media.source_file import FileMark


class Index:
    """Lengths of videos in place of a chunk index."""

    def __init__(self, lengths: Mapping[str, float]) -> None:
        self.lengths = lengths

    def has(self, video_id: str) -> bool:
        return video_id in self.lengths

    def duration_s(self, video_id: str) -> float:
        return self.lengths[video_id]


def annotate_raw(
    folder: Path, monkeypatch: pytest.MonkeyPatch, settings: DatasetSettings, lengths: Mapping[str, float]
) -> Path:
    """Annotate `raw` in the folder; returns the folder of the tables."""
    monkeypatch.setattr(module.ChunkIndex, "load", lambda _: Index(lengths))
    if not (folder / "videos.parquet").exists():
        write_videos(folder / "videos.parquet", {SourceVideo("any", folder): FileMark(0, 0)})
    module.annotate(
        "it",
        recipe=settings.annotation_recipe(),
        raw_dir=folder / "raw",
        videos=folder / "videos.parquet",
        chunks=folder / "chunks.parquet",
        clips_dir=folder / "clips",
    )
    return folder / "clips"
