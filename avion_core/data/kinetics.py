"""Kinetics-400, -600 and -700: trimmed clips in lists, and the class names.

Lists have three forms: `path num_frames label` per line, VideoMAE's `path label`, and the owners' and CVDF's
CSV `label,youtube_id,time_start,time_end,split`, with clips in
`<split>/<label>/<youtube_id>_<start>_<end>.mp4`. Class names may be missing.
"""

from __future__ import annotations

import itertools
import posixpath
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from avion_core.data.annotation import Annotation
from avion_core.data.annotation_files import numbered_lines, read_rows, read_text
from avion_core.data.layout_files import LayoutReader, OfficialFiles
from avion_core.data.source_videos import (
    SourceError,
    SourceVideo,
    VideosOfClips,
    canonical_name,
    find_listed,
    names_of,
    refuse_namesakes,
    require_files,
    video_id_of,
)
from avion_core.files import write_json
from avion_core.layouts import CLASSES as CLASSES_FILE
from avion_core.plain_text import plain

LISTS = {"train": ("train.txt", "train.csv"), "val": ("val.txt", "val.csv", "validate.csv", "validate.txt")}
"""Possible names of a split's list."""
LONG_NAME = re.compile(
    r"(?i)(kinetics|k)[-_]?([467]00)?([-_]2020)?[-_](?P<name>(?P<split>train|val)(idate)?)(_list(_videos)?)?"
    r"(?P<suffix>\.txt|\.csv)"
)
"""A list's name with that of the data set, such as `kinetics_700_train.csv`."""
VALIDATION = {"val": "validate", "validate": "val"}
"""The two names of the validation split in the owners' lists and folders."""
PROBED = 1000
"""Clips looked for before all are."""
MOST_CLASSES = 10_000
"""A label above it is taken for another number if there are no class names."""
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
    """A split's list, under any of its possible names.

    Raises SourceError if several have the name of a data set.
    """
    files = [folder / name for name in LISTS[split]]
    short = next((file for file in files if file.is_file()), None)
    if short is not None or not folder.is_dir():
        return short or files[0]
    long = sorted(
        file
        for file in folder.iterdir()
        if (match := LONG_NAME.fullmatch(file.name)) and match["split"].lower() == split
    )
    if len(long) > 1:
        names = ", ".join(file.name for file in long)
        raise SourceError(f"{folder}: several lists for '{split}': {names}; rename one to {LISTS[split][0]}")
    return long[0] if long else files[0]


def annotation_files(folder: Path) -> dict[str, Path]:
    """Annotation files by their name in the raw folder."""
    lists = [list_path(folder, split) for split in LISTS]
    files = {_short_name(path): path for path in lists}
    return files | ({CLASSES: folder / CLASSES} if (folder / CLASSES).is_file() else {})


def _short_name(path: Path) -> str:
    """Name of a list without that of the data set."""
    match = LONG_NAME.fullmatch(path.name)
    return f"{match['name']}{match['suffix']}".lower() if match else path.name


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


def read_list(path: Path, *, classes: list[str] | None) -> list[Listed]:
    """Lines of a list; without `classes`, a label only has to be a plausible number.

    Raises SourceError naming the bad line.
    """
    lines = numbered_lines(path)
    first = lines[0][1] if lines else ""
    if _is_owners(first):
        listed = _read_owners_list(path, classes or [])
    else:
        form = next((form for form, pattern in FORMS.items() if pattern.fullmatch(first)), None)
        listed = [_plain_line(path, number, line, form) for number, line in lines]
    for entry in listed:
        if not 0 <= entry.label < (MOST_CLASSES if classes is None else len(classes)):
            names = f"{CLASSES} is missing" if classes is None else f"{CLASSES} has {len(classes)} lines"
            raise SourceError(
                f"{path}: line {entry.line}: label {entry.label} has no name; {names}, for the labels from 0"
            )
    return listed


def _is_owners(first_line: str) -> bool:
    """Whether a list is the owners' or CVDF's CSV."""
    return "youtube_id" in first_line


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
        file = canonical_name(f"{row.values['youtube_id']}_{start_s:06d}_{end_s:06d}.mp4")
        split = row.values.get("split") or Path(_short_name(path)).stem
        paths = tuple(f"{folder}/{file}" for folder in _owners_folders(split, name))
        listed.append(Listed(paths, label[name], row.line))
    return listed


@cache
def _owners_folders(split: str, name: str) -> list[str]:
    """Possible folders of a class's clips."""
    folders = [
        folder
        for one in dict.fromkeys((split, VALIDATION.get(split, split)))
        for folder in (f"{one}/{name}", f"{one}/{name.replace(' ', '_')}", one)
    ]
    return [canonical_name(folder) for folder in folders]


