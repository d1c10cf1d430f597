"""The source `folder`: the user's own videos, which stay where they are, and their CSV of narrations."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from avion_core.config import DatasetSettings
from avion_core.data.folder import read_narrations
from avion_core.data.source_videos import SourceError, SourceVideo, find_file, refuse_namesakes, video_id_of


def check_videos(settings: DatasetSettings, *, away: Collection[str] = ()) -> None:
    """Raise SourceError where the folder of the videos is not there, unless they are `away`."""
    assert settings.folder is not None
    folder = Path(settings.folder.videos)
    if not folder.is_dir() and not away:
        raise SourceError(f"{folder}: no such folder; set `folder.videos` to the one that holds the videos")


def check_narrations(settings: DatasetSettings, *, away: Collection[str] = ()) -> None:
    """Read the whole CSV and look for every video but those that are `away`. Raises SourceError.

    Where the folder itself is not there, only the CSV is read.
    """
    assert settings.folder is not None
    folder = Path(settings.folder.videos)
    videos = folder if folder.is_dir() or away else None
    narrations = read_narrations(Path(settings.folder.narrations), videos=videos, away=away)
    names = {row.video for row in narrations}
    refuse_namesakes((video_id_of(name), str(folder / name)) for name in names)


def list_videos(settings: DatasetSettings) -> list[SourceVideo]:
    """The narrated videos, there or not."""
    assert settings.folder is not None
    narrations = read_narrations(Path(settings.folder.narrations), videos=None)
    folder = Path(settings.folder.videos)
    names = sorted({row.video for row in narrations})
    return [SourceVideo(video_id_of(name), find_file(folder, name) or folder / name) for name in names]
