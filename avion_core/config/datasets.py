"""Data sets: the layout of their files, where these come from, and how videos become chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from avion_core.config.base import Count, Fraction, Positive, Section

Layout = Literal["ego4d", "ek100", "kinetics", "folder"]

CHUNK_FORMATS: dict[str, dict[str, Any]] = {
    "random_access": {},
    "avion": {
        "keyframe_interval_frames": 250,
        "b_frames": 3,
        "skippable_frames": False,
        "crf": 23.0,
        "preset": "medium",
        "tune": "none",
    },
    "all_intra": {"keyframe_interval_frames": 1, "b_frames": 0, "crf": 27.0},
}
"""What `transcode.format` sets where the settings below it are left out."""


class TranscodeSettings(Section):
    """How source videos become chunks."""

    format: Literal["random_access", "avion", "all_intra"] = "random_access"
    """Defaults of the settings below: chunks made for reading single frames; AVION's, by x264's own
    defaults, small and slow to read; or every frame a keyframe, fastest to read and largest."""
    chunk_seconds: Positive = 15.0
    """Length of a chunk in seconds."""
    short_side_px: Annotated[int, Field(ge=16, multiple_of=2)] = 288
    """The frame's shorter side after scaling; the other follows, rounded to an even number."""
    fps: Positive | None = 30.0
    """Constant frame rate of every chunk, frames per second; null keeps each video's own rate (the average of
    a varying one), so that windows count the frames of the source."""
    keyframe_interval_frames: Count = 14
    """A keyframe every so many frames: smaller is faster to read and larger on disk."""
    b_frames: Annotated[int, Field(ge=0, le=16)] = 13
    """B frames between two references, at most."""
    skippable_frames: bool = True
    """Nothing refers to B frames, so that the decoder skips those not asked for, and they refer across
    keyframes, so that few other frames are needed; false leaves references and scene cuts to x264, which
    makes smaller files."""
    crf: Annotated[float, Field(ge=0, le=51)] = 19.5
    """x264 quality: lower is better and larger."""
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = "slow"
    """x264 effort."""
    tune: Literal["psnr,fastdecode", "fastdecode", "psnr", "none"] = "psnr,fastdecode"
    """x264 tuning: `fastdecode` leaves out the costly filters, `psnr` what only pleases the eye."""
    ffmpeg_threads: Count = 1
    """Threads of one FFmpeg process; shards process videos in parallel."""

    @model_validator(mode="before")
    @classmethod
    def _format_fills_in(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        return {**CHUNK_FORMATS.get(str(raw.get("format")), {}), **raw}


class FolderSource(Section):
    """Your own videos."""

    videos: str
    """Folder that holds the videos named in the CSV."""
    narrations: str
    """CSV with the columns `video,start,end,text` and optionally `split` (train or validation);
    times in seconds or hh:mm:ss."""
    validation_fraction: Fraction = 0.2
    """Share of the videos held out when the CSV has no `split` column."""


class Ego4DSource(Section):
    """What the official `ego4d` command downloads."""

    version: Literal["v1", "v2", "v2_1"] = "v2_1"
    """Release of the data set."""
    aws_profile: str = "default"
    """Named AWS profile that holds the licence's keys (they expire after 14 days)."""
    videos: Literal["full_scale", "video_540ss"] = "full_scale"
    """Which rendition to fetch."""
    egomcq: str | None = None
    """Path of EgoMCQ's `egomcq.json`, which Ego4D does not distribute."""
    benchmarks: tuple[str, ...] = ()
    """Fetch only videos of these benchmarks; empty for all."""


class LocalSource(Section):
    """Official files that are on disk already, in their owners' layout."""

    path: str
    """Folder with the layout that `docs/` describes for this data set."""


class DatasetSettings(Section):
    """One data set: the layout its files have, where they come from, how it is transcoded."""

    layout: Layout
    """Annotation formats and file layout."""
    source: Literal["toy_kitchen", "ego4d", "local", "folder"]
    """`toy_kitchen` renders it, `ego4d` downloads it, `local` and `folder` find it on disk."""
    folder: FolderSource | None = None
    """Needed by the source `folder`."""
    ego4d: Ego4DSource = Ego4DSource()
    """Used by the source `ego4d`."""
    local: LocalSource | None = None
    """Needed by the source `local`."""
    allow_missing_ego4d_json: bool = False
    """Layout `ego4d`: continue without `ego4d.json`, which lists the benchmarks' validation and test videos.
    They are then trained on, and zero-shot figures come out too high."""
    transcode: TranscodeSettings = TranscodeSettings()
    """Chunk settings; what is left out comes from the section `transcode`."""
    class_lists: str | None = None
    """Data set (layout ek100) whose verb and noun class lists give the provider `lexicon` further synonyms
    for this one's narrations."""

    def source_json(self) -> str:
        """What decides the raw files, without transcoding and narration, as JSON."""
        return self.model_dump_json(exclude={"transcode", "class_lists"})

    def annotation_recipe(self) -> str:
        """What decides the clip tables beside the files themselves, as JSON."""
        elsewhere: Any = {
            "transcode": True,
            "source": True,
            "ego4d": True,
            "local": True,
            "class_lists": True,
        }
        return self.model_dump_json(exclude={**elsewhere, "folder": {"videos", "narrations"}})

    @model_validator(mode="after")
    def _source_has_its_section(self) -> DatasetSettings:
        if self.source in ("folder", "local") and getattr(self, self.source) is None:
            raise ValueError(f"source '{self.source}' needs a section '{self.source}'")
        if (self.source == "folder") != (self.layout == "folder"):
            raise ValueError("the source 'folder' and the layout 'folder' go together")
        if self.source == "ego4d" and self.layout != "ego4d":
            raise ValueError("the source 'ego4d' has the layout 'ego4d'")
        return self


class ToyKitchenSettings(Section):
    """The built-in generator of first-person-like videos."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Decides every scene, sentence and pixel."""
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
    """Shortest and longest Ego4D and EPIC-KITCHENS video."""
    kinetics_clips_per_class: tuple[Count, Count] = (16, 8)
    """Trimmed clips of each Kinetics class in train and val."""
    kinetics_clip_seconds: Positive = 4.0
    """Length of a Kinetics clip."""
