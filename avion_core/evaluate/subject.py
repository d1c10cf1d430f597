"""What an evaluator gets and gives: a model with the data to measure it on, and the figures that it finds.

Shapes: N clips that could be read, M sentences, Q questions of C choices, K classes, D numbers in an
embedding; A all clips or questions of a table, readable or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avion_core.config import EvaluationSettings
from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import ClipTable
from avion_core.data.dataset import ClipDataset, View
from avion_core.data.tokenizer import tokenize
from avion_core.evaluate.bootstrap import Scores
from avion_core.evaluate.inference import Inference, over_clips, over_texts, unit_length
from avion_core.evaluations import EVALUATIONS
from avion_core.models.architecture import MODELS
from avion_core.models.base import Embedder, VideoModel
from avion_core.models.store import ModelDescription
from avion_core.registry import load

Arrays = dict[str, npt.NDArray[Any]]
Rows = npt.NDArray[np.integer[Any]]


class EvaluationError(ValueError):
    """An evaluation cannot be made of this model or data. The message says what does not fit."""


@dataclass(frozen=True)
class Measurement:
    """What an evaluator found."""

    figures: dict[str, Any]
    """Goes into metrics.json."""
    outputs: Arrays
    """Goes into outputs.safetensors."""
    scores: Scores
    """What the figures are means of; what could not be read does not count."""
    strict: Scores
    """The same where it counts as wrong."""
    header: dict[str, str] = field(default_factory=dict)
    """Texts that belong to the outputs."""


@dataclass(frozen=True)
class Subject:
    """A model, the data to measure it on, and how its clips are read."""

    title: str
    settings: EvaluationSettings
    model: VideoModel
    description: ModelDescription
    chunks: ChunkIndex
    clips: Path
    sentences: Path | None
    classes: Path | None
    device: torch.device

    def embedder(self) -> Embedder:
        """The model, which must embed videos and texts. Raises EvaluationError."""
        if MODELS[self.description.kind].output == "embeddings":
            return cast(Embedder, self.model)
        raise EvaluationError(
            f"{self.title}: {self.settings.kind} compares videos with texts and needs a dual encoder; "
            f"stage '{self.settings.stage}' is a {self.description.kind}"
        )

    def classifier(self) -> VideoModel:
        """The model, which must classify. Raises EvaluationError."""
        if MODELS[self.description.kind].output == "classes":
            return self.model
        raise EvaluationError(
            f"{self.title}: {self.settings.kind} needs a stage with the task 'classification'; "
            f"stage '{self.settings.stage}' is a {self.description.kind}"
        )

    def embed_clips(self, clips: ClipTable, encoder: Embedder) -> Inference:
        """Unit embeddings of clips, the mean over views."""
        found = self._over(clips, lambda frames: encoder.encode_video(encoder.normalise(frames)))
        return Inference(found.rows, unit_length(found.outputs), found.bad)

    def classify_clips(self, clips: ClipTable, model: VideoModel) -> Inference:
        """Class probabilities of clips, the mean over views."""
        return self._over(clips, lambda frames: model(model.normalise(frames)).float().softmax(-1))

    def embed_texts(self, texts: list[str], encoder: Embedder) -> npt.NDArray[np.float32]:
        """Unit embeddings M,D of sentences."""
        config = encoder.config
        tokens_ML = tokenize(texts, config.context_length, tokenizer=config.tokenizer)
        return over_texts(encoder.encode_text, tokens_ML, device=self.device)

    def _over(self, clips: ClipTable, forward: Callable[[Tensor], Tensor]) -> Inference:
        dataset = ClipDataset(clips, self.chunks, evaluation_view(self.settings, self.description))
        dataset.check_length(self.title)
        return over_clips(
            forward,
            dataset,
            clips,
            views=self.settings.clips * self.settings.crops,
            batch_size=self.settings.batch_size,
            threads=self.settings.threads,
            clip_timeout_s=self.settings.clip_timeout_seconds,
            max_bad_share=self.settings.max_bad_share,
            device=self.device,
            title=self.title,
        )


class Evaluator(Protocol):
    """Measures one subject."""

    def __init__(self, subject: Subject) -> None: ...

    def run(self) -> Measurement:
        """Read every clip once and compute the figures."""


def measure(subject: Subject) -> Measurement:
    """What the evaluator of the subject's kind of evaluation finds."""
    evaluator: Evaluator = load(EVALUATIONS[subject.settings.kind].evaluator)(subject)
    return evaluator.run()


def evaluation_view(settings: EvaluationSettings, description: ModelDescription) -> View:
    """How clips are read: as the stage sampled them, without chance.

    Raises EvaluationError when the description does not say how.
    """
    sampling, stride = description.sampling, description.stride
    if sampling is None or stride is None:
        missing = " and ".join(name for name in ("sampling", "stride") if getattr(description, name) is None)
        raise EvaluationError(
            f"the model of stage '{settings.stage}' does not say how it samples frames; "
            f"its model.json needs {missing}"
        )
    return View(
        frames=settings.frames,
        sampling=sampling,
        stride=stride,
        image_size_px=description.image_size_px,
        crop="center",
        crop_scale=(1.0, 1.0),
        horizontal_flip=0.0,
        rand_augment=None,
        random_erasing=0.0,
        clips=settings.clips,
        crops=settings.crops,
        training=False,
    )


def filled(values: npt.NDArray[Any], places: Rows, count: int, rest: float) -> npt.NDArray[np.float64]:
    """`values` at their places among `count`, `rest` elsewhere."""
    filled = np.full(count, rest, np.float64)
    filled[places] = values
    return filled


def video_numbers(clips: ClipTable) -> Rows:
    """Each clip's video as a number."""
    return clips.arrow().column("video_id").combine_chunks().dictionary_encode().indices.to_numpy()


def clip_counts(clips: ClipTable, found: Inference) -> dict[str, int]:
    """Clips that could be read, of how many, out of how many videos."""
    videos = len(np.unique(video_numbers(clips)[found.rows]))
    return {"clips": len(found.rows), "clips_in_table": len(clips), "videos": videos}
