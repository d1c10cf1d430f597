"""Kinetics: trimmed clips in lists, and the class names.

Lists have three forms: `path num_frames label` per line, VideoMAE's `path label`, and the owners' and CVDF's
CSV `label,youtube_id,time_start,time_end,split`, with clips in
`<split>/<label>/<youtube_id>_<start>_<end>.mp4`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from avion_core.data.annotation import Annotation
from avion_core.data.annotation_files import numbered_lines, read_rows, read_text
from avion_core.data.layout_files import LayoutReader, OfficialFiles, in_folder
from avion_core.data.source_videos import (
    SourceError,
    SourceVideo,
    VideosOfClips,
    canonical_name,
    find_listed,
    refuse_namesakes,
    require_files,
    video_id_of,
)
from avion_core.files import write_json
from avion_core.layouts import CLASSES as CLASSES_FILE
from avion_core.plain_text import plain

LISTS = {"train": ("train.txt", "train.csv"), "val": ("val.txt", "val.csv", "validate.csv")}
"""Possible names of a split's list."""
CLASSES = "classes.txt"
OWNERS_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
FORMS = {
    "path num_frames label": re.compile(r"(?P<path>.+?)[\s,;]+[0-9]+[\s,;]+(?P<label>-?[0-9]{1,9})"),
    "path label": re.compile(r"(?P<path>.+?)[\s,;]+(?P<label>-?[0-9]{1,9})"),
}
"""Forms of a line in a plain list. All lines of a list have the form of the first."""
NUMBERED = (
    re.compile(r'(?P<id>[0-9]{1,9})[\s,;]+"?(?P<name>.*?)"?'),
    re.compile(r'"?(?P<name>.*?)"?[\s,;]+(?P<id>[0-9]{1,9})'),
)
"""A class name with its label, as in the owners' table `id,name`, or the other way round."""
HEADING = re.compile(r"(?i)\W*((class_?)?id\W+.*name|.*name\W+(class_?)?id)\W*")


@dataclass(frozen=True)
class Listed:
    """One line of a list."""

    paths: tuple[str, ...]
    """Possible paths of the clip; the first one names it."""
    label: int
    line: int

    @property
    def video_id(self) -> str:
        """Name of the video in all tables."""
        return video_id_of(self.paths[0])


def list_path(folder: Path, split: str) -> Path:
    """A split's list, under any of its possible names."""
    files = [folder / name for name in LISTS[split]]
    return next((file for file in files if file.is_file()), files[0])


def annotation_files(folder: Path) -> list[str]:
    """Annotation files by their path in `folder`."""
    return [*(list_path(folder, split).name for split in LISTS), CLASSES]


def read_classes(raw_dir: Path) -> list[str]:
    """Class names in order of their labels: one per line, or `id,name` as in the owners' table.

    Raises SourceError for an empty or repeated name, and for numbers other than 0, 1, … in order.
    """
    path = raw_dir / CLASSES
    names = [line.strip() for line in read_text(path).rstrip().splitlines()]
    names = _without_ids(path, names)
    for number, name in enumerate(names, start=1):
        if not name or name in names[: number - 1]:
            problem = f"'{name}' is there already" if name else "no class name"
            raise SourceError(
                f"{path}: line {number}: {problem}; write one class a line, in order of its label"
            )
    return names


def _without_ids(path: Path, lines: list[str]) -> list[str]:
    """The names if every line also has its label, below a heading or not; else the lines unchanged."""
    first = 1 if lines and HEADING.fullmatch(lines[0]) else 0
    for form in NUMBERED:
        found = [match for line in lines[first:] if (match := form.fullmatch(line))]
        if len(found) < len(lines) - first or not found:
            continue
        for place, match in enumerate(found):
            if int(match["id"]) != place:
                raise SourceError(
                    f"{path}: line {place + first + 1}: class {match['id']} where {place} is expected; "
                    "labels count from 0, and the lines are in their order"
                )
        return [match["name"] for match in found]
    return lines


