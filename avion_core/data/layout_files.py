"""What reads a layout: makes its clip tables, checks and finds its official files on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from avion_core.data.annotation import Annotation
from avion_core.data.source_videos import SourceVideo, VideosOfClips
from avion_core.layouts import LAYOUTS
from avion_core.registry import load


@dataclass(frozen=True)
class OfficialFiles:
    """What is done with a folder that holds a layout's official files, before any video is read."""

    check: Callable[[Path, bool], None]
    """Raise SourceError unless the annotations can be read; the flag allows missing metadata."""
    annotation_files: Callable[[Path], Sequence[str]]
    """Annotation files by their path in the folder."""
    find_videos: Callable[[Path], tuple[list[SourceVideo], list[SourceVideo]]]
    """Those that are there, and where the annotated ones would be that are not."""
    clips: Callable[[Path], tuple[VideosOfClips, list[str]]]
    """Videos of the clips of each table that is quickly counted, and names of the videos that are there."""
    list_videos: Callable[[Path], list[SourceVideo]] | None = None
    """Quickly, those that are there, where the annotations need not name all."""


@dataclass(frozen=True)
class LayoutReader:
    """The work behind a record of `avion_core.layouts`."""

    annotate: Callable[[Annotation], None]
    """Write the layout's tables."""
    official: OfficialFiles | None = None
    """Official files on disk; None where a source brings the layout alone."""


def layout_reader(layout: str) -> LayoutReader:
    """The reader of a layout. Raises ValueError for an unknown one."""
    found: LayoutReader = load(LAYOUTS[layout].reader)
    return found


def official_files(layout: str) -> OfficialFiles:
    """How official files of a layout are read. Raises ValueError for a layout that has none."""
    official = layout_reader(layout).official
    if official is None:
        raise ValueError(f"the layout '{layout}' has no official files")
    return official
