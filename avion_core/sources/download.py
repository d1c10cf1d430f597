"""The rule `download`: from any source, the owner's file layout under `raw/` and the list of the videos.

The user's files stay where they are and as they are. What was fetched is recorded (`source_state`), so
that a changed source is noticed, and one that is away blocks nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from avion_core.config import DatasetSettings, ToyKitchenSettings
from avion_core.data import ego4d, ek100, kinetics
from avion_core.data.folder import NARRATIONS
from avion_core.data.source_videos import (
    VIDEO_LIST,
    SourceError,
    SourceVideo,
    marks_of,
    names_of,
    refuse_odd_names,
    write_videos,
)
from avion_core.files import fingerprint
from avion_core.media.source_file import FileMark
from avion_core.sources import ego4d as ego4d_download
from avion_core.sources import folder
from avion_core.sources.raw_folder import RawFolder
from avion_core.sources.state import SourceRecord, SourceState, found_state, made_state
from avion_core.sources.toy_kitchen.layouts import LAYOUTS as TOY_LAYOUTS


@dataclass(frozen=True)
class DataSet:
    """One data set of the configuration and its folder, which holds `raw/` and `videos.parquet`."""

    name: str
    settings: DatasetSettings
    toy_kitchen: ToyKitchenSettings
    home: Path

    @property
    def raw_dir(self) -> Path:
        """The official files."""
        return self.home / "raw"

    @property
    def where(self) -> list[str]:
        """Folders of an external source, as the settings name them."""
        local, folder = self.settings.local, self.settings.folder
        return [local.path] if local else [folder.videos] if folder else []

    @property
    def recipe(self) -> str:
        """Fingerprint of the settings that decide the files, not where they are or who may fetch them."""
        decisive: dict[str, object] = {"layout": self.settings.layout, "source": self.settings.source}
        if self.settings.source == "toy_kitchen":
            decisive |= self.toy_kitchen.model_dump(mode="json")
        if self.settings.source == "ego4d":
            decisive |= self.settings.ego4d.model_dump(mode="json", exclude={"aws_profile", "egomcq"})
        return fingerprint(decisive)


@dataclass(frozen=True)
class LocalLayout:
    """How official files on disk are checked and found."""

    check: Callable[[Path, DatasetSettings], None]
    annotation_files: Callable[[Path], Sequence[str]]
    find_videos: Callable[[Path], tuple[list[SourceVideo], list[SourceVideo]]]
    """Those that are there, and where the annotated ones would be that are not."""
    list_videos: Callable[[Path], list[SourceVideo]] | None = None
    """Quickly, those that are there, where the annotations need not name all."""


LOCAL_LAYOUTS: dict[str, LocalLayout] = {
    "ego4d": LocalLayout(
        lambda path, settings: ego4d.check(path, allow_missing_metadata=settings.allow_missing_ego4d_json),
        ego4d.annotation_files,
        ego4d.find_videos,
        ego4d.list_videos,
    ),
    "ek100": LocalLayout(lambda path, _: ek100.check(path), lambda _: ek100.ANNOTATIONS, ek100.find_videos),
    "kinetics": LocalLayout(
        lambda path, _: kinetics.check(path), kinetics.annotation_files, kinetics.find_videos
    ),
}
"""Layouts that the source `local` knows."""


@dataclass(frozen=True)
class Source:
    """A source: cheap checks before any work, the work, and what it consists of now."""

    checks: Sequence[Callable[[DataSet, SourceRecord], None]]
    """Each looks at one thing of the user's. Videos of the record, that of the last fetch, may be away."""
    fetch: Callable[[DataSet, SourceRecord], list[SourceVideo]]
    """Bring the annotation files to the raw folder. Returns all videos, there or not."""
    annotations: Callable[[DataSet], Mapping[str, Path]]
    """The annotation files by their name in the raw folder; those that are away may be missing."""
    list_videos: Callable[[DataSet], list[SourceVideo]] | None = None
    """All videos of an external source, there or not; None where the pipeline makes them."""


