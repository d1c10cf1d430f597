"""Narrations of clips from their frames: by which model, of which clips, and how."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from avion_core.config.base import Count, Fraction, Name, NotNegative, Positive, Precision, Seed
from avion_core.config.filters import NarratorFilters
from avion_core.config.language_model import ChatSettings
from avion_core.config.narration import NarrateSettings
from avion_core.config.providers import (
    PROVIDERS,
    RENAMED,
    ProvidedSection,
    ProviderSettings,
    chosen_provider,
)


class VisionSettings(ChatSettings):
    """A language model that takes images."""

    work = "avion_core.narrate.vision_provider:VisionProvider"
    where = "narrator.vision"
    looks = True

    model: str = "gpt-4.1-mini"
    """Name of the model on the server."""
    max_tokens_per_reply: Count = 400
    """Most tokens of text in one reply."""
    tokens_per_image: Count = 300
    """Input tokens of an image, for the estimate and the limit until the server has counted some."""
    images_per_request: Count | None = None
    """Most images in one request; null for as many as the server takes. If a clip has more frames, they are
    sent as one contact sheet. Changing it repeats no request."""
    frames: Count = 4
    """Frames of a clip, the middle ones of equal parts."""
    image_size_px: Annotated[int, Field(ge=16)] = 224
    """Side of the square frames, cropped from the centre."""
    jpeg_quality: Annotated[int, Field(ge=1, le=95)] = 90
    """Quality of the frames' JPEGs."""

    def recipe(self) -> dict[str, Any]:
        """The model, its temperature, and the frames."""
        unused = {"tokens_per_image", "images_per_request"}
        return {name: value for name, value in super().recipe().items() if name not in unused}


class TrainedSettings(ProviderSettings):
    """A narrator trained by a stage of one of the runs, with the task captioning. The first seed of the run
    narrates."""

    work = "avion_core.trained_narrator:TrainedProvider"
    looks = True
    called = "a trained narrator"
    code = ("trained_narrator.py", "models/generate.py")

    run: Name
    """Run of the stage."""
    stage: Name
    """Stage that trains the narrator."""
    temperature: NotNegative = 0.7
    """Divisor of the logits, as in LaViLa; 0 for the likeliest token."""
    nucleus: Fraction = 0.95
    """Tokens are drawn from the fewest likeliest ones with more than this probability together."""
    seed: Seed = 0
    """Seed of the sampling; the draws of a clip also depend on its video and seconds."""
    precision: Precision = "fp32"
    """Arithmetic of the model."""
    batch_size: Count = 16
    """Clips per batch. Changing this or a setting below triggers no rerun."""
    threads: Count = 1
    """CPU threads of a shard."""
    gpus: Literal[0, 1] = 0
    """GPUs of a shard."""
    memory_mb: Count = 2500
    """Memory of a shard's job; the weights of a larger narrator alone need four bytes a parameter."""
    clip_timeout_seconds: Positive = 60.0
    """A clip that takes longer to read gets no text."""

    def recipe(self) -> dict[str, Any]:
        """The model and how texts are drawn."""
        job = {"batch_size", "threads", "gpus", "memory_mb", "clip_timeout_seconds"}
        return self.model_dump(mode="json", exclude=job)

    @property
    def job_threads(self) -> int:
        return self.threads

    @property
    def job_gpus(self) -> int:
        return self.gpus

    @property
    def job_memory_mb(self) -> int:
        return self.memory_mb

    def trained_stage(self) -> tuple[str, str]:
        return self.run, self.stage


class PublishedNarrations(ProviderSettings):
    """LaViLa's published narrations of Ego4D; their clips take the place of clips and windows."""

    work = "avion_core.narrate.published_provider:PublishedNarrationsProvider"
    looks = True
    brings_clips = True
    called = "LaViLa's published narrations"
    code = ("narrate/published_provider.py", "data/published_text.py", "data/plain_pickle.py")

    file: str
    """Path of the narrator's pickle. A file of another content needs another name to trigger a rerun."""


PROVIDERS.register("vision", VisionSettings)
PROVIDERS.register("published_narrations", PublishedNarrations)
PROVIDERS.register("trained", TrainedSettings)


class NarratorSettings(ProvidedSection):
    """Narrations of clips from their frames, for stages with `narrations: [narrated]`."""

    looks: ClassVar[bool] = True

    provider: Annotated[str, *chosen_provider(looks=True)] | None = None
    """`vision`: a language model that takes images; `trained`: a narrator that one of the runs trains;
    `published_narrations`: LaViLa's file; null for none. The section of this name holds the provider's own
    settings."""
    texts_per_clip: Annotated[int, Field(ge=1, le=20)] = 10
    """Sentences for each clip."""
    window_seconds: Positive | None = 2.0
    """Length of the windows over stretches without narrations, except those held out for evaluation; null to
    narrate only the clips with narrations."""
    step_seconds: Positive = 2.0
    """Distance between the starts of windows, at most `window_seconds`."""
    filters: NarratorFilters = NarratorFilters()
    """Which of the texts are kept. Changing them narrates nothing again."""
    instruction: str = (
        "You see frames of a short video clip in order of time, recorded by a camera that a person wears on "
        "the head. Say in one short sentence what that person does with their hands, in the third person and "
        "the present, with '#C C' for the person, such as '#C C picks up the red cup'. Name the action and "
        "the objects that can be seen; add nothing that cannot. If somebody else acts, '#O' stands for that "
        "person. No punctuation at the end."
    )
    """Instruction for a language model; the number of sentences and the format are added to it."""

    def recipe(self) -> dict[str, Any]:
        """Settings that affect the texts: the clips, the provider's own, and the prompt if there is one."""
        names = ["provider", "texts_per_clip", "window_seconds", "step_seconds"]
        common = self.model_dump(mode="json", include={*names, *(["instruction"] * self.own.prompted)})
        own = self.own.recipe()
        return common | ({self.recorded: own} if own else {})

    @model_validator(mode="after")
    def _windows_leave_no_gap(self) -> Self:
        if self.window_seconds is not None and self.step_seconds > self.window_seconds:
            raise ValueError(
                f"step_seconds ({self.step_seconds:g}) is above window_seconds ({self.window_seconds:g}), "
                "which leaves gaps; lower it"
            )
        return self


_SECTIONS = (NarrateSettings, NarratorSettings)
PROVIDERS.reserved = frozenset(RENAMED).union(*((*own.model_fields, *dir(own)) for own in _SECTIONS))
