"""Kinetics: trimmed clips in lists of `path num_frames label` a line, and the class names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avion_core.data.sources import SourceError, SourceVideo, names_of, require_files, video_id_of

LISTS = {"train": "train.txt", "val": "val.txt"}
CLASSES = "classes.txt"
ANNOTATIONS = (*LISTS.values(), CLASSES)
"""Files that the layout needs beside the videos."""


@dataclass(frozen=True)
class Listed:
    """One line of a list."""

    path: str
    frames: int
    label: int

    @property
    def video_id(self) -> str:
        """Name of the video in every table."""
        return video_id_of(self.path)


def read_classes(raw_dir: Path) -> list[str]:
    """Class names; the line number, from 0, is the label."""
    return (raw_dir / CLASSES).read_text(encoding="utf-8").splitlines()


def read_list(path: Path, *, classes: int) -> list[Listed]:
    """Lines of a list. Raises SourceError naming the line that is not `path num_frames label`."""
    listed = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        parts = line.rsplit(maxsplit=2)
        try:
            entry = Listed(parts[0], int(parts[1]), int(parts[2]))
        except (IndexError, ValueError):
            raise SourceError(f"{path}: line {number}: '{line}' is not 'path num_frames label'") from None
        if not 0 <= entry.label < classes:
            raise SourceError(
                f"{path}: line {number}: label {entry.label} has no name; {CLASSES} has {classes} lines"
            )
        listed.append(entry)
    return listed


def check(folder: Path) -> None:
    """Raise SourceError unless the layout's annotation files are in `folder` and readable."""
    require_files(
        folder, ANNOTATIONS, what="a Kinetics layout (train.txt, val.txt, classes.txt and the clips)"
    )
    for name in LISTS.values():
        read_list(folder / name, classes=len(read_classes(folder)))


def find_videos(folder: Path) -> tuple[list[SourceVideo], str]:
    """The listed videos that are there, and the names of those that are not."""
    classes = len(read_classes(folder))
    entries = [entry for name in LISTS.values() for entry in read_list(folder / name, classes=classes)]
    there = [entry for entry in entries if (folder / entry.path).is_file()]
    gone = [entry.path for entry in entries if not (folder / entry.path).is_file()]
    return [SourceVideo(entry.video_id, folder / entry.path) for entry in there], names_of(gone)
