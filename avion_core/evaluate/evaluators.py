"""What is measured of each kind of model: one small evaluator a kind, whose metric is pure arrays.

Shapes: N clips that could be read, M sentences, Q questions of C choices, K classes, D numbers in an
embedding.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avion_core.config import EvaluationSettings, known
from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import ClipTable, Question, Sentences, load_questions
from avion_core.data.dataset import ClipDataset, View
from avion_core.data.tokenizer import tokenize
from avion_core.evaluate.inference import Inference, over_clips, over_texts, unit_length
from avion_core.evaluate.multiple_choice import choice_figures
from avion_core.evaluate.recognition import action_figures, class_figures
from avion_core.evaluate.relevancy import equal_text_relevancy, relevancy_matrix
from avion_core.evaluate.retrieval import chance_figures, score_retrieval
from avion_core.files import read_json
from avion_core.models.base import VideoModel
from avion_core.models.classifier import VideoClassifier
from avion_core.models.dual_encoder import DualEncoder
from avion_core.models.store import ModelDescription
from avion_core.models.videomae import VideoMAEClassifier

Arrays = dict[str, npt.NDArray[Any]]


class EvaluationError(ValueError):
    """An evaluation cannot be made of this model or data. The message says what does not fit."""


@dataclass(frozen=True)
class Measurement:
    """What an evaluator found."""

    figures: dict[str, Any]
    """Goes into metrics.json."""
    outputs: Arrays
    """Goes into outputs.safetensors."""
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

    def dual_encoder(self) -> DualEncoder:
        """The model, which must embed videos and texts. Raises EvaluationError."""
        if isinstance(self.model, DualEncoder):
            return self.model
        raise EvaluationError(
            f"{self.title}: {self.settings.kind} compares videos with texts and needs a dual encoder; "
            f"stage '{self.settings.stage}' is a {self.description.kind}"
        )

    def classifier(self) -> VideoClassifier | VideoMAEClassifier:
        """The model, which must classify. Raises EvaluationError."""
        if isinstance(self.model, VideoClassifier | VideoMAEClassifier):
            return self.model
        raise EvaluationError(
            f"{self.title}: recognition needs a stage with the task 'classification'; "
            f"stage '{self.settings.stage}' is a {self.description.kind}"
        )

    def embed_clips(self, clips: ClipTable, encoder: DualEncoder) -> Inference:
        """Unit embeddings of clips, the mean over views."""
        found = self._over(clips, lambda frames: encoder.encode_video(encoder.normalise(frames)))
        return Inference(found.rows, unit_length(found.outputs), found.bad)

    def classify_clips(self, clips: ClipTable, model: VideoClassifier | VideoMAEClassifier) -> Inference:
        """Class probabilities of clips, the mean over views."""
        return self._over(clips, lambda frames: model(model.normalise(frames)).float().softmax(-1))

    def embed_texts(self, texts: list[str], encoder: DualEncoder) -> npt.NDArray[np.float32]:
        """Unit embeddings M,D of sentences."""
        tokens_ML = tokenize(texts, encoder.config.text.context_length)
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
            device=self.device,
            title=self.title,
        )


class Evaluator(Protocol):
    """Measures one subject."""

    def __init__(self, subject: Subject) -> None: ...

    def run(self) -> Measurement:
        """Read every clip once and compute the figures."""


class Retrieval:
    """MIR: clips and sentences find each other by the cosine of their embeddings."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def run(self) -> Measurement:
        encoder = self.subject.dual_encoder()
        clips = ClipTable.load(self.subject.clips)
        texts, relevancy = self._sentences(clips)
        videos = self.subject.embed_clips(clips, encoder)
        text_embed_MD = self.subject.embed_texts(texts, encoder)
        relevancy_NM = relevancy[videos.rows] if videos.bad else relevancy
        scores = score_retrieval(videos.outputs @ text_embed_MD.T, relevancy_NM)
        figures = {
            **scores.figures(),
            "chance": chance_figures(relevancy_NM),
            "clips": len(videos.rows),
            "sentences": len(texts),
            "bad_clips": videos.bad_clips(),
        }
        outputs: Arrays = {
            "rows_N": videos.rows,
            "video_embed_ND": videos.outputs,
            "text_embed_MD": text_embed_MD,
            "average_precision_N": scores.video_to_text.average_precision,
            "average_precision_M": scores.text_to_video.average_precision,
        }
        return Measurement(figures, outputs, {"sentences": json.dumps(texts, ensure_ascii=False)})

    def _sentences(self, clips: ClipTable) -> tuple[list[str], npt.NDArray[np.float32]]:
        """The sentences to rank, and the relevancy of each to every clip, N,M.

        With a table of sentences, by verb and noun classes; without one, the clips' own distinct texts in
        the order in which they first appear, by equal text.
        """
        if self.subject.sentences is None:
            texts_N = [_first_text(clips, row) for row in range(len(clips))]
            texts_M = list(dict.fromkeys(texts_N))
            return texts_M, equal_text_relevancy(texts_N, texts_M)
        sentences = Sentences.load(self.subject.sentences)
        nouns_N = [clips.nouns(row) for row in range(len(clips))]
        return sentences.texts, relevancy_matrix(
            clips.column("verb"), nouns_N, sentences.verbs, sentences.nouns
        )


