"""Validation during training: one of the config's evaluations, on a schedule."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from avion_core.config import EvaluationSettings, known
from avion_core.data.chunks import ChunkIndex
from avion_core.evaluate.figures import numbers
from avion_core.evaluate.subject import Subject, measure
from avion_core.models.base import VideoModel
from avion_core.models.store import ModelDescription

NOT_MEASURED = {
    "chance",
    "bad_clips",
    "clips_in_table",
    "clips_without_labels",
    "classes",
    "classes_without_sentences",
    "videos",
}
"""Figures of an evaluation that do not depend on the model."""


@dataclass(frozen=True)
class Validation:
    """A validation that the engine runs on a schedule."""

    measure: Callable[[], Mapping[str, float]]
    """Called on rank 0 with the weights to publish in the model."""
    every_steps: int
    """Steps between validations; the last step is validated too."""
    best_metric: str | None = None
    """The result is the weights with the highest value of this figure; None: the last weights."""

    def rank(self, figures: Mapping[str, float]) -> float | None:
        """The deciding figure; None if it is not a number. Raises ValueError for an unknown name."""
        if self.best_metric is None:
            return None
        known([self.best_metric], figures, "best_metric")
        figure = figures[self.best_metric]
        return None if math.isnan(figure) else figure


@dataclass(frozen=True)
class ValidationData:
    """One of the config's evaluations and its files."""

    settings: EvaluationSettings
    files: Mapping[str, Path]
    """By role: `chunks`, `clips` and what else the kind reads."""

    def measure(
        self,
        model: VideoModel,
        description: ModelDescription,
        *,
        title: str,
        device: torch.device,
        clip_timeout_seconds: float = 60.0,
        max_bad_share: float = 0.05,
    ) -> dict[str, float]:
        """Figures of the model with its number of frames in training, by dotted names (`mAP.mean`)."""
        own = {
            "frames": description.frames,
            "threads": torch.get_num_threads(),
            "clip_timeout_seconds": clip_timeout_seconds,
            "max_bad_share": max_bad_share,
        }
        subject = Subject(
            title=f"{title}: validation",
            settings=self.settings.model_copy(update=own),
            model=model,
            description=description,
            chunks=ChunkIndex.load(self.files["chunks"]),
            files=self.files,
            device=device,
        )
        return flat(measure(subject).figures)


def best_and_last(log: Path, best_metric: str | None) -> dict[str, dict[str, Any]]:
    """`{"last": {"step", "figures"}}` of a stage's log, and with `best_metric` also the published "best"."""
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    measured = [{"step": x["step"], "figures": x["validation"]} for x in lines if "validation" in x]
    found = {"last": measured[-1]} if measured else {}
    ranked = [entry for entry in measured if best_metric and entry["figures"].get(best_metric) is not None]
    if ranked:
        found["best"] = max(ranked, key=lambda entry: entry["figures"][best_metric])
    return found


def flat(figures: Mapping[str, Any]) -> dict[str, float]:
    """Figures by dotted names, without NOT_MEASURED."""
    return dict(numbers({name: value for name, value in figures.items() if name not in NOT_MEASURED}))
