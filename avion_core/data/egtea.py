"""EGTEA Gaze+: trimmed clips of 106 actions, in the first of its three splits, as LaViLa reads them.

The owners' files: `action_idx.txt` with a line `Some_action_name 12` for each action, `train_split1.txt` and
`test_split1.txt` with lines `clip_id action_number …`, the clips `cropped_clips/<session>/<clip_id>.mp4`,
where the session is the first three parts of the clip's name by `-`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from avion_core.data.annotation import Annotation
from avion_core.data.annotation_files import numbered_lines
from avion_core.data.layout_files import LayoutReader, OfficialFiles, in_folder
from avion_core.data.source_videos import (
    SourceError,
    SourceVideo,
    VideosOfClips,
    find_listed,
    refuse_repeated,
    require_files,
)
from avion_core.files import write_json
from avion_core.layouts import CLASSES as CLASSES_FILE
from avion_core.plain_text import plain

ACTIONS = "action_idx.txt"
SPLITS = {"train": "train_split1.txt", "test": "test_split1.txt"}
FILES = (ACTIONS, *SPLITS.values())
WHAT = "EGTEA's action_idx.txt, train_split1.txt, test_split1.txt and cropped_clips"


@dataclass(frozen=True)
class Listed:
    """One line of a split: a clip and its class, counted from 0."""

    clip_id: str
    label: int
    line: int

    @property
    def path(self) -> str:
        """Its file, relative to the data set's folder."""
        session = "-".join(self.clip_id.split("-")[:3])
        return f"cropped_clips/{session}/{self.clip_id}.mp4"


def read_actions(path: Path) -> dict[int, str]:
    """Names of the actions by their number, in order, written plainly: `Cut_tomato 3` is `cut tomato`.

    Raises SourceError for a line of another form, and unless the numbers are consecutive, from 0 or 1.
    """
    actions: dict[int, str] = {}
    for line, text in numbered_lines(path):
        name, _, number = text.rpartition(" ")
        name = plain(name.replace("_", " ").lower())
        if not name or not number.isdecimal() or int(number) in actions:
            raise SourceError(f"{path}: line {line}: '{text}' is not 'Action_name number', each number once")
        actions[int(number)] = name
    first = min(actions, default=1)
    if first not in (0, 1) or sorted(actions) != list(range(first, first + len(actions))):
        raise SourceError(f"{path}: the numbers of the {len(actions)} actions have gaps; restore the file")
    return dict(sorted(actions.items()))


def read_split(path: Path, actions: dict[int, str]) -> list[Listed]:
    """Lines of a split. Raises SourceError naming the bad line."""
    places = {number: place for place, number in enumerate(actions)}
    listed = []
    for line, text in numbered_lines(path):
        clip_id, number, *_ = [*text.split(), "", ""]
        if clip_id.count("-") < 2 or not number.isdecimal():
            raise SourceError(f"{path}: line {line}: '{text}' is not 'clip_id action_number …'; correct it")
        if int(number) not in places:
            raise SourceError(f"{path}: line {line}: action {number} is not in {ACTIONS}")
        listed.append(Listed(clip_id, places[int(number)], line))
    return listed


def _read_splits(folder: Path) -> dict[str, list[Listed]]:
    actions = read_actions(folder / ACTIONS)
    return {split: read_split(folder / name, actions) for split, name in SPLITS.items()}


def check(folder: Path) -> None:
    """Raise SourceError unless `folder` has the layout's annotation files and they can be read."""
    require_files(folder, FILES, what=WHAT)
    splits = _read_splits(folder)
    if not splits["train"]:
        raise SourceError(f"{folder / SPLITS['train']}: it lists no clip; restore the owner's file")
    refuse_repeated(
        (one.clip_id, f"{folder / SPLITS[split]}: line {one.line}")
        for split, listed in splits.items()
        for one in listed
    )


def find_videos(folder: Path, videos: Path) -> tuple[list[SourceVideo], list[SourceVideo]]:
    """Listed clips found on disk, and expected paths of missing ones."""
    listed = itertools.chain(*_read_splits(folder).values())
    return find_listed(videos, {one.clip_id: [one.path] for one in listed})


def clips(folder: Path, videos: Path) -> tuple[VideosOfClips, list[str]]:
    """The video of each clip, by split, and the videos on disk."""
    rows = {split: [(one.clip_id,) for one in listed] for split, listed in _read_splits(folder).items()}
    return rows, [video.video_id for video in find_videos(folder, videos)[0]]


def annotate(annotation: Annotation) -> None:
    """Write whole trimmed clips with their class."""
    actions = read_actions(annotation.raw_dir / ACTIONS)
    for split, listed in _read_splits(annotation.raw_dir).items():
        annotation.write_trimmed_clips(
            split,
            [one.clip_id for one in listed],
            [one.label for one in listed],
            [one.line for one in listed],
        )
    write_json(annotation.clips_dir / CLASSES_FILE, {"label": list(actions.values())})


READER = LayoutReader(
    annotate=annotate,
    official=OfficialFiles(
        check=lambda folder, _: check(folder),
        annotation_files=lambda folder: in_folder(folder, FILES),
        find_videos=find_videos,
        clips=clips,
    ),
)
