"""Sources: each has its own settings, in a data set's section with the source's name."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from avion_core.config.base import Count, Fraction, Positive, Section, Seed
from avion_core.registry import Registry


class SourceSettings(Section):
    """The settings of one source."""

    source: ClassVar[str]
    """`package.module:Name` of its `avion_core.sources.source.Source`."""
    layouts: ClassVar[tuple[str, ...]] = ()
    """Layouts it provides; empty for official files of any layout."""
    exclusive: ClassVar[bool] = False
    """Whether no other source provides its layouts."""
    official: ClassVar[bool] = False
    """Whether the files are a published data set's own, so that published figures may be comparable."""
    generated: ClassVar[bool] = False
    """Whether the videos are generated, which the report says."""

    def recipe(self) -> dict[str, Any]:
        """Settings that affect the files, without paths and accounts."""
        return self.model_dump(mode="json")

    def annotation_recipe(self) -> dict[str, Any]:
        """Settings that affect clip tables, besides the files."""
        return {}


SOURCE_SETTINGS: Registry[type[SourceSettings]] = Registry("source", base=SourceSettings, refers=("source",))
"""Sources by their name in the configuration: their settings, which name the class."""


class ToyKitchenSettings(SourceSettings):
    """The built-in generator of first-person-like videos."""

    source = "avion_core.sources.toy_kitchen.source:ToyKitchen"
    layouts = ("ego4d", "ek100", "kinetics", "egtea", "charades_ego")
    generated = True

    seed: Seed = 0
    """Seed of every scene, sentence and pixel."""
    short_side_px: Annotated[int, Field(ge=64, multiple_of=2)] = 144
    """Shorter side of most rendered videos."""
    ego4d_videos: Count = 40
    """Videos with free narrations, for pretraining."""
    ego4d_benchmark_videos: Count = 5
    """Videos of the EgoMCQ questions, left out of pretraining."""
    ek100_train_videos: Count = 56
    """Videos of the EPIC-KITCHENS training split."""
    ek100_validation_videos: Count = 10
    """Videos of the EPIC-KITCHENS validation split."""
    video_seconds: tuple[Positive, Positive] = (20.0, 60.0)
    """Shortest and longest Ego4D and EPIC-KITCHENS video; Charades-Ego's are as long as the shortest."""
    kinetics_clips_per_class: tuple[Count, Count] = (16, 8)
    """Trimmed clips of each Kinetics class in train and val."""
    kinetics_clip_seconds: Positive = 4.0
    """Length of a Kinetics or EGTEA clip."""


class Ego4DSource(SourceSettings):
    """Download with the official `ego4d` command."""

    source = "avion_core.sources.ego4d:Ego4DDownload"
    layouts = ("ego4d",)
    official = True

    version: Literal["v1", "v2", "v2_1"] = "v2_1"
    """Release of the data set."""
    aws_profile: str = "default"
    """AWS profile with the licence's keys (they expire after 14 days)."""
    videos: Literal["full_scale", "video_540ss"] = "full_scale"
    """Rendition to fetch."""
    egomcq: str | None = None
    """Path of EgoMCQ's `egomcq.json`, which Ego4D does not distribute."""
    egoclip: str | None = None
    """Path of EgoVLP's `egoclip.csv`, for the verb and noun tags of the loss `egonce`."""
    ego4d_train: str | None = None
    """Path of LaViLa's `ego4d_train.pkl`, for `clips_from`."""
    benchmarks: tuple[str, ...] = ()
    """Fetch only videos of these benchmarks; empty for all."""

    def recipe(self) -> dict[str, Any]:
        """Release, rendition and benchmarks."""
        return self.model_dump(mode="json", exclude={"aws_profile", "egomcq", "egoclip", "ego4d_train"})


class LocalSource(SourceSettings):
    """Official files already on disk, in their owners' layout."""

    source = "avion_core.sources.local:LocalFiles"
    official = True

    path: str
    """Folder of the videos, and of the annotations unless they are elsewhere; its layout is described in
    `docs/` for this data set."""
    annotations: str | None = None
    """Folder of the annotations if they are not in `path`."""

    def recipe(self) -> dict[str, Any]:
        """Nothing: the files are compared themselves."""
        return {}


class FolderSource(SourceSettings):
    """Your own videos."""

    source = "avion_core.sources.folder:OwnVideos"
    layouts = ("folder",)
    exclusive = True

    videos: str
    """Folder of the videos named in the CSV."""
    narrations: str
    """CSV with the columns `video,start,end,text` and optionally `split` (train or validation);
    times in seconds or hh:mm:ss."""
    validation_fraction: Fraction = 0.2
    """Share of the videos held out if the CSV has no `split` column."""

    def recipe(self) -> dict[str, Any]:
        """Nothing: the files are compared themselves."""
        return {}

    def annotation_recipe(self) -> dict[str, Any]:
        """Settings of the split."""
        return {"validation_fraction": self.validation_fraction}


SOURCE_SETTINGS.register("toy_kitchen", ToyKitchenSettings)
SOURCE_SETTINGS.register("ego4d", Ego4DSource)
SOURCE_SETTINGS.register("local", LocalSource)
SOURCE_SETTINGS.register("folder", FolderSource)
