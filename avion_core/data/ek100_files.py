"""EPIC-KITCHENS-100 on disk: finds annotation files and videos in the forms in which people keep them.

Annotations are a clone of the owners' repository or CSV files anywhere below a folder. Videos are as the
owners' downloaders leave them, EPIC-KITCHENS-55 and the extension included, or copies in any folder below.
"""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from avion_core.data.source_videos import SourceError, SourceVideo, find_listed, names_of
from avion_core.layouts import LAYOUTS

SPLITS = {"train": "EPIC_100_train.csv", "validation": "EPIC_100_validation.csv"}
SENTENCES = {
    "train": "retrieval_annotations/EPIC_100_retrieval_train_sentence.csv",
    "test": "retrieval_annotations/EPIC_100_retrieval_test_sentence.csv",
}
CLASSES = LAYOUTS["ek100"].class_lists
ANNOTATIONS = (*SPLITS.values(), *SENTENCES.values(), *CLASSES.values())
"""Files that the layout needs in addition to the videos."""

PLACES = (
    "{participant}/videos/{video}",
    "{participant}/{video}",
    "{video}",
    "videos/train/{participant}/{video}",
    "videos/test/{participant}/{video}",
)
"""Usual places of a video, the first one the owners'; the last two are those of EPIC-KITCHENS-55."""
SUFFIXES = (".MP4", ".mp4")
DEEPEST = 5
"""Folders are searched down to this many levels below."""
PARTICIPANT = re.compile(r"P\d\d")
OF_ONE_VIDEO = re.compile(r"P\d\d_\d+(\..*)?")
"""Name of a file or folder of one video. Such folders may hold a million frames and are not listed."""


@dataclass
class Found:
    """Files found below a folder."""

    videos: dict[str, list[Path]] = field(default_factory=dict)
    """Video files by video, nearest first."""
    frames: dict[str, Path] = field(default_factory=dict)
    """An archive or folder of frames by video."""


def annotation_files(folder: Path) -> dict[str, Path]:
    """The annotation files by name: in the owners' places, or else anywhere below `folder`.

    Raises SourceError if different files below have the same name.
    """
    files = {name: folder / name for name in ANNOTATIONS}
    lacking = {Path(name).name: name for name, file in files.items() if not file.is_file()}
    below: dict[str, Path] = {}
    for entry in _below(folder, skip=PARTICIPANT) if lacking else ():
        if (name := lacking.get(entry.name)) is None or not entry.is_file():
            continue
        path = Path(entry.path)
        first = below.setdefault(name, path)
        if not filecmp.cmp(first, path, shallow=False):
            raise SourceError(
                f"{first} and {path} differ; set `local.annotations` to the folder of one of them"
            )
    return files | below


def require_annotations(folder: Path) -> None:
    """Raise SourceError that lists the annotation files missing from `folder`."""
    if not folder.is_dir():
        raise SourceError(
            f"{folder}: no such folder; set `local.path` or `local.annotations` to one that holds the "
            "EPIC-KITCHENS-100 annotations"
        )
    missing = [name for name, file in annotation_files(folder).items() if not file.is_file()]
    if missing:
        raise SourceError(
            f"{folder}: missing {', '.join(missing)}; set `local.path` or `local.annotations` to a folder "
            f"that holds the EPIC-KITCHENS-100 annotations, at most {DEEPEST} folders down"
        )


def find_videos(videos: Path, wanted: Collection[str]) -> tuple[list[SourceVideo], list[SourceVideo]]:
    """The `wanted` videos found, and expected paths of missing ones.

    Raises SourceError if a video is not in the owners' place and elsewhere there are different files of it.
    """
    names = sorted(wanted)
    found, missing = find_listed(videos, {video: _paths(PLACES[:1], video) for video in names})
    if not missing:
        return found, []
    below = search(videos, {video.video_id for video in missing}).videos
    found += [SourceVideo(video, _only(video, paths)) for video, paths in below.items()]
    there = {video.video_id for video in found}
    used = {_form(video, paths[0].relative_to(videos)): None for video, paths in below.items()}
    forms = list(dict.fromkeys([*PLACES, *used]))
    gone = [video for video in names if video not in there]
    return (
        sorted(found, key=lambda video: video.video_id),
        [SourceVideo(video, videos / path) for video in gone for path in _paths(forms, video)],
    )


