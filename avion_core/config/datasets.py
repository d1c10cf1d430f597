"""Data sets: the layout and source of their files, and how videos are cut into chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from avion_core.config.base import Count, Positive, Section, sections
from avion_core.config.sources import SOURCE_SETTINGS, SourceSettings
from avion_core.layouts import LAYOUTS


def _layout(name: str) -> str:
    """A registered layout."""
    LAYOUTS[name]  # raises ValueError if unknown
    return name


LayoutName = Annotated[
    str, AfterValidator(_layout), Field(json_schema_extra=lambda schema: schema.update(enum=list(LAYOUTS)))
]

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
"""Defaults by `transcode.format`, for settings that are left out."""


class TranscodeSettings(Section):
    """How source videos are transcoded into chunks."""

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
    """Frames between keyframes: smaller is faster to read and larger on disk."""
    b_frames: Annotated[int, Field(ge=0, le=16)] = 13
    """Most B frames between two references."""
    skippable_frames: bool = True
    """No frame refers to B frames, so that the decoder can skip them, and B frames refer across keyframes, so
    that few other frames are needed; false leaves references and scene cuts to x264, for smaller files."""
    crf: Annotated[float, Field(ge=0, le=51)] = 19.5
    """x264 quality: lower is better and larger."""
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = "slow"
    """x264 effort."""
    tune: Literal["psnr,fastdecode", "fastdecode", "psnr", "none"] = "psnr,fastdecode"
    """x264 tuning: `fastdecode` omits the costly filters, `psnr` the psychovisual ones."""
    ffmpeg_threads: Count = 1
    """Threads of one FFmpeg process; shards process videos in parallel."""

    @model_validator(mode="before")
    @classmethod
    def _format_fills_in(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        return {**CHUNK_FORMATS.get(str(raw.get("format")), {}), **raw}


class DatasetSettings(Section):
    """One data set: the layout and source of its files, and its chunk settings."""

    model_config = ConfigDict(extra="allow")  # only for the section of its source

    layout: LayoutName
    """Annotation formats and file layout."""
    source: str
    """`toy_kitchen` renders it, `ego4d` downloads it, `local` and `folder` find it on disk. The section of
    this name holds the source's own settings; for `toy_kitchen` it overrides the common one."""
    allow_missing_ego4d_json: bool = False
    """Layout `ego4d`: continue without `ego4d.json`, which lists the benchmarks' validation and test videos.
    They are then trained on, and zero-shot figures come out too high."""
    clips_from: str | None = None
    """Layout `ego4d`: published file whose clips are trained on as they are, LaViLa's `ego4d_train.pkl` or
    EgoVLP's `egoclip.csv`; null for clips of the narrations by EgoVLP's rule."""
    transcode: TranscodeSettings = TranscodeSettings()
    """Chunk settings; those left out come from the section `transcode`."""
    class_lists: str | None = None
    """Data set (layout ek100) whose verb and noun class lists are further synonyms for the provider
    `lexicon`."""

    @property
    def source_settings(self) -> SourceSettings:
        """The source's own settings."""
        own: SourceSettings = getattr(self, self.source)
        return own

    def source_json(self) -> str:
        """Settings that affect the raw files, without transcoding and narration, as JSON."""
        return self.model_dump_json(exclude={"transcode", "class_lists", "clips_from"})

    def annotation_recipe(self) -> dict[str, Any]:
        """Settings that affect the clip tables, besides the files themselves."""
        layout = {"layout": self.layout, "allow_missing_ego4d_json": self.allow_missing_ego4d_json}
        published = {"clips_from": self.clips_from} if self.clips_from else {}
        return {**layout, **published, **self.source_settings.annotation_recipe()}

    @classmethod
    def types(cls) -> dict[str, Any]:
        """Types of the settings by name, including the sections of sources."""
        return {**super().types(), **dict(SOURCE_SETTINGS.items())}

    @model_validator(mode="before")
    @classmethod
    def _only_the_section_of_its_source(cls, raw: Any) -> Any:
        """Refuse other sources' sections, and require the own one."""
        if not isinstance(raw, Mapping) or raw.get("source") not in SOURCE_SETTINGS:
            return raw
        source = str(raw["source"])
        others = {
            name: value for name, value in raw.items() if name not in cls.model_fields and name != source
        }
        for name in others.keys() & set(SOURCE_SETTINGS):
            if others.pop(name) is not None:
                raise ValueError(f"{name} does not go with the source '{source}'; remove this section")
        own, value = SOURCE_SETTINGS[source], raw.get(source)
        if value is None and any(field.is_required() for field in own.model_fields.values()):
            raise ValueError(f"source '{source}' needs a section '{source}'")
        made = sections(**{source: own}).model_validate({source: {} if value is None else value, **others})
        return {name: raw[name] for name in raw if name in cls.model_fields} | {source: getattr(made, source)}

    @model_validator(mode="after")
    def _source_brings_the_layout(self) -> DatasetSettings:
        own = SOURCE_SETTINGS[self.source]  # raises ValueError if unknown
        owner = next(
            (n for n, o in SOURCE_SETTINGS.items() if o.exclusive and self.layout in o.layouts), None
        )
        if owner not in (None, self.source):
            raise ValueError(
                f"the layout '{self.layout}' needs the source '{owner}' (source: '{self.source}')"
            )
        if own.layouts and self.layout not in own.layouts:
            has = " or ".join(own.layouts)
            raise ValueError(f"the source '{self.source}' has the layout {has} (layout: '{self.layout}')")
        return self

    @model_validator(mode="after")
    def _goes_with_the_layout(self) -> DatasetSettings:
        if self.allow_missing_ego4d_json:
            self._only_with(
                "allow_missing_ego4d_json", [n for n, o in LAYOUTS.items() if o.may_lack_metadata]
            )
        if self.clips_from is not None:
            self._only_with("clips_from", [name for name, own in LAYOUTS.items() if own.clip_files])
            if self.clips_from not in (files := LAYOUTS[self.layout].clip_files):
                raise ValueError(f"clips_from must be {' or '.join(files)} (got '{self.clips_from}')")
        if self.class_lists is not None:
            self._only_with("class_lists", [name for name, own in LAYOUTS.items() if own.narrated])
        return self

    def _only_with(self, setting: str, layouts: list[str]) -> None:
        if self.layout not in layouts:
            raise ValueError(
                f"{setting} does not go with the layout '{self.layout}'; it is a setting of "
                f"{', '.join(layouts)}"
            )


SOURCE_SETTINGS.reserved = frozenset({*DatasetSettings.model_fields, *dir(DatasetSettings)})
