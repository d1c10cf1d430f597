"""The source `local`: official files already on disk. Videos are left in place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from avion_core.config.sources import LocalSource
from avion_core.data.layout_files import official_files
from avion_core.data.source_videos import SourceVideo
from avion_core.sources.raw_folder import RawFolder
from avion_core.sources.source import Source, Target
from avion_core.sources.state import SourceRecord


class LocalFiles(Source[LocalSource]):
    """Checks and finds files by the rules of their layout."""

    external = True

    def __init__(self, own: LocalSource, target: Target) -> None:
        super().__init__(own, target)
        self._videos = Path(own.path)
        self._annotations = Path(own.annotations or own.path)
        self._files = official_files(target.layout)

    @property
    def where(self) -> list[str]:
        """The folders."""
        return [self.own.path, *([self.own.annotations] if self.own.annotations else [])]

    @property
    def named(self) -> bool:
        """Whether the annotations name all videos: true for layouts without a quick list."""
        return self._files.list_videos is None

    def checks(self, record: SourceRecord) -> Sequence[Callable[[], object]]:
        """The annotation files, and before the first fetch the videos."""

        def check() -> None:
            self._files.check(self._annotations, self.target.allow_missing_metadata)
            if self._files.check_videos is not None and not record.videos:
                self._files.check_videos(self._annotations, self._videos)

        return [check]

    def fetch(self, record: SourceRecord) -> list[SourceVideo]:
        """Copy the annotation files into the raw folder."""
        raw = RawFolder(self.target.raw_dir)
        for name, file in self.annotations().items():
            raw.copy(file, name)
        found, missing = self._find_videos()
        wanted = [*found, *missing]
        return wanted if self.named else [*wanted, *record.others(wanted)]

    def annotations(self) -> Mapping[str, Path]:
        """The layout's annotation files."""
        return self._files.annotation_files(self._annotations)

    def list_videos(self) -> list[SourceVideo]:
        """All videos named by the annotations, or else those on disk."""
        if self._files.list_videos is not None:
            return self._files.list_videos(self._videos.resolve())
        found, missing = self._find_videos()
        return [*found, *missing]

    def clips_at_most(self, recorded: Collection[str]) -> dict[str, int]:
        """Clips whose videos are all on disk."""
        clips, videos = self._files.clips(self._annotations, self._videos)
        there = {*recorded, *videos}
        return {table: sum(there.issuperset(needed) for needed in rows) for table, rows in clips.items()}

    def _find_videos(self) -> tuple[list[SourceVideo], list[SourceVideo]]:
        return self._files.find_videos(self._annotations, self._videos.resolve())
