"""What is measured of each kind of model: one small evaluator a kind, whose metric is pure arrays.

Shapes: N clips that could be read, M sentences, Q questions of C choices, K classes, D numbers in an
embedding; A all clips or questions of a table, readable or not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avion_core.config import EvaluationSettings, known
from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import ClipTable, Question, Sentences, load_questions
from avion_core.data.dataset import ClipDataset, View
from avion_core.data.tokenizer import tokenize
from avion_core.evaluate.bootstrap import Scores
from avion_core.evaluate.inference import Inference, over_clips, over_texts, unit_length
from avion_core.evaluate.multiple_choice import answered_right, choice_figures, choice_scores
from avion_core.evaluate.recognition import (
    accuracy_figures,
    action_chance,
    action_classes,
    action_right,
    class_chance,
    class_right,
)
from avion_core.evaluate.relevancy import equal_text_relevancy, relevancy_matrix
from avion_core.evaluate.retrieval import (
    RetrievalScores,
    chance_figures,
    count_unreadable,
    score_retrieval,
    sentence_clips,
)
from avion_core.files import read_json
from avion_core.models.architecture import MODELS
from avion_core.models.base import Embedder, VideoModel
from avion_core.models.store import ModelDescription

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
            f"{self.title}: recognition needs a stage with the task 'classification'; "
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


class Retrieval:
    """MIR: clips and sentences find each other by the cosine of their embeddings."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def run(self) -> Measurement:
        encoder = self.subject.embedder()
        clips = ClipTable.load(self.subject.clips)
        texts, relevancy = self._sentences(clips)
        videos = self.subject.embed_clips(clips, encoder)
        text_embed_MD = self.subject.embed_texts(texts, encoder)
        relevancy_NM = relevancy[videos.rows] if videos.bad else relevancy
        scores = score_retrieval(videos.outputs @ text_embed_MD.T, relevancy_NM)
        figures = {
            **scores.figures(),
            "chance": chance_figures(relevancy_NM),
            **_clip_counts(clips, videos),
            "sentences": len(texts),
            "bad_clips": videos.bad_clips(),
        }
        outputs: Arrays = {
            "rows_N": videos.rows,
            "video_embed_ND": videos.outputs,
            "text_embed_MD": text_embed_MD,
        }
        header = {"sentences": json.dumps(texts, ensure_ascii=False)}
        found = strict = _both_directions(clips, relevancy, scores, videos.rows)
        if videos.bad:
            counted = count_unreadable(scores, relevancy, videos.rows)
            strict = _both_directions(clips, relevancy, counted, np.arange(len(clips)))
        return Measurement(figures, outputs, found, strict, header)

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
        labels_A = clips.column("label" if label == "action" else label)
        if label == "action":
            verbs_A, nouns_A = clips.column("verb"), clips.column("noun")
            verbs_N, nouns_N = verbs_A[rows], nouns_A[rows]
            right = action_right(
                found.outputs, names, labels_N=labels_A[rows], verbs_N=verbs_N, nouns_N=nouns_N
            )
            chance = action_chance(verbs_N, nouns_N)
            classes = action_classes(verbs_A, nouns_A)
        else:
            right = class_right(found.outputs, labels_A[rows])
            chance = class_chance(labels_A[rows])
            classes = {"top1": labels_A}
        scores, strict = (_by_class(clips, rows, right, classes, unread) for unread in (np.nan, 0))
        chance |= {name: 100 / scores.counts()[name] for name in scores.classes}
        figures = {
            **accuracy_figures(right, chance),
            **{name: scores.values()[name] for name in scores.classes},
            **_clip_counts(clips, found),
            "bad_clips": found.bad_clips(),
        }
        outputs: Arrays = {"rows_N": rows, "probabilities_NK": found.outputs, "labels_N": labels_A[rows]}
        return Measurement(figures, outputs, scores, strict)

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
        encoder = self.subject.embedder()
        questions = load_questions(self.subject.clips)
        clips, choices_QC = distinct_choices(questions)
        videos = self.subject.embed_clips(clips, encoder)
        text_embed_QD = self.subject.embed_texts([question.text for question in questions], encoder)
        place = np.full(len(clips), -1)
        place[videos.rows] = np.arange(len(videos.rows))
        asked_Q = np.flatnonzero((place[choices_QC] >= 0).all(1))
        self._check_left_out(len(questions) - len(asked_Q), len(questions), videos)
        choice_embed_QCD = videos.outputs[place[choices_QC[asked_Q]]]
        similarity_QC = np.einsum("qcd,qd->qc", choice_embed_QCD, text_embed_QD[asked_Q])
        answers_A = np.array([question.answer for question in questions])
        types_A = np.array([question.type for question in questions])
        figures = {
            **choice_figures(similarity_QC, answers_A[asked_Q], types_A[asked_Q]),
            **_clip_counts(clips, videos),
            "questions": len(asked_Q),
            "questions_left_out": len(questions) - len(asked_Q),
            "bad_clips": videos.bad_clips(),
        }
        outputs: Arrays = {
            "similarity_QC": similarity_QC,
            "answers_Q": answers_A[asked_Q],
            "types_Q": types_A[asked_Q],
            "questions_Q": asked_Q,
        }
        right_Q = answered_right(similarity_QC, answers_A[asked_Q])
        answer_clips_A = choices_QC[np.arange(len(questions)), answers_A]
        scores, strict = (
            Scores(
                answer_clips_A,
                _video_numbers(clips)[answer_clips_A],
                choice_scores(_filled(100 * right_Q, asked_Q, len(questions), unread), types_A),
                {},
            )
            for unread in (np.nan, 0)
        )
        return Measurement(figures, outputs, scores, strict)

    def _check_left_out(self, left_out: int, questions: int, videos: Inference) -> None:
        """Every clip that cannot be read costs the questions that offer it."""
        allowed = self.subject.settings.max_bad_share
        if left_out > allowed * questions:
            raise EvaluationError(
                f"{self.subject.title}: {left_out} of {questions} questions have a choice that cannot be "
                f"read, beyond the share of {allowed:g} that max_bad_share allows; the last: "
                f"{videos.bad[-1].reason}. Repair the clips, or raise the evaluation's max_bad_share"
            )