def read_all(folder: Path) -> tuple[list[str], dict[str, list[Listed]]]:
    """Class names in order of their labels, and the lines of each list.

    Without `classes.txt` the owners' lists have the names, in alphabetical order; in other lists they are the
    clips' folders if each class has its own, else `class 0`, `class 1` … Raises SourceError.
    """
    files = {split: list_path(folder, split) for split in LISTS}
    has_names = (folder / CLASSES).is_file()
    classes = read_classes(folder) if has_names else _names_of_owners(files.values())
    lists = {split: read_list(path, classes=classes) for split, path in files.items()}
    if not lists["train"]:
        raise SourceError(f"{files['train']}: it lists nothing; write 'path num_frames label' a line")
    return classes or _names_of_folders([*lists["train"], *lists["val"]]), lists


def _names_of_owners(files: Iterable[Path]) -> list[str] | None:
    """Names in the owners' lists, in alphabetical order; None if no list is theirs."""
    owners = [path for path in files if _is_owners(next((line for _, line in numbered_lines(path)), ""))]
    rows = (row for path in owners for row in read_rows(path, columns=OWNERS_COLUMNS))
    return sorted({row.values["label"] for row in rows}) if owners else None


def _names_of_folders(listed: Iterable[Listed]) -> list[str]:
    """The folders' names if each class has its own, else numbers."""
    folders: dict[int, set[str]] = {}
    for entry in listed:
        name = posixpath.basename(posixpath.dirname(entry.paths[0])).replace("_", " ")
        folders.setdefault(entry.label, set()).add(name)
    numbers = [f"class {label}" for label in range(max(folders) + 1)]
    names = {label: min(own) for label, own in folders.items() if len(own) == 1}
    if len(folders) > 1 and len(set(names.values()) - {""}) == len(folders):
        return [names.get(label, number) for label, number in enumerate(numbers)]
    return numbers


def _places(listed: Sequence[Listed]) -> dict[str, Sequence[str]]:
    """Possible paths of each clip.

    Absolute paths of another machine are looked for without their first folders, as far as all share them.
    """
    absolute = [posixpath.dirname(entry.paths[0]) for entry in listed if entry.paths[0].startswith("/")]
    shared = [part for part in posixpath.commonpath(absolute).split("/") if part] if absolute else []

    def places(entry: Listed) -> Sequence[str]:
        if not entry.paths[0].startswith("/"):
            return entry.paths
        parts = entry.paths[0].split("/")[1:]
        return (entry.paths[0], *("/".join(parts[first:]) for first in range(1, len(shared) + 1)))

    return {entry.video_id: places(entry) for entry in listed}


def check(folder: Path) -> None:
    """Raise SourceError unless `folder` has the layout's annotation files and they can be read."""
    what = f"a Kinetics layout (train.txt, val.txt, the clips, and {CLASSES} or not)"
    require_files(folder, [path.name for path in annotation_files(folder).values()], what=what)
    _, lists = read_all(folder)
    refuse_namesakes((one.video_id, one.paths[0]) for entries in lists.values() for one in entries)


def check_videos(folder: Path, videos: Path) -> None:
    """Raise SourceError, naming what was looked for and where, unless a listed clip is found."""
    _, lists = read_all(folder)
    places = _places([*lists["train"], *lists["val"]])
    for some in (dict(itertools.islice(places.items(), PROBED)), places):
        if find_listed(videos, some)[0]:
            return
    first = ", ".join(str(videos / path) for path in next(iter(places.values())))
    raise SourceError(
        f"{videos}: none of the listed clips is there; missing: {names_of(list(places))}; looked for {first} "
        "and the like; set `local.path` to the folder that the lists' paths begin in"
    )


def find_videos(folder: Path, videos: Path) -> tuple[list[SourceVideo], list[SourceVideo]]:
    """Listed videos found on disk, and expected paths of missing ones."""
    _, lists = read_all(folder)
    return find_listed(videos, _places([*lists["train"], *lists["val"]]))


def clips(folder: Path, videos: Path) -> tuple[VideosOfClips, list[str]]:
    """The video of each clip, by list, and the videos on disk."""
    _, lists = read_all(folder)
    found, _ = find_listed(videos, _places([*lists["train"], *lists["val"]]))
    rows = {split: [(entry.video_id,) for entry in entries] for split, entries in lists.items()}
    return rows, [video.video_id for video in found]


def annotate(annotation: Annotation) -> None:
    """Write whole trimmed clips with their class."""
    classes, lists = read_all(annotation.raw_dir)
    if not (annotation.raw_dir / CLASSES).is_file():
        names = names_of(classes, limit=3)
        print(f"{CLASSES} is missing; {len(classes)} classes by the lists: {names}", file=sys.stderr)
    for split, entries in lists.items():
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
        annotation_files=annotation_files,
        find_videos=find_videos,
        check_videos=check_videos,
        clips=clips,
    ),
)
