"""How many clips the tables of a data set can have, by its annotations and before any video is read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from avion_core.config import DatasetSettings
from avion_core.data import ego4d, ek100, folder, kinetics
from avion_core.data.source_videos import video_id_of

Clips = Mapping[str, Sequence[Collection[str]]]
"""By table, the videos that each clip (or question) needs."""


def clips_at_most(settings: DatasetSettings, recorded: Collection[str]) -> dict[str, int]:
    """Clips of each table whose videos are on disk or `recorded` (by name); annotation may leave out more.

    Only tables that are quickly counted: none of a source that is downloaded or rendered, nor Ego4D's
    narrations. Raises SourceError for annotations that cannot be read.
    """
    if settings.source == "folder":
        return {table: len(rows) for table, rows in _folder(settings).items()}
    if settings.source == "ego4d":
        return {} if settings.ego4d.egomcq else {"egomcq": 0}
    if settings.local is None or settings.source != "local":
        return {}
    origin = Path(settings.local.path)
    clips, videos = LOCAL[settings.layout](origin)
    there = {*recorded, *videos}
    return {table: sum(there.issuperset(needed) for needed in rows) for table, rows in clips.items()}


def _folder(settings: DatasetSettings) -> Clips:
    assert settings.folder is not None
    fraction = settings.folder.validation_fraction
    tables: dict[str, list[tuple[str]]] = {split: [] for split in folder.SPLITS}
    for row in folder.read_narrations(Path(settings.folder.narrations), videos=None):
        split = row.split or folder.split_of(row.video, validation_fraction=fraction)
        tables[split].append((video_id_of(row.video),))
    return tables


def _ek100(origin: Path) -> tuple[Clips, list[str]]:
    segments = ek100.read_annotations(origin).segments
    clips = {split: [(row.video_id,) for row in rows] for split, rows in segments.items()}
    return clips, [video.video_id for video in ek100.find_videos(origin)[0]]


def _kinetics(origin: Path) -> tuple[Clips, list[str]]:
    classes = kinetics.read_classes(origin)
    clips = {
        split: [
            (entry.video_id,)
            for entry in kinetics.read_list(kinetics.list_path(origin, split), classes=classes)
        ]
        for split in kinetics.LISTS
    }
    return clips, [video.video_id for video in kinetics.find_videos(origin)[0]]


def _ego4d(origin: Path) -> tuple[Clips, list[str]]:
    path = origin / ego4d.EGOMCQ
    if path.is_file() and path.stat().st_size > ego4d.CHECKED_AT_ONCE_BYTES:
        return {}, []
    questions = [question.video_ids for question in ego4d.read_egomcq(origin)]
    return {"egomcq": questions}, [video.video_id for video in ego4d.list_videos(origin)] if questions else []


LOCAL: dict[str, Callable[[Path], tuple[Clips, list[str]]]] = {
    "ego4d": _ego4d,
    "ek100": _ek100,
    "kinetics": _kinetics,
}
"""Clips by table and the videos on disk, of the layouts that the source `local` knows."""