def download(dataset: DataSet) -> None:
    """Bring a data set's official files to its raw folder and publish `videos.parquet` last.

    What is complete is not fetched or rendered again. Raises SourceError, naming the data set.
    """
    record, source = SourceRecord.read(dataset.home), SOURCES[dataset.settings.source]
    before = dict(zip(record.videos, marks_of(record.others([]), recorded=record.videos), strict=True))
    try:
        for check in source.checks:
            check(dataset, record)
        dataset.raw_dir.mkdir(parents=True, exist_ok=True)
        wanted = source.fetch(dataset, record)
        refuse_odd_names(wanted)
        there, missing = _there_or_away(wanted, record)
        if not there:
            raise SourceError(f"none of the annotated videos is there; missing: {_names(missing) or 'all'}")
        if missing:
            print(f"videos that are not there, their clips are left out: {_names(missing)}", file=sys.stderr)
        made = source.list_videos is None
        videos = {}
        for video, mark in there.items():
            ours = record.videos.get(video.video_id) if made and before.get(video.video_id) == mark else None
            videos[video.video_id] = ours or (video.path, mark)
        entries = {name: record.digest_of(name, path) for name, path in source.annotations(dataset).items()}
        fresh = SourceRecord(
            state=SourceState(dataset.recipe, dataset.where),
            annotations={**record.annotations, **{name: entry for name, entry in entries.items() if entry}},
            videos=videos,
            missing=missing,
        )
        replace(fresh, state=_state(dataset, fresh)).write(dataset.home)
        write_videos(dataset.home / VIDEO_LIST, there)
    except SourceError as error:
        raise SourceError(f"data set '{dataset.name}': {error}") from None


def source_problems(dataset: DataSet, state: SourceState | None = None) -> Iterator[str]:
    """All that a source lacks, found in seconds and before any work; nothing where `state` is as fetched."""
    record, now = SourceRecord.read(dataset.home), state or source_state(dataset)
    if (dataset.home / VIDEO_LIST).is_file() and record.state == now:
        return
    for check in SOURCES[dataset.settings.source].checks:
        try:
            check(dataset, record)
        except SourceError as error:
            yield f"data set '{dataset.name}': {error}"


def source_state(dataset: DataSet) -> SourceState:
    """What of the source decides results, as it is now. Takes a `stat` for each file, and writes nothing."""
    return _state(dataset, SourceRecord.read(dataset.home))


def _state(dataset: DataSet, record: SourceRecord) -> SourceState:
    source = SOURCES[dataset.settings.source]
    try:
        annotations = source.annotations(dataset)
    except (OSError, SourceError):
        annotations = {}
    if source.list_videos is None:
        return made_state(record, dataset.raw_dir, recipe=dataset.recipe, annotations=annotations)
    return found_state(
        record,
        recipe=dataset.recipe,
        where=dataset.where,
        annotations=annotations,
        list_videos=partial(source.list_videos, dataset),
        named=dataset.settings.layout != "ego4d",
    )


def _there_or_away(
    wanted: Sequence[SourceVideo], record: SourceRecord
) -> tuple[dict[SourceVideo, FileMark], list[SourceVideo]]:
    """The videos with their marks, recorded ones for those that are away; and the places of the missing."""
    marks = dict(zip(wanted, marks_of(wanted, recorded=record.videos), strict=True))
    there = {video: mark for video, mark in marks.items() if mark}
    names = {video.video_id for video in there}
    gone = [video for video in marks if video.video_id not in names]
    for name in dict.fromkeys(video.video_id for video in gone if video.video_id in record.videos):
        path, mark = record.videos[name]
        there[SourceVideo(name, path)] = mark
    there = dict(sorted(there.items(), key=lambda entry: entry[0].video_id))
    return there, [video for video in gone if video.video_id not in record.videos]


def _names(videos: Sequence[SourceVideo]) -> str:
    return names_of(list(dict.fromkeys(video.video_id for video in videos)))


# ----------------------------------------------------------------------------------------------- sources


def _check_toy_kitchen(dataset: DataSet, _: SourceRecord) -> None:
    layout = dataset.settings.layout
    if layout not in TOY_LAYOUTS:
        raise SourceError(f"toy_kitchen has no layout '{layout}'; known: {', '.join(TOY_LAYOUTS)}")


def _make_toy_kitchen(dataset: DataSet, _: SourceRecord) -> list[SourceVideo]:
    return TOY_LAYOUTS[dataset.settings.layout](dataset.toy_kitchen, dataset.raw_dir)


def _check_ego4d_account(dataset: DataSet, record: SourceRecord) -> None:
    """Nobody needs the account for what has arrived."""
    if not _has_arrived(dataset, record):
        ego4d_download.check_download(dataset.settings.ego4d)


