"""Readers of layouts: make clip tables, check and find official files on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from avion_core.data.annotation import Annotation
from avion_core.data.source_videos import SourceVideo, VideosOfClips
from avion_core.layouts import LAYOUTS
from avion_core.registry import load


@dataclass(frozen=True)
class OfficialFiles:
    """Access to a layout's official files, without reading any video.

    The first folder is that of the annotations, the second that of the videos; they may be the same.
    """

    check: Callable[[Path, bool], None]
    """Raise SourceError unless the annotations can be read. The flag allows missing metadata."""
    annotation_files: Callable[[Path], Mapping[str, Path]]
    """Annotation files, by path in the raw folder."""
    find_videos: Callable[[Path, Path], tuple[list[SourceVideo], list[SourceVideo]]]
    """Videos on disk, and expected paths of missing annotated ones."""
    clips: Callable[[Path, Path], tuple[VideosOfClips, list[str]]]
    """Videos of the clips of each table that can be counted quickly, and names of the videos on disk."""
    list_videos: Callable[[Path], list[SourceVideo]] | None = None
    """Quick list of the videos on disk, for layouts whose annotations need not name all."""
    check_videos: Callable[[Path, Path], None] | None = None
    """Raise SourceError that says what was looked for, if no annotated video is found."""


def in_folder(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Annotation files that have the same path in `folder` and in the raw folder."""
    return {name: folder / name for name in names}


@dataclass(frozen=True)
class LayoutReader:
    """The work behind a record of `avion_core.layouts`."""

    annotate: Callable[[Annotation], None]
    """Write the layout's tables."""
    official: OfficialFiles | None = None
    """Official files on disk; None if only a source provides the layout."""


def layout_reader(layout: str) -> LayoutReader:
    """The reader of a layout. Raises ValueError for an unknown layout or a faulty reader."""
    found: LayoutReader = load(LAYOUTS[layout].reader, record=LayoutReader)
    return found


def official_files(layout: str) -> OfficialFiles:
    """Access to a layout's official files. Raises ValueError for a layout without any."""
    official = layout_reader(layout).official
    if official is None:
        raise ValueError(
            f"the layout '{layout}' has no official files (`official` of {LAYOUTS[layout].reader}); choose "
            "another source"
        )
    return official
