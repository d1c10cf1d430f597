"""What a source does: cheap checks before any work, the work, and what it consists of now."""

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
    """What a source brings a data set's files for."""

    layout: str
    """Layout of the files."""
    raw_dir: Path
    """Folder that gets them."""
    recipe: str
    """Fingerprint of the settings that decide them."""
    allow_missing_metadata: bool = False
    """Go on without files that the annotations can be read without."""


class Source(Generic[Own]):
    """The source of one data set. The class is in `SOURCES` under the name that the configuration gives."""

    external: ClassVar[bool] = False
    """Somebody else keeps the videos, and may change them; else the pipeline makes them in the raw folder."""

    def __init__(self, own: Own, target: Target) -> None:
        self.own = own
        self.target = target

    def checks(self, record: SourceRecord) -> Sequence[Callable[[], object]]:
        """Each looks at one thing of the user's, in seconds, and raises SourceError.

        Videos of the record, that of the last fetch, may be away.
        """
        return []

    def fetch(self, record: SourceRecord) -> list[SourceVideo]:
        """Bring the annotation files to the raw folder. Returns all videos, there or not."""
        raise NotImplementedError

    def annotations(self) -> Mapping[str, Path]:
        """The annotation files by their name in the raw folder; those that are away may be missing."""
        raise NotImplementedError

    def list_videos(self) -> list[SourceVideo]:
        """All videos of an external source, there or not."""
        raise NotImplementedError

    @property
    def named(self) -> bool:
        """The annotations name all videos of an external source."""
        return True

    @property
    def where(self) -> list[str]:
        """Folders of an external source, as the settings name them."""
        return []

    def clips_at_most(self, recorded: Collection[str]) -> dict[str, int]:
        """Clips of each table whose videos are on disk or `recorded` (by name), before any video is read.

        Annotation may leave out more. Only tables that are quickly counted. Raises SourceError for
        annotations that cannot be read.
        """
        return {}
