"""One evaluation's settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from avion_core.config.base import Count, Name, Precision
from avion_core.config.jobs import EvaluationJob
from avion_core.evaluations import EVALUATIONS


def _kind(name: str) -> str:
    """A registered kind."""
    EVALUATIONS[name]  # raises ValueError for an unknown one
    return name


Kind = Annotated[
    str, AfterValidator(_kind), Field(json_schema_extra=lambda schema: schema.update(enum=list(EVALUATIONS)))
]


class EvaluationSettings(EvaluationJob):
    """One evaluation of a trained stage."""

    job = EvaluationJob

    kind: Kind
    """MIR, top-k classification, EgoMCQ, or a narrator's captions."""
    dataset: Name
    """Data set whose evaluation split is used."""
    stage: Name
    """Stage whose weights are evaluated."""
    frames: Count = 4
    """Frames per clip."""
    clips: Count = 1
    """Temporal views of a clip, averaged."""
    crops: Literal[1, 3] = 1
    """Spatial views of a clip, averaged."""
    batch_size: Count = 64
    """Clip views per batch."""
    precision: Precision = "fp32"
    """Arithmetic of the model; `bf16` and `fp16` are faster on a GPU and change figures a little. Changing it
    repeats no training that the evaluation validates."""

    @model_validator(mode="after")
    def _views_fit(self) -> Self:
        if self.clips * self.crops > 1 and not EVALUATIONS[self.kind].averages_views:
            raise ValueError(
                f"{self.kind} take one view of a clip; leave out clips and crops, or set them to 1"
            )
        return self

    def recipe(self) -> dict[str, Any]:
        """The settings that decide the result; without `fp32`, as in results from before this setting."""
        recipe = super().recipe()
        return {name: value for name, value in recipe.items() if (name, value) != ("precision", "fp32")}