def read_list(path: Path, *, classes: list[str]) -> list[Listed]:
    """Lines of a list. Raises SourceError naming the bad line."""
    lines = numbered_lines(path)
    first = lines[0][1] if lines else ""
    if "youtube_id" in first:
        listed = _read_owners_list(path, classes)
    else:
        form = next((form for form, pattern in FORMS.items() if pattern.fullmatch(first)), None)
        listed = [_plain_line(path, number, line, form) for number, line in lines]
    for entry in listed:
        if not 0 <= entry.label < len(classes):
            raise SourceError(
                f"{path}: line {entry.line}: label {entry.label} has no name; "
                f"{CLASSES} has {len(classes)} lines, for the labels from 0"
            )
    return listed


def _plain_line(path: Path, number: int, line: str, form: str | None) -> Listed:
    for name, pattern in FORMS.items():
        match = pattern.fullmatch(line)
        if match and name == form:
            return Listed((canonical_name(match["path"]),), int(match["label"]), number)
        if match:
            break
    forms = f"'{form}' like the first line" if form else " or ".join(f"'{name}'" for name in FORMS)
    raise SourceError(f"{path}: line {number}: '{line}' is not {forms}; correct it")


def _read_owners_list(path: Path, classes: list[str]) -> list[Listed]:
    label = {name: number for number, name in enumerate(classes)}
    listed = []
    for row in read_rows(path, columns=OWNERS_COLUMNS):
        name = row.values["label"]
        if name not in label:
            raise row.error("label", f"class '{name}' is not in {CLASSES}; add it there, in its place")
        try:
            start_s, end_s = (int(row.values[column]) for column in ("time_start", "time_end"))
        except ValueError:
            raise row.error("time_start", "it and time_end must be whole seconds; correct the line") from None
        if not row.values["youtube_id"]:
            raise row.error("youtube_id", "it is empty; restore the owner's file")
        file = f"{row.values['youtube_id']}_{start_s:06d}_{end_s:06d}.mp4"
        split = row.values.get("split") or path.stem
        folders = (f"{split}/{name}", f"{split}/{name.replace(' ', '_')}", split)
        paths = tuple(canonical_name(f"{folder}/{file}") for folder in folders)
        listed.append(Listed(paths, label[name], row.line))
    return listed


def _read_lists(folder: Path) -> list[Listed]:
    classes = read_classes(folder)
    train, val = (read_list(list_path(folder, split), classes=classes) for split in LISTS)
    if not train:
        raise SourceError(
            f"{list_path(folder, 'train')}: it lists nothing; write 'path num_frames label' a line"
        )
    return [*train, *val]


def check(folder: Path) -> None:
    """Raise SourceError unless `folder` has the layout's annotation files and they can be read."""
    names = annotation_files(folder)
    require_files(folder, names, what="a Kinetics layout (train.txt, val.txt, classes.txt and the clips)")
    refuse_namesakes((entry.video_id, entry.paths[0]) for entry in _read_lists(folder))


def find_videos(folder: Path, videos: Path) -> tuple[list[SourceVideo], list[SourceVideo]]:
    """Listed videos found on disk, and expected paths of missing ones."""
    return find_listed(videos, {entry.video_id: entry.paths for entry in _read_lists(folder)})


def clips(folder: Path, videos: Path) -> tuple[VideosOfClips, list[str]]:
    """The video of each clip, by list, and the videos on disk."""
    classes = read_classes(folder)
    lists = {split: read_list(list_path(folder, split), classes=classes) for split in LISTS}
    rows = {split: [(entry.video_id,) for entry in entries] for split, entries in lists.items()}
    return rows, [video.video_id for video in find_videos(folder, videos)[0]]


def annotate(annotation: Annotation) -> None:
    """Write whole trimmed clips with their class."""
    classes = read_classes(annotation.raw_dir)
    for split in LISTS:
        entries = read_list(list_path(annotation.raw_dir, split), classes=classes)
        annotation.write_trimmed_clips(
            split,
            [entry.video_id for entry in entries],
            [entry.label for entry in entries],
            [entry.line for entry in entries],
        )
    write_json(annotation.clips_dir / CLASSES_FILE, {"label": list(map(plain, classes))})


READER = LayoutReader(
    annotate=annotate,
    official=OfficialFiles(
        check=lambda folder, _: check(folder),
        annotation_files=lambda folder: in_folder(folder, annotation_files(folder)),
        find_videos=find_videos,
        clips=clips,
    ),
)
