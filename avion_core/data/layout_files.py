"""Official files on disk, by layout: how they are checked, found and counted, before any video is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from avion_core.data import ego4d, ek100, kinetics
from avion_core.data.source_videos import SourceVideo, VideosOfClips
from avion_core.registry import Registry


@dataclass(frozen=True)
class LayoutFiles:
    """What is done with a folder that holds a layout's official files."""

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


LAYOUT_FILES: Registry[LayoutFiles] = Registry("layout of official files")
LAYOUT_FILES.register(
    "ego4d",
    LayoutFiles(
        lambda folder, allow_missing: ego4d.check(folder, allow_missing_metadata=allow_missing),
        ego4d.annotation_files,
        ego4d.find_videos,
        ego4d.clips_of_questions,
        ego4d.list_videos,
    ),
)
LAYOUT_FILES.register(
    "ek100",
    LayoutFiles(
        lambda folder, _: ek100.check(folder), lambda _: ek100.ANNOTATIONS, ek100.find_videos, ek100.clips
    ),
)
LAYOUT_FILES.register(
    "kinetics",
    LayoutFiles(
        lambda folder, _: kinetics.check(folder),
        kinetics.annotation_files,
        kinetics.find_videos,
        kinetics.clips,
    ),
)
