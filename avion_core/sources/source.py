"""Interface of a source: cheap checks, fetching, and the present files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from avion_core.config import SourceSettings
from avion_core.data.source_videos import SourceVideo
from avion_core.sources.state import SourceRecord

Own = TypeVar("Own", bound=SourceSettings)


@dataclass(frozen=True)
class Target:
    """The data set for which a source fetches files."""

    layout: str
    """Layout of the files."""
    raw_dir: Path
    """Folder to fetch them into."""
    recipe: str
    """Fingerprint of the settings that affect them."""
    allow_missing_metadata: bool = False
    """Whether optional metadata files may be missing."""


class Source(Generic[Own]):
    """The source of one data set. Its settings name the class (`SourceSettings.source`)."""

    external: ClassVar[bool] = False
    """Whether others keep the videos and may change them; else the pipeline makes them in the raw folder."""

    def __init__(self, own: Own, target: Target) -> None:
        self.own = own
        self.target = target

    def checks(self, record: SourceRecord) -> Sequence[Callable[[], object]]:
        """Functions that each check one requirement in seconds and raise SourceError.

        Videos recorded at the last fetch may be away.
        """
        return []

    def fetch(self, record: SourceRecord) -> list[SourceVideo]:
        """Bring the annotation files into the raw folder. Returns all videos, present or not."""
        raise NotImplementedError

    def annotations(self) -> Mapping[str, Path]:
        """The annotation files by their name in the raw folder; files that are away may be missing."""
        raise NotImplementedError

    def list_videos(self) -> list[SourceVideo]:
        """All videos of an external source, present or not."""
        raise NotImplementedError

    @property
    def named(self) -> bool:
        """Whether the annotations name all videos of an external source."""
        return True

    @property
    def where(self) -> list[str]:
        """Folders of an external source, as the settings name them."""
        return []

    def clips_at_most(self, recorded: Collection[str]) -> dict[str, int]:
        """Clips of each table whose videos are on disk or `recorded` (by name), without reading videos.

        Annotation may leave out more. Only tables that can be counted quickly. Raises SourceError for
        unreadable annotations.
        """
        return {}
