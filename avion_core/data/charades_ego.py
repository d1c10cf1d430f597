"""Charades-Ego: untrimmed first-person videos with the times of 157 kinds of action.

The owners' files: `Charades_v1_classes.txt` with lines `c000 Holding some clothes`;
`CharadesEgo_v1_train_only1st.csv` and `CharadesEgo_v1_test_only1st.csv`, of whose columns `id`, `actions`
(`c092 11.90 21.20;c147 0.00 12.60`) and `length` (seconds) are read; and the videos, `<id>.mp4` in
`CharadesEgo_v1_480` or in the folder itself.

A training clip is an action with the name of its class as text (EgoVLP). A test clip is a whole video with
all its classes. Names are read whole; LaViLa's reader cuts them at their first comma.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from avion_core.data.annotation import Annotation, human_clips, whole_videos
from avion_core.data.annotation_files import Row, ascii_number, numbered_lines, read_rows
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

CLASSES = "Charades_v1_classes.txt"
SPLITS = {"train": "CharadesEgo_v1_train_only1st.csv", "test": "CharadesEgo_v1_test_only1st.csv"}
FILES = (CLASSES, *SPLITS.values())
PLACES = ("CharadesEgo_v1_480/", "")
"""Folders in which the videos may be."""
WHAT = f"{CLASSES}, the two lists of first-person videos and the folder {PLACES[0]} of videos"


@dataclass(frozen=True)
class Action:
    """One action of a video."""

    label: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Video:
    """One line of a list."""

    video_id: str
    length_s: float
    actions: tuple[Action, ...]


def read_classes(path: Path) -> list[str]:
    """Names of the classes in order of their numbers, c000 first. Raises SourceError naming the bad line."""
    names: list[str] = []
    for number, line in numbered_lines(path):
        code, _, name = line.partition(" ")
        if code != f"c{len(names):03}" or not plain(name):
            raise SourceError(
                f"{path}: line {number}: '{line}' is not 'c{len(names):03} name of the class'; restore the "
                "owner's file"
            )
        names.append(plain(name))
    return names


def read_list(path: Path, *, classes: int) -> list[Video]:
    """Videos of a list. Raises SourceError naming the line and column of an error."""
    return [_video(row, classes) for row in read_rows(path, columns=("id", "actions", "length"))]


def _video(row: Row, classes: int) -> Video:
    if not row.values["id"]:
        raise row.error("id", "it is empty; restore the owner's file")
    try:
        length_s = ascii_number(row.values["length"])
    except ValueError:
        length_s = math.nan
    if not 0 < length_s < math.inf:
        raise row.error("length", f"'{row.values['length']}' is not a number of seconds above 0")
    listed = filter(None, map(str.strip, row.values["actions"].split(";")))
    return Video(row.values["id"], length_s, tuple(_action(row, text, classes) for text in listed))


def _action(row: Row, text: str, classes: int) -> Action:
    match = re.fullmatch(r"c([0-9]{3}) +([0-9.]+) +([0-9.]+)", text)
    try:
        if match is None:
            raise ValueError
        label, start_s, end_s = int(match[1]), float(match[2]), float(match[3])
    except ValueError:
        raise row.error("actions", f"'{text}' is not a class and two times, c092 11.90 21.20") from None
    if label >= classes:
        raise row.error("actions", f"the class of '{text}' is not among the {classes} of {CLASSES}")
    return Action(label, start_s, end_s)


def _read_lists(folder: Path) -> dict[str, list[Video]]:
    classes = len(read_classes(folder / CLASSES))
    return {split: read_list(folder / name, classes=classes) for split, name in SPLITS.items()}


def check(folder: Path) -> None:
    """Raise SourceError unless `folder` has the layout's annotation files and they can be read."""
    require_files(folder, FILES, what=WHAT)
    lists = _read_lists(folder)
    for split, videos in lists.items():
        if not any(video.actions for video in videos):
            raise SourceError(f"{folder / SPLITS[split]}: it lists no action; restore the owner's file")
    refuse_repeated(
        (video.video_id, f"{folder / SPLITS[split]}: video {number}")
        for split, videos in lists.items()
        for number, video in enumerate(videos, start=1)
    )


def find_videos(folder: Path, videos: Path) -> tuple[list[SourceVideo], list[SourceVideo]]:
    """Listed videos found on disk, and expected paths of missing ones."""
    listed = itertools.chain(*_read_lists(folder).values())
    return find_listed(
        videos, {video.video_id: [f"{place}{video.video_id}.mp4" for place in PLACES] for video in listed}
    )


def clips(folder: Path, videos: Path) -> tuple[VideosOfClips, list[str]]:
    """The video of each clip, by table, and the videos on disk."""
    lists = _read_lists(folder)
    train = [(video.video_id,) for video in lists["train"] for _ in video.actions]
    test = [(video.video_id,) for video in lists["test"]]
    return {"train": train, "test": test}, [video.video_id for video in find_videos(folder, videos)[0]]


def annotate(annotation: Annotation) -> None:
    """Write the actions of training videos with the names of their classes, and whole test videos."""
    classes, lists = read_classes(annotation.raw_dir / CLASSES), _read_lists(annotation.raw_dir)
    rows = [(video.video_id, own, n) for video in lists["train"] for n, own in enumerate(video.actions)]
    columns = human_clips(
        annotation,
        "train",
        [video_id for video_id, *_ in rows],
        [own.start_s for _, own, _ in rows],
        [own.end_s for _, own, _ in rows],
        [classes[own.label] for _, own, _ in rows],
        [f"{video_id}_{n}" for video_id, _, n in rows],
    )
    columns["label"] = pa.array([own.label for _, own, _ in rows], pa.int32())
    annotation.write_clips("train", pa.table(columns))
    test = lists["test"]
    labels = [sorted({own.label for own in video.actions}) for video in test]
    names = [video.video_id for video in test]
    columns = whole_videos(names, [video.length_s for video in test], names)
    columns["labels"] = pa.array(labels, pa.list_(pa.int32()))
    annotation.write_clips("test", pa.table(columns))
    write_json(annotation.clips_dir / CLASSES_FILE, {"label": classes})


READER = LayoutReader(
    annotate=annotate,
    official=OfficialFiles(
        check=lambda folder, _: check(folder),
        annotation_files=lambda folder: in_folder(folder, FILES),
        find_videos=find_videos,
        clips=clips,
    ),
)
