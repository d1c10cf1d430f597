"""The source `folder`: the user's own videos, left in place, and a CSV of narrations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from avion_core.config.sources import FolderSource
from avion_core.data.folder import NARRATIONS, SPLITS, read_narrations, split_of
from avion_core.data.source_videos import SourceError, SourceVideo, find_file, refuse_namesakes, video_id_of
from avion_core.sources.raw_folder import RawFolder
from avion_core.sources.source import Source, Target
from avion_core.sources.state import SourceRecord


class OwnVideos(Source[FolderSource]):
    """A folder of videos and a CSV."""

    external = True

    def __init__(self, own: FolderSource, target: Target) -> None:
        super().__init__(own, target)
        self._videos, self._narrations = Path(own.videos), Path(own.narrations)

    @property
    def where(self) -> list[str]:
        """The folder of the videos."""
        return [self.own.videos]

    def checks(self, record: SourceRecord) -> Sequence[Callable[[], object]]:
        """Check the folder, and the CSV with its videos."""
        away = record.videos
        return [lambda: self.check_videos(away=away), lambda: self.check_narrations(away=away)]

    def check_videos(self, *, away: Collection[str] = ()) -> None:
        """Raise SourceError if the folder of the videos is missing, unless the videos are `away`."""
        if not self._videos.is_dir() and not away:
            raise SourceError(
                f"{self._videos}: no such folder; set `folder.videos` to the one that holds the videos"
            )

    def check_narrations(self, *, away: Collection[str] = ()) -> None:
        """Read the whole CSV and look for every video that is not `away`. Raises SourceError.

        If the folder itself is missing, only the CSV is read.
        """
        videos = self._videos if self._videos.is_dir() or away else None
        narrations = read_narrations(self._narrations, videos=videos, away=away)
        names = {row.video for row in narrations}
        refuse_namesakes((video_id_of(name), str(self._videos / name)) for name in names)

    def fetch(self, record: SourceRecord) -> list[SourceVideo]:
        """Copy the CSV into the raw folder."""
        for name, file in self.annotations().items():
            RawFolder(self.target.raw_dir).copy(file, name)
        return self.list_videos()

    def annotations(self) -> dict[str, Path]:
        """The CSV."""
        return {NARRATIONS: self._narrations}

    def list_videos(self) -> list[SourceVideo]:
        """The narrated videos, present or not."""
        names = sorted({row.video for row in read_narrations(self._narrations, videos=None)})
        folder = self._videos
        return [SourceVideo(video_id_of(name), find_file(folder, name) or folder / name) for name in names]

    def clips_at_most(self, recorded: Collection[str]) -> dict[str, int]:
        """The rows of each split."""
        counts = dict.fromkeys(SPLITS, 0)
        for row in read_narrations(self._narrations, videos=None):
            counts[row.split or split_of(row.video, validation_fraction=self.own.validation_fraction)] += 1
        return counts