def _check_ego4d_questions(dataset: DataSet, record: SourceRecord) -> None:
    """Nobody needs EgoMCQ's file once it was copied."""
    if ego4d.EGOMCQ not in record.annotations:
        ego4d_download.check_questions(dataset.settings.ego4d)


def _has_arrived(dataset: DataSet, record: SourceRecord) -> bool:
    """Whether a download with these settings was whole; its videos may have been deleted to save space."""
    return record.state.recipe == dataset.recipe and ego4d.narration_path(dataset.raw_dir).is_file()


def _fetch_ego4d(dataset: DataSet, record: SourceRecord) -> list[SourceVideo]:
    """Download what has not arrived yet, copy EgoMCQ's file, and read all before anything is made of it."""
    raw, source = RawFolder(dataset.raw_dir), dataset.settings.ego4d
    if _has_arrived(dataset, record):
        videos = [SourceVideo(name, path) for name, (path, _) in record.videos.items()]
    else:
        raw.check_unedited()
        videos = ego4d_download.fetch(source, dataset.raw_dir)
        raw.adopt(ego4d.annotation_files(dataset.raw_dir))
    if source.egomcq is not None and Path(source.egomcq).is_file():
        raw.copy(Path(source.egomcq), ego4d.EGOMCQ)
    ego4d.read_all(dataset.raw_dir, allow_missing_metadata=dataset.settings.allow_missing_ego4d_json)
    return videos


def _ego4d_annotations(dataset: DataSet) -> dict[str, Path]:
    questions = dataset.settings.ego4d.egomcq
    return RawFolder(dataset.raw_dir).files() | ({ego4d.EGOMCQ: Path(questions)} if questions else {})


def _origin(dataset: DataSet) -> Path:
    assert dataset.settings.local is not None
    return Path(dataset.settings.local.path)


def _check_local(dataset: DataSet, _: SourceRecord) -> None:
    LOCAL_LAYOUTS[dataset.settings.layout].check(_origin(dataset), dataset.settings)


def _find_local(dataset: DataSet, record: SourceRecord) -> list[SourceVideo]:
    """Copy the annotation files into the raw folder; videos stay where they are."""
    raw, layout = RawFolder(dataset.raw_dir), LOCAL_LAYOUTS[dataset.settings.layout]
    for name, file in _local_annotations(dataset).items():
        raw.copy(file, name)
    found, missing = layout.find_videos(_origin(dataset).resolve())
    wanted = [*found, *missing]
    return wanted if layout.list_videos is None else [*wanted, *record.others(wanted)]


def _local_annotations(dataset: DataSet) -> dict[str, Path]:
    origin = _origin(dataset)
    return {name: origin / name for name in LOCAL_LAYOUTS[dataset.settings.layout].annotation_files(origin)}


def _local_videos(dataset: DataSet) -> list[SourceVideo]:
    origin, layout = _origin(dataset).resolve(), LOCAL_LAYOUTS[dataset.settings.layout]
    if layout.list_videos is not None:
        return layout.list_videos(origin)
    found, missing = layout.find_videos(origin)
    return [*found, *missing]


def _narrations(dataset: DataSet) -> dict[str, Path]:
    assert dataset.settings.folder is not None
    return {NARRATIONS: Path(dataset.settings.folder.narrations)}


def _fetch_folder(dataset: DataSet, _: SourceRecord) -> list[SourceVideo]:
    """Copy the CSV into the raw folder; the videos stay where they are."""
    for name, file in _narrations(dataset).items():
        RawFolder(dataset.raw_dir).copy(file, name)
    return folder.list_videos(dataset.settings)


SOURCES: dict[str, Source] = {
    "toy_kitchen": Source(
        [_check_toy_kitchen], _make_toy_kitchen, lambda dataset: RawFolder(dataset.raw_dir).files()
    ),
    "ego4d": Source([_check_ego4d_account, _check_ego4d_questions], _fetch_ego4d, _ego4d_annotations),
    "local": Source([_check_local], _find_local, _local_annotations, _local_videos),
    "folder": Source(
        [
            lambda dataset, record: folder.check_videos(dataset.settings, away=record.videos),
            lambda dataset, record: folder.check_narrations(dataset.settings, away=record.videos),
        ],
        _fetch_folder,
        _narrations,
        lambda dataset: folder.list_videos(dataset.settings),
    ),
}
"""Where data sets come from, by the name that `source` has in the configuration."""