EVALUATORS: dict[str, type[Evaluator]] = {
    "retrieval": Retrieval,
    "recognition": Recognition,
    "multiple_choice": MultipleChoice,
}
"""Every evaluator by the kind of evaluation."""


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


def _both_directions(
    clips: ClipTable, relevancy_AM: npt.NDArray[np.float32], scores: RetrievalScores, rows_N: Rows
) -> Scores:
    """Retrieval's scores for each clip of the table and each sentence; `scores` has those of some clips."""
    count, sentences = relevancy_AM.shape
    clips_Q = np.concatenate([np.arange(count), sentence_clips(relevancy_AM)])
    nothing_M = np.full(sentences, np.nan)
    queries: dict[str, npt.NDArray[Any]] = {}
    for metric, name in (("mAP", "average_precision"), ("nDCG", "ndcg")):
        forth_A = _filled(getattr(scores.video_to_text, name), rows_N, count, np.nan)
        back_M = getattr(scores.text_to_video, name)
        queries[f"{metric}.video_to_text"] = np.concatenate([forth_A, nothing_M])
        queries[f"{metric}.text_to_video"] = np.concatenate([np.full(count, np.nan), back_M])
    return Scores(clips_Q, _video_numbers(clips)[clips_Q], queries, {}, top=1.0)


def _by_class(
    clips: ClipTable,
    rows_N: Rows,
    right: Mapping[str, npt.NDArray[Any]],
    classes: Mapping[str, Rows],
    unread: float,
) -> Scores:
    """Recognition's scores for each clip of the table, and once more for their mean over classes."""
    scores = {name: _filled(100 * right_N, rows_N, len(clips), unread) for name, right_N in right.items()}
    means = {name: name.replace("top1", "class_mean_top1") for name in classes}
    scores |= {mean: scores[name] for name, mean in means.items()}
    by_class = {means[name]: class_A for name, class_A in classes.items()}
    return Scores(np.arange(len(clips)), _video_numbers(clips), scores, by_class)


def _filled(values: npt.NDArray[Any], places: Rows, count: int, rest: float) -> npt.NDArray[np.float64]:
    """`values` at their places among `count`, `rest` elsewhere."""
    filled = np.full(count, rest, np.float64)
    filled[places] = values
    return filled


def _video_numbers(clips: ClipTable) -> Rows:
    """Each clip's video as a number."""
    return clips.arrow().column("video_id").combine_chunks().dictionary_encode().indices.to_numpy()


def _clip_counts(clips: ClipTable, found: Inference) -> dict[str, int]:
    """Clips that could be read, of how many, out of how many videos."""
    videos = len(np.unique(_video_numbers(clips)[found.rows]))
    return {"clips": len(found.rows), "clips_in_table": len(clips), "videos": videos}


def _first_text(clips: ClipTable, row: int) -> str:
    texts = clips.texts(row)
    if not texts:
        where = f"clip {row} ({clips.video_id(row)} at {clips.start_s(row):g} s)"
        raise EvaluationError(f"retrieval: {where} has no text to be found by")
    return texts[0]
