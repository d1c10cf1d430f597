"""The rule `download`: from any source, the owner's file layout under `raw/` and the list of the videos."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from avion_core.config import DatasetSettings, ToyKitchenSettings
from avion_core.data import ego4d, ek100, folder, kinetics
from avion_core.data.sources import SourceError, SourceVideo, write_videos
from avion_core.data.toy_kitchen.layouts import LAYOUTS as TOY_LAYOUTS


@dataclass(frozen=True)
class LocalLayout:
    """How official files on disk are checked and found."""

    check: Callable[[Path, DatasetSettings], None]
    annotation_files: Callable[[Path], Sequence[str]]
    find_videos: Callable[[Path], tuple[list[SourceVideo], str]]


LOCAL_LAYOUTS: dict[str, LocalLayout] = {
    "ego4d": LocalLayout(
        lambda path, settings: ego4d.check(path, allow_missing_metadata=settings.allow_missing_ego4d_json),
        ego4d.annotation_files,
        ego4d.find_videos,
    ),
    "ek100": LocalLayout(lambda path, _: ek100.check(path), lambda _: ek100.ANNOTATIONS, ek100.find_videos),
    "kinetics": LocalLayout(
        lambda path, _: kinetics.check(path), kinetics.annotation_files, kinetics.find_videos
    ),
}
"""Layouts that the source `local` knows."""


@dataclass(frozen=True)
class Source:
    """A source: cheap checks before any work, and the work."""

    check: Callable[[DatasetSettings], None]
    fetch: Callable[[DatasetSettings, ToyKitchenSettings, Path], list[SourceVideo]]


def download(
    dataset: str, *, settings: DatasetSettings, toy_kitchen: ToyKitchenSettings, raw_dir: Path, videos: Path
) -> None:
    """Bring a data set's official files to `raw_dir` and publish the table `videos` last.

    What is complete is not fetched or rendered again. Raises SourceError, naming the data set.
    """
    check_source(dataset, settings)
    raw_dir.mkdir(parents=True, exist_ok=True)
    try:
        found = SOURCES[settings.source].fetch(settings, toy_kitchen, raw_dir)
        write_videos(videos, found)
    except SourceError as error:
        raise SourceError(f"data set '{dataset}': {error}") from None


def check_source(dataset: str, settings: DatasetSettings) -> None:
    """Look at all a source needs, in seconds and before any work. Raises SourceError, naming the data set."""
    try:
        SOURCES[settings.source].check(settings)
    except SourceError as error:
        raise SourceError(f"data set '{dataset}': {error}") from None


def _check_toy_kitchen(settings: DatasetSettings) -> None:
    if settings.layout not in TOY_LAYOUTS:
        raise SourceError(f"toy_kitchen has no layout '{settings.layout}'; known: {', '.join(TOY_LAYOUTS)}")


def _make_toy_kitchen(
    settings: DatasetSettings, toy_kitchen: ToyKitchenSettings, raw_dir: Path
) -> list[SourceVideo]:
    return TOY_LAYOUTS[settings.layout](toy_kitchen, raw_dir)


def _fetch_ego4d(settings: DatasetSettings, _: ToyKitchenSettings, raw_dir: Path) -> list[SourceVideo]:
    """Download, and read what came before anything is made of it."""
    videos = ego4d.fetch(settings.ego4d, raw_dir)
    ego4d.read_all(raw_dir, allow_missing_metadata=settings.allow_missing_ego4d_json)
    return videos


def _check_local(settings: DatasetSettings) -> None:
    assert settings.local is not None
    LOCAL_LAYOUTS[settings.layout].check(Path(settings.local.path), settings)


def _find_local(settings: DatasetSettings, _: ToyKitchenSettings, raw_dir: Path) -> list[SourceVideo]:
    """Link the annotation files into the raw folder; videos stay where they are."""
    assert settings.local is not None
    layout, origin = LOCAL_LAYOUTS[settings.layout], Path(settings.local.path).resolve()
    for name in layout.annotation_files(origin):
        link = raw_dir / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(origin / name)
    found, missing = layout.find_videos(origin)
    if not found:
        raise SourceError(f"{origin}: none of the annotated videos is there; missing: {missing or 'all'}")
    if missing:
        print(f"{origin}: videos that are not there, their clips are left out: {missing}", file=sys.stderr)
    return found


SOURCES: dict[str, Source] = {
    "toy_kitchen": Source(_check_toy_kitchen, _make_toy_kitchen),
    "ego4d": Source(
        lambda settings: ego4d.check_download(settings.ego4d),
        _fetch_ego4d,
    ),
    "local": Source(_check_local, _find_local),
    "folder": Source(folder.check, lambda settings, _, raw_dir: folder.fetch(settings, raw_dir)),
}
"""Where data sets come from, by the name that `source` has in the configuration."""
