"""Input and result of an evaluator: a model with its evaluation data, and the measured figures.

Shapes: B clips of T frames, N clips that could be read, M sentences, D numbers out of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avion_core.config import STAGE_TASKS, EvaluationSettings
from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import ClipTable
from avion_core.data.dataset import ClipDataset, View
from avion_core.data.tokenizer import tokenize
from avion_core.evaluate import inference
from avion_core.evaluate.bootstrap import Scores
from avion_core.evaluate.inference import Inference, over_texts, unit_length
from avion_core.evaluations import EVALUATIONS
from avion_core.models.architecture import MODELS
from avion_core.models.base import Embedder, VideoModel
from avion_core.models.narrator import Narrator
from avion_core.models.precision import autocast
from avion_core.models.store import ModelDescription, load_model
from avion_core.registry import load

Arrays = dict[str, npt.NDArray[Any]]
Rows = npt.NDArray[np.integer[Any]]


class EvaluationError(ValueError):
    """Model, data and settings of an evaluation do not match; the message says where."""


@dataclass(frozen=True)
class Measurement:
    """Result of an evaluator."""

    figures: dict[str, Any]
    """Content of metrics.json."""
    outputs: Arrays
    """Arrays for outputs.safetensors."""
    scores: Scores
    """Scores that the figures average; what could not be read does not count."""
    strict: Scores
    """The same, with what could not be read counted as wrong."""
    header: dict[str, str] = field(default_factory=dict)
    """Metadata of outputs.safetensors."""


@dataclass(frozen=True)
class Subject:
    """A model, the data to measure it on, and how its clips are read."""

    title: str
    settings: EvaluationSettings
    model: VideoModel
    description: ModelDescription
    chunks: ChunkIndex
    files: Mapping[str, Path]
    """Further files by their role in layouts: `clips` (clip or question table), `sentences` …"""
    device: torch.device
    limit: str = "the evaluation's max_bad_share"
    """Setting that limits the share of clips that cannot be read, for messages."""
    any_length: bool = False
    """Whether all clips may have fewer frames than the model takes."""

    def embedder(self) -> Embedder:
        """The model. Raises EvaluationError unless it embeds videos and texts."""
        return cast(Embedder, self._model_of("embeddings"))

    def classifier(self) -> VideoModel:
        """The model. Raises EvaluationError unless it is a classifier."""
        return self._model_of("classes")

    def narrator(self) -> Narrator:
        """The model. Raises EvaluationError unless it writes texts."""
        return cast(Narrator, self._model_of("texts"))

    def _model_of(self, output: str) -> VideoModel:
        if MODELS[self.description.kind].output == output:
            return self.model
        tasks = " or ".join(f"'{name}'" for name, task in STAGE_TASKS.items() if task.trains == output)
        raise EvaluationError(
            f"{self.title}: {self.settings.kind} needs a stage with the task {tasks}; "
            f"stage '{self.settings.stage}' is a {self.description.kind}"
        )

    def embed_clips(
        self, clips: ClipTable, encoder: Embedder, *, normalize: bool = True, mirror: bool = False
    ) -> Inference:
        """Embeddings of clips, averaged over views; with `normalize` of length 1, each view's too.

        With `mirror`, the mirror image of each view is a further view.
        """

        def forward(frames_BTHWC: Tensor, _: Sequence[int]) -> Tensor:
            views = (frames_BTHWC, frames_BTHWC.flip(3)) if mirror else (frames_BTHWC,)
            embeds = [encoder.encode_video(encoder.normalise(x), normalize=normalize) for x in views]
            return torch.stack(embeds).mean(0)

        found = self.over_clips(clips, forward)
        return replace(found, outputs=unit_length(found.outputs)) if normalize else found

    def classify_clips(self, clips: ClipTable, model: VideoModel) -> Inference:
        """Class probabilities of clips, of each head after another, averaged over views."""
        heads = list(self.description.heads.values())

        def forward(frames_BTHWC: Tensor, _: Sequence[int]) -> Tensor:
            logits_BK = model(model.normalise(frames_BTHWC)).float()
            return torch.cat([own.softmax(-1) for own in logits_BK.split(heads, dim=1)], dim=1)

        return self.over_clips(clips, forward)

    def embed_texts(
        self, texts: list[str], encoder: Embedder, *, normalize: bool = True
    ) -> npt.NDArray[np.float32]:
        """Embeddings M,D of sentences, of length 1 with `normalize`."""
        config = encoder.config
        tokens_ML = tokenize(texts, config.context_length, tokenizer=config.tokenizer)
        encode = self._in_precision(partial(encoder.encode_text, normalize=normalize))
        embeds_MD = over_texts(encode, tokens_ML, device=self.device)
        self.check_finite(embeds_MD)
        return embeds_MD

    def _in_precision(self, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`forward` in the arithmetic of the settings."""

        def forward_in_precision(*inputs: Any) -> Tensor:
            with autocast(self.device, self.settings.precision):
                return forward(*inputs)

        return forward_in_precision

    def over_clips(
        self,
        clips: ClipTable,
        forward: Callable[[Tensor, Sequence[int]], Tensor],
        *,
        pool: inference.Pool = "mean",
    ) -> Inference:
        """`forward` of clips as read for this evaluation (`inference.over_clips`)."""
        dataset = ClipDataset(clips, self.chunks, evaluation_view(self.settings, self.description))
        if not self.any_length:
            dataset.check_length(self.title)
        try:
            found = inference.over_clips(
                self._in_precision(forward),
                dataset,
                clips,
                views=self.settings.clips * self.settings.crops,
                batch_size=self.settings.batch_size,
                threads=self.settings.threads,
                clip_timeout_s=self.settings.clip_timeout_seconds,
                max_bad_share=self.settings.max_bad_share,
                limit=self.limit,
                device=self.device,
                title=self.title,
                pool=pool,
            )
        except torch.OutOfMemoryError as error:
            said = str(error).partition(" Of the allocated memory")[0]
            raise EvaluationError(
                f"{self.title}: a batch does not fit the device: lower batch_size, now "
                f"{self.settings.batch_size}. {said}"
            ) from None
        self.check_finite(found.outputs)
        return found

    def check_finite(self, outputs_ND: npt.NDArray[np.float32]) -> None:
        """Raise EvaluationError for NaN, which would be ranked like any other number."""
        if not np.isfinite(outputs_ND).all():
            precision = self.settings.precision
            way_out = "set precision to bf16 or fp32" if precision == "fp16" else "look at the stage's log"
            raise EvaluationError(
                f"{self.title}: the model's outputs are not finite in {precision}; {way_out}"
            )