def require_videos(videos: Path, wanted: Collection[str]) -> None:
    """Raise SourceError, naming what was looked for and where, unless a wanted video is found."""
    if not videos.is_dir():
        raise SourceError(f"{videos}: no such folder; set `local.path` to the one of the videos")
    if find_videos(videos, wanted)[0]:
        return
    frames = search(videos, wanted).frames
    if frames:
        raise SourceError(
            f"{videos}: there are frames of {len(frames)} annotated videos, such as "
            f"{next(iter(frames.values())).relative_to(videos)}, but no video; frames cannot be "
            "read: fetch the videos (`epic_downloader.py --videos` of the owners' "
            "epic-kitchens-download-scripts), and set `local.path` to their folder"
        )
    first = min(wanted)
    places = ", ".join(_paths(PLACES, first)[:: len(SUFFIXES)])
    raise SourceError(
        f"{videos}: none of the annotated videos is there; missing: {names_of(sorted(wanted))}; looked for "
        f"{places}, also with {SUFFIXES[1]}, and for these names in all folders at most {DEEPEST} down; set "
        "`local.path` to the folder of the videos"
    )


def search(folder: Path, wanted: Collection[str]) -> Found:
    """Videos and frames of the `wanted` videos below `folder`."""
    found = Found()
    for entry in _below(folder, skip=OF_ONE_VIDEO):
        path = Path(entry.path)
        video, suffix = path.stem, path.suffix
        if video not in wanted:
            continue
        if suffix in SUFFIXES and entry.is_file():
            found.videos.setdefault(video, []).append(path)
        elif not suffix and entry.is_dir():
            inside = [file for end in SUFFIXES if (file := path / f"{video}{end}").is_file()]
            if inside:
                found.videos.setdefault(video, []).extend(inside)
            else:
                found.frames.setdefault(video, path)
        elif suffix == ".tar":
            found.frames.setdefault(video, path)
    return found


def _below(folder: Path, *, skip: re.Pattern[str]) -> Iterator[os.DirEntry[str]]:
    """Files and folders below `folder`, nearest first.

    Hidden folders and those whose name matches `skip` are not entered, linked ones only once.
    """
    level, seen = [str(folder)], set()
    for _ in range(DEEPEST + 1):
        below: list[str] = []
        for place in level:
            try:
                status = Path(place).stat()
                entries = sorted(os.scandir(place), key=lambda entry: entry.name)
            except OSError:  # not ours to read
                continue
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            yield from entries
            below += [
                entry.path
                for entry in entries
                if not entry.name.startswith(".") and not skip.fullmatch(entry.name) and entry.is_dir()
            ]
        level = below


def _paths(forms: Sequence[str], video: str) -> list[str]:
    """Possible paths of a video, by form and suffix."""
    stems = [form.replace("{participant}", video.split("_")[0]).replace("{video}", video) for form in forms]
    return [f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES]


def _form(video: str, path: Path) -> str:
    """The form of a video's path, without suffix."""
    names = {video.split("_")[0]: "{participant}", video: "{video}"}
    return "/".join(names.get(part, part) for part in path.with_suffix("").parts)


def _only(video: str, paths: Sequence[Path]) -> Path:
    """The nearest of a video's files. Raises SourceError if another one has other content, by its size."""
    for other in paths[1:]:
        if other.stat().st_size != paths[0].stat().st_size:
            raise SourceError(
                f"{paths[0]} and {other}: different files of video {video}; set `local.path` to a folder "
                "that holds only one of them"
            )
    return paths[0]
