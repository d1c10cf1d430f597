"""The rule `download`: fetch any source into the owner's file layout under `raw/`, and list its videos.

The user's files are neither moved nor changed. The fetched state is recorded (`state`), so that a
changed source is noticed and a missing one blocks nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avion_core.config import DatasetSettings
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
from avion_core.registry import load
from avion_core.sources.source import Source, Target
from avion_core.sources.state import SourceRecord, SourceState, found_state, made_state


@dataclass(frozen=True)
class DataSet:
    """One data set of the configuration, with its folder (`raw/`, `videos.parquet`)."""

    name: str
    settings: DatasetSettings
    home: Path

    @property
    def raw_dir(self) -> Path:
        """The official files."""
        return self.home / "raw"

    @property
    def recipe(self) -> str:
        """Fingerprint of the settings that affect the files, without paths and accounts."""
        settings = self.settings
        decisive: dict[str, object] = {"layout": settings.layout, "source": settings.source}
        return fingerprint(decisive | settings.source_settings.recipe())

    def source(self) -> Source[Any]:
        """Its source, built from the source's own settings only. Raises SourceError if that fails."""
        allow_missing = self.settings.allow_missing_ego4d_json
        target = Target(self.settings.layout, self.raw_dir, self.recipe, allow_missing)
        own = self.settings.source_settings
        try:
            source: Source[Any] = load(own.source, base=Source)(own, target)
        except ValueError as error:
            raise SourceError(f"data set '{self.name}': source: '{self.settings.source}': {error}") from None
        return source


def download(dataset: DataSet) -> None:
    """Bring a data set's official files into its raw folder, then publish `videos.parquet`.

    Complete files are not fetched or rendered again. Raises SourceError, naming the data set.
    """
    record, source = SourceRecord.read(dataset.home), dataset.source()
    before = dict(zip(record.videos, marks_of(record.others([]), recorded=record.videos), strict=True))
    try:
        for check in source.checks(record):
            check()
        dataset.raw_dir.mkdir(parents=True, exist_ok=True)
        wanted = source.fetch(record)
        refuse_odd_names(wanted)
        there, missing = _there_or_away(wanted, record)
        if not there:
            raise SourceError(f"none of the annotated videos is there; missing: {_names(missing) or 'all'}")
        if missing:
            print(f"videos that are not there, their clips are left out: {_names(missing)}", file=sys.stderr)
        videos = {}
        for video, mark in there.items():
            same = not source.external and before.get(video.video_id) == mark
            ours = record.videos.get(video.video_id) if same else None
            videos[video.video_id] = ours or (video.path, mark)
        entries = {name: record.digest_of(name, path) for name, path in source.annotations().items()}
        fresh = SourceRecord(
            state=SourceState(dataset.recipe, source.where),
            annotations={**record.annotations, **{name: entry for name, entry in entries.items() if entry}},
            videos=videos,
            missing=missing,
        )
        replace(fresh, state=_state(source, fresh)).write(dataset.home)
        write_videos(dataset.home / VIDEO_LIST, there)
    except SourceError as error:
        raise SourceError(f"data set '{dataset.name}': {error}") from None


def source_problems(dataset: DataSet, state: SourceState | None = None) -> Iterator[str]:
    """Problems of a source, found in seconds before any work; none if `state` is as fetched."""
    record, now = SourceRecord.read(dataset.home), state or source_state(dataset)
    if (dataset.home / VIDEO_LIST).is_file() and record.state == now:
        return
    for check in dataset.source().checks(record):
        try:
            check()
        except SourceError as error:
            yield f"data set '{dataset.name}': {error}"


def source_state(dataset: DataSet) -> SourceState:
    """The source's present state, as far as it affects results. Takes one `stat` per file, writes nothing."""
    return _state(dataset.source(), SourceRecord.read(dataset.home))


def _state(source: Source[Any], record: SourceRecord) -> SourceState:
    target = source.target
    try:
        annotations = source.annotations()
    except (OSError, SourceError):
        annotations = {}
    if not source.external:
        return made_state(record, target.raw_dir, recipe=target.recipe, annotations=annotations)
    return found_state(
        record,
        recipe=target.recipe,
        where=source.where,
        annotations=annotations,
        list_videos=source.list_videos,
        named=source.named,
    )


def _there_or_away(
    wanted: Sequence[SourceVideo], record: SourceRecord
) -> tuple[dict[SourceVideo, FileMark], list[SourceVideo]]:
    """The videos with their marks (recorded ones if they are away), and the paths of missing ones."""
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