class Recognition:
    """Top-1 of verb, noun and action (EPIC-KITCHENS), or top-1 and top-5 of one label."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def run(self) -> Measurement:
        model = self.subject.classifier()
        clips = ClipTable.load(self.subject.clips)
        label = self.subject.description.label
        names = self._class_names(label)
        found = self.subject.classify_clips(clips, model)
        rows = found.rows
        labels_N = clips.column("label" if label == "action" else label)[rows]
        if label == "action":
            verbs_N, nouns_N = clips.column("verb")[rows], clips.column("noun")[rows]
            figures = action_figures(
                found.outputs, names, labels_N=labels_N, verbs_N=verbs_N, nouns_N=nouns_N
            )
        else:
            figures = class_figures(found.outputs, labels_N)
        figures |= {"clips": len(rows), "bad_clips": found.bad_clips()}
        outputs: Arrays = {"rows_N": rows, "probabilities_NK": found.outputs, "labels_N": labels_N}
        return Measurement(figures, outputs)

    def _class_names(self, label: str) -> list[str]:
        """Names of the model's classes, which must be as many as the head has outputs."""
        where, description = self.subject.title, self.subject.description
        if self.subject.classes is None:
            raise EvaluationError(f"{where}: recognition needs the data set's classes.json")
        classes = read_json(self.subject.classes)
        known([label], classes, f"{self.subject.classes}: classes of the stage's label")
        if len(classes[label]) != description.classes:
            raise EvaluationError(
                f"{where}: the model has {description.classes} classes of '{label}', "
                f"{self.subject.classes} has {len(classes[label])}; were they made from other data?"
            )
        return [str(name) for name in classes[label]]


class MultipleChoice:
    """EgoMCQ: the clip among five that a sentence describes."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def run(self) -> Measurement:
        encoder = self.subject.dual_encoder()
        questions = load_questions(self.subject.clips)
        clips, choices_QC = distinct_choices(questions)
        videos = self.subject.embed_clips(clips, encoder)
        text_embed_QD = self.subject.embed_texts([question.text for question in questions], encoder)
        place = np.full(len(clips), -1)
        place[videos.rows] = np.arange(len(videos.rows))
        asked_Q = np.flatnonzero((place[choices_QC] >= 0).all(1))
        choice_embed_QCD = videos.outputs[place[choices_QC[asked_Q]]]
        similarity_QC = np.einsum("qcd,qd->qc", choice_embed_QCD, text_embed_QD[asked_Q])
        answers_Q = np.array([question.answer for question in questions])[asked_Q]
        types_Q = np.array([question.type for question in questions])[asked_Q]
        figures = {
            **choice_figures(similarity_QC, answers_Q, types_Q),
            "clips": len(videos.rows),
            "questions": len(asked_Q),
            "questions_left_out": len(questions) - len(asked_Q),
            "bad_clips": videos.bad_clips(),
        }
        outputs: Arrays = {
            "similarity_QC": similarity_QC,
            "answers_Q": answers_Q,
            "types_Q": types_Q,
            "questions_Q": asked_Q,
        }
        return Measurement(figures, outputs)


EVALUATORS: dict[str, type[Evaluator]] = {
    "retrieval": Retrieval,
    "recognition": Recognition,
    "multiple_choice": MultipleChoice,
}
"""Every evaluator by the kind of evaluation."""


def evaluation_view(settings: EvaluationSettings, description: ModelDescription) -> View:
    """How clips are read: as the stage sampled them (`extras` of its description), without chance.

    Raises EvaluationError when the description does not say how.
    """
    missing = {"sampling", "stride"} - description.extras.keys()
    if missing:
        raise EvaluationError(
            f"the model of stage '{settings.stage}' does not say how it samples frames; "
            f"its model.json needs extras.{' and extras.'.join(sorted(missing))}"
        )
    return View(
        frames=settings.frames,
        sampling=description.extras["sampling"],
        stride=description.extras["stride"],
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


def distinct_choices(questions: list[Question]) -> tuple[ClipTable, npt.NDArray[np.int64]]:
    """The clips that occur among the choices, once each, and their rows by question and choice, Q,C.

    Raises EvaluationError when there is no question or they differ in their number of choices.
    """
    if len({len(question.video_ids) for question in questions}) != 1:
        raise EvaluationError("EgoMCQ: no questions, or they differ in their number of choices")
    number: dict[tuple[str, float, float], int] = {}
    rows_QC = [
        [number.setdefault(clip, len(number)) for clip in zip(q.video_ids, q.starts_s, q.ends_s, strict=True)]
        for q in questions
    ]
    names = ("video_id", "start_s", "end_s")
    clips = ClipTable.from_rows({**dict(zip(names, clip, strict=True)), "texts": []} for clip in number)
    return clips, np.array(rows_QC, np.int64)


def _first_text(clips: ClipTable, row: int) -> str:
    texts = clips.texts(row)
    if not texts:
        where = f"clip {row} ({clips.video_id(row)} at {clips.start_s(row):g} s)"
        raise EvaluationError(f"retrieval: {where} has no text to be found by")
    return texts[0]
