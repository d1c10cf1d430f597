"""Evaluations: kinds, their figures, and one evaluation's settings."""

from __future__ import annotations

from typing import Any, Literal

from avion_core.config.base import Count, Name
from avion_core.config.jobs import EvaluationJob


def figure_names(kind: str, label: str = "") -> list[str]:
    """Figures of an evaluation of this kind, of a recognition by the label it predicts."""
    if kind == "retrieval":
        directions = ("video_to_text", "text_to_video", "mean")
        return [f"{figure}.{direction}" for figure in ("mAP", "nDCG") for direction in directions]
    if kind == "multiple_choice":
        return ["inter_video", "intra_video"]
    if label == "action":
        return [
            f"{name}_{figure}"
            for figure in ("top1", "class_mean_top1")
            for name in ("verb", "noun", "action")
        ]
    return ["top1", "top5", "class_mean_top1"]


class EvaluationSettings(EvaluationJob):
    """One evaluation of a trained stage."""

    kind: Literal["retrieval", "recognition", "multiple_choice"]
    """MIR, top-k classification, or EgoMCQ."""
    dataset: Name
    """Data set whose evaluation split is used."""
    stage: Name
    """Stage whose weights are evaluated."""
    frames: Count = 4
    """Frames a clip."""
    clips: Count = 1
    """Temporal views of a clip, averaged."""
    crops: Literal[1, 3] = 1
    """Spatial views of a clip, averaged."""
    batch_size: Count = 64
    """Clip views at once."""

    def recipe(self) -> dict[str, Any]:
        """The settings that decide the result."""
        return self.model_dump(mode="json", exclude=set(EvaluationJob.model_fields))

    def machine(self) -> dict[str, Any]:
        """The settings that only say how the job runs."""
        return self.model_dump(mode="json", include=set(EvaluationJob.model_fields))
