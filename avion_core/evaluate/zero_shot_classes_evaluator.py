"""Zero-shot classification evaluator: top-1, top-5 and class mean, or mAP for clips with several labels.

Shapes: B clips of T frames, N clips that could be read, M sentences, K classes, D numbers in an embedding;
A all clips of a table, readable or not; P pairs of a clip and one of its classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avion_core.config.evaluations import ZeroShotClassesSettings
from avion_core.data.clips import ClipTable
from avion_core.evaluate.bootstrap import Scores
from avion_core.evaluate.inference import Inference
from avion_core.evaluate.recognition import accuracy_figures, class_chance, class_right
from avion_core.evaluate.recognition_evaluator import clip_scores
from avion_core.evaluate.subject import (
    Arrays,
    EvaluationError,
    Measurement,
    Subject,
    clip_counts,
    video_numbers,
)
from avion_core.evaluate.zero_shot_classes import (
    LOWEST,
    Floats,
    chance_precision,
    class_embeddings,
    class_sentences,
    precisions,
    probabilities,
)
from avion_core.files import read_json
from avion_core.layouts import label_columns
from avion_core.models.base import Embedder
from avion_core.models.precision import products


class ZeroShotClasses:
    """Clips classified by the cosines of their embeddings with those of the classes' sentences.

    Outputs: `rows_N, scores_NK`, and `labels_N`, or `labels_NK` for clips with several labels.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.settings = cast(ZeroShotClassesSettings, subject.settings)

    def run(self) -> Measurement:
        encoder = self.subject.embedder()
        clips = ClipTable.load(self.subject.files["clips"])
        names = self._class_names()
        labels = self._labels(clips, classes=len(names))
        sentences = self._sentences(names, clips)
        class_embed_KD = self._class_embeddings(sentences, encoder)
        found = self._cosines(clips, class_embed_KD, encoder)
        scores_NK = found.outputs
        scores_NK[:, [not own for own in sentences]] = LOWEST
        views = self.settings.clips * self.settings.crops
        if self.settings.softmax is True or (self.settings.softmax == "auto" and views > 1):
            scores_NK = probabilities(scores_NK)
        measure = self._several_labels if labels.ndim == 2 else self._one_label
        measured = measure(clips, found, scores_NK, labels)
        measured.figures.update(
            {
                **clip_counts(clips, found),
                "classes": len(sentences),
                "classes_without_sentences": sum(not own for own in sentences),
                "bad_clips": found.bad_clips(),
            }
        )
        return measured

    def _class_names(self) -> list[str]:
        """The names of the classes. Raises EvaluationError for a class list of another label."""
        path = self.subject.files["classes"]
        lists, columns = read_json(path), label_columns()
        label = next((name for name in lists if columns.get(name) == "label"), None)
        if label is None or not lists[label]:
            raise EvaluationError(f"{path}: it lists no classes of the column 'label'; annotate again")
        return [str(name) for name in lists[label]]

    def _labels(self, clips: ClipTable, *, classes: int) -> npt.NDArray[Any]:
        """Each clip's class, integers A, or where it may have several whether it has each, bool A,K.

        Raises EvaluationError for a class that is not listed, and if no clip has any.
        """
        several = clips.has("labels")
        labels = (
            [clips.labels(row) for row in range(len(clips))] if several else clips.column("label")[:, None]
        )
        numbers = np.concatenate([np.asarray(own, np.int64) for own in [[], *labels]])
        if not len(numbers):
            raise EvaluationError(
                f"{self.subject.title}: no clip in {self.subject.files['clips']} has a class"
            )
        if numbers.min() < 0 or numbers.max() >= classes:
            raise EvaluationError(
                f"{self.subject.title}: the clips' classes go from {numbers.min()} to {numbers.max()}, but "
                f"{self.subject.files['classes']} lists {classes}; annotate again"
            )
        if not several:
            return numbers
        labels_AK = np.zeros((len(clips), classes), np.bool_)
        labels_AK[np.repeat(np.arange(len(clips)), [len(own) for own in labels]), numbers] = True
        return labels_AK

    def _sentences(self, names: list[str], clips: ClipTable) -> list[list[str]]:
        """The sentences of each class: of its name, or of its narrations if there is a table of them."""
        texts = [[name] for name in names]
        if "narrations" in self.subject.files:
            texts = [[] for _ in names]
            for table in (ClipTable.load(self.subject.files["narrations"]), clips):
                for row, number in enumerate(table.column("label")):
                    texts[number].append(table.texts(row)[0])
        return [class_sentences(own, self.settings.templates) for own in texts]

    def _class_embeddings(self, sentences: list[list[str]], encoder: Embedder) -> Floats:
        every = [text for own in sentences for text in own]
        class_of_M = np.repeat(np.arange(len(sentences)), [len(own) for own in sentences])
        text_embed_MD = self.subject.embed_texts(every, encoder)
        return class_embeddings(text_embed_MD, class_of_M, len(sentences))

    def _cosines(self, clips: ClipTable, class_embed_KD: Floats, encoder: Embedder) -> Inference:
        """Cosines of clips and classes, pooled over the views: N,K."""
        classes_DK = torch.from_numpy(class_embed_KD.T).to(self.subject.device)

        def forward(frames_BTHWC: Tensor, _: Sequence[int]) -> Tensor:
            return products(encoder.encode_video(encoder.normalise(frames_BTHWC)).float(), classes_DK)

        return self.subject.over_clips(clips, forward, pool=self.settings.pool)

    def _one_label(
        self, clips: ClipTable, found: Inference, scores_NK: Floats, labels_A: npt.NDArray[Any]
    ) -> Measurement:
        rows = found.rows
        right = class_right(scores_NK, labels_A[rows])
        scores, strict = (
            clip_scores(clips, rows, right, {"top1": labels_A}, unread) for unread in (np.nan, 0)
        )
        chance = class_chance(labels_A[rows])
        chance |= {name: 100 / scores.counts()[name] for name in scores.classes}
        figures = accuracy_figures(right, chance)
        figures |= {name: scores.values()[name] for name in scores.classes}
        outputs: Arrays = {"rows_N": rows, "scores_NK": scores_NK, "labels_N": labels_A[rows]}
        return Measurement(figures, outputs, scores, strict)

    def _several_labels(
        self, clips: ClipTable, found: Inference, scores_NK: Floats, labels_AK: npt.NDArray[Any]
    ) -> Measurement:
        rows, labels_NK = found.rows, labels_AK[found.rows]
        ranked = precisions(scores_NK, labels_NK)
        precision_AK = np.full(labels_AK.shape, np.nan)
        precision_AK[rows[ranked.clips], ranked.classes] = 100 * ranked.values
        clips_P, classes_P = np.nonzero(labels_AK)
        scores, strict = (
            Scores(
                clips_P,
                video_numbers(clips)[clips_P],
                {"mAP": np.nan_to_num(precision_AK[clips_P, classes_P], nan=unread)},
                {"mAP": classes_P},
            )
            for unread in (np.nan, 0)
        )
        chance = {"mAP": 100 * chance_precision(labels_NK)}
        figures = {"mAP": scores.values()["mAP"], "chance": chance}
        figures["clips_without_labels"] = int((~labels_NK.any(1)).sum())
        outputs: Arrays = {"rows_N": rows, "scores_NK": scores_NK, "labels_NK": labels_NK}
        return Measurement(figures, outputs, scores, strict)