def unlisted_subject(
    model: Path, settings: EvaluationSettings, *, title: str, chunks: ChunkIndex, limit: str
) -> Subject:
    """The model of a folder on its device, for clips that no evaluation lists, read as in its training.

    `limit` is the setting behind `max_bad_share`, for messages.
    """
    torch.set_num_threads(settings.threads)
    network, description = load_model(model)
    device = inference.choose_device(settings.gpus)
    return Subject(
        title=title,
        settings=settings.model_copy(update={"frames": description.frames}),
        model=network.to(device),
        description=description,
        chunks=chunks,
        files={},
        device=device,
        limit=limit,
        any_length=True,
    )


class Evaluator(Protocol):
    """Measures one subject."""

    def __init__(self, subject: Subject) -> None: ...

    def run(self) -> Measurement:
        """Read every clip once and compute the figures."""


def measure(subject: Subject) -> Measurement:
    """Run the evaluator for the subject's kind of evaluation. Raises EvaluationError if it lacks a file."""
    kind = EVALUATIONS[subject.settings.kind]
    for name in kind.files:
        if name not in subject.files:
            raise EvaluationError(f"{subject.title}: {subject.settings.kind} needs the file '{name}'")
    evaluator: Evaluator = load(kind.evaluator)(subject)
    return evaluator.run()


def evaluation_view(settings: EvaluationSettings, description: ModelDescription) -> View:
    """The view of a clip in the stage's or the evaluation's own sampling, without randomness.

    Raises EvaluationError when the description lacks the sampling.
    """
    sampling = settings.own_sampling.get("sampling", description.sampling)
    stride = settings.own_sampling.get("stride", description.stride)
    if sampling is None or stride is None:
        missing = " and ".join(
            name for name, value in (("sampling", sampling), ("stride", stride)) if value is None
        )
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
    """An array of length `count` with `values` at `places` and `rest` elsewhere."""
    filled = np.full(count, rest, np.float64)
    filled[places] = values
    return filled


def video_numbers(clips: ClipTable) -> Rows:
    """Each clip's video as a number."""
    return clips.arrow().column("video_id").combine_chunks().dictionary_encode().indices.to_numpy()


def clip_counts(clips: ClipTable, found: Inference) -> dict[str, int]:
    """Counts of readable clips, of all clips, and of the readable clips' videos."""
    videos = len(np.unique(video_numbers(clips)[found.rows]))
    return {"clips": len(found.rows), "clips_in_table": len(clips), "videos": videos}
