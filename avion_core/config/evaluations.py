"""Evaluations: the settings that all kinds share, and those of single kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ModelWrapValidatorHandler, model_validator

from avion_core.config.base import Count, Name, Precision, Section
from avion_core.config.jobs import EvaluationJob
from avion_core.config.misfits import fitting
from avion_core.evaluations import EVALUATIONS
from avion_core.registry import load


def _kind(name: str) -> str:
    """A registered kind."""
    EVALUATIONS[name]  # raises ValueError for an unknown one
    return name


Kind = Annotated[
    str, AfterValidator(_kind), Field(json_schema_extra=lambda schema: schema.update(enum=list(EVALUATIONS)))
]


def evaluation_class(kind: str) -> type[EvaluationSettings]:
    """The class that has the settings of this kind of evaluation. Raises ValueError for an unknown kind."""
    found: type[EvaluationSettings] = load(EVALUATIONS[kind].settings, base=EvaluationSettings)
    return found


class EvaluationSettings(EvaluationJob):
    """One evaluation of a trained stage."""

    job = EvaluationJob

    kind: Kind
    """What is measured, which decides the further settings."""
    dataset: Name
    """Data set whose evaluation split is used."""
    stage: Name
    """Stage whose weights are evaluated."""
    frames: Count = 4
    """Frames per clip."""
    clips: Count = 1
    """Temporal views of a clip, averaged unless the kind says otherwise."""
    crops: Literal[1, 3] = 1
    """Spatial views of a clip, likewise."""
    batch_size: Count = 64
    """Clip views per batch."""
    precision: Precision = "fp32"
    """Arithmetic of the model; `bf16` and `fp16` are faster on a GPU and change figures a little. Changing it
    repeats no training that the evaluation validates."""

    @staticmethod
    def of_kind(kind: str, **settings: Any) -> EvaluationSettings:
        """Settings of this kind of evaluation, in its class. Raises ValidationError for unfit ones."""
        return EvaluationSettings.model_validate({"kind": kind, **settings})

    @model_validator(mode="wrap")
    @classmethod
    def _in_the_class_of_its_kind(cls, raw: Any, handler: ModelWrapValidatorHandler[Self]) -> Any:
        kind = raw.get("kind") if isinstance(raw, Mapping) else None
        if kind not in EVALUATIONS:
            return handler(raw)
        chosen = evaluation_class(str(kind))
        if chosen is not cls:
            return chosen.model_validate(raw)
        return handler(fitting(cls, raw, homes=_kinds_with, beside=lambda _: str(kind)))

    @model_validator(mode="after")
    def _views_fit(self) -> Self:
        if self.clips * self.crops > 1 and not EVALUATIONS[self.kind].averages_views:
            raise ValueError(
                f"{self.kind} take one view of a clip; leave out clips and crops, or set them to 1"
            )
        return self

    @property
    def own_sampling(self) -> dict[str, Any]:
        """`sampling` and `stride` where the evaluation does not take the stage's."""
        return {}

    def recipe(self) -> dict[str, Any]:
        """The settings that decide the result.

        Without `fp32` and the kind's own defaults, as in results from before these settings.
        """
        own = type(self).model_fields.keys() - EvaluationSettings.model_fields.keys()
        fields = {name: type(self).model_fields[name] for name in (*own, "precision")}
        left_out = {name for name, field in fields.items() if getattr(self, name) == field.default}
        return {name: value for name, value in super().recipe().items() if name not in left_out}


class EnsembleMember(Section):
    """A retrieval evaluation of a run."""

    run: Name
    """Its first seed."""
    evaluation: Name
    """On the same data set."""


class RetrievalSettings(EvaluationSettings):
    """Multi-instance retrieval."""

    mirror: bool = False
    """Add the embedding of the mirror image to that of each view of a clip."""
    ensemble: tuple[EnsembleMember, ...] = ()
    """Other evaluations, whose similarities of clips and sentences are averaged with this one's."""
    dual_softmax: bool = False
    """Weight each similarity by the softmax over all clips, and normalise over all sentences (EgoVLP): a
    ranking that uses the whole test set at once, which the report says."""


def ensemble_of(entry: EvaluationSettings) -> tuple[EnsembleMember, ...]:
    """The evaluations that are averaged with this one."""
    return entry.ensemble if isinstance(entry, RetrievalSettings) else ()


class MultipleChoiceSettings(EvaluationSettings):
    """EgoMCQ."""

    similarity: Literal["cosine", "dot"] = "cosine"
    """How clips are compared with the sentence: `cosine` (EgoVLP, AVION), or `dot`, the product of embeddings
    that are not normalised (LaViLa), in which long embeddings win."""


def _template(text: str) -> str:
    """A sentence with one place for the class's name."""
    if text.count("{}") != 1:
        raise ValueError(f"'{text}' needs one {{}}, the place of the class's name")
    return text


class ZeroShotClassesSettings(EvaluationSettings):
    """Classification by the cosine of a clip with the sentences of each class."""

    templates: Annotated[tuple[Annotated[str, AfterValidator(_template)], ...], Field(min_length=1)] = ("{}",)
    """Sentences of a class, with {} for its name; LaViLa has ["#C C {}", "#C {}"] as an option. Where the
    classes are actions of narrated clips (ek100), each of their distinct narrations is a name. The embeddings
    of a class's sentences are averaged."""
    pool: Literal["max", "mean"] = "max"
    """How the cosines of several views become one: the largest (LaViLa), or their mean."""
    softmax: Literal["auto", True, False] = "auto"
    """Turn a clip's cosines into probabilities, which changes mAP only. `auto`: with several views, as in
    LaViLa's zero-shot evaluation; its fine-tuned models on Charades-Ego have it always."""
    sampling: Literal["segments", "lavila_segments", "window", "padded_window"] | None = None
    """Frames of a clip, as in a stage; null: as the stage was trained."""
    stride: Count | None = None
    """Distance between a window's frames; null: that of the stage."""

    @property
    def own_sampling(self) -> dict[str, Any]:
        """The settings of these names that are not null."""
        own = {"sampling": self.sampling, "stride": self.stride}
        return {name: value for name, value in own.items() if value is not None}


def _kinds_with(name: str) -> list[str]:
    """Kinds of evaluation that have this setting."""
    return [kind for kind in EVALUATIONS if name in evaluation_class(kind).model_fields]
