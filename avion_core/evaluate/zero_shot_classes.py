"""Zero-shot classification: which class's sentences is a clip nearest to? Figures in per cent.

LaViLa (Zhao et al. 2023), `eval_zeroshot.py`: the embeddings of a class's sentences are averaged and
normalised again, and a clip's scores are its cosines with the classes. Clips with several labels
(Charades-Ego) are measured by mAP: the mean over classes of the average precision of their clips.

Shapes: N clips, V views of a clip, M sentences, K classes, D numbers in an embedding, P pairs of a clip and
one of its classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]
LOWEST = -1.0
"""Score of a class without sentences: the lowest cosine."""


def class_sentences(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """The distinct sentences of one class: each name in each template, in place of its `{}`."""
    return list(dict.fromkeys(template.replace("{}", name) for name in names for template in templates))


def class_embeddings(text_embed_MD: Floats, class_of_M: Integers, classes: int) -> Floats:
    """The mean of each class's unit embeddings, of length 1: K,D. Zeros for a class without sentences."""
    units_MD = text_embed_MD / np.linalg.norm(text_embed_MD, axis=1, keepdims=True)
    sums_KD = np.zeros((classes, text_embed_MD.shape[1]), np.float64)
    np.add.at(sums_KD, class_of_M, units_MD)
    norms_K1 = np.linalg.norm(sums_KD, axis=1, keepdims=True)
    return (sums_KD / np.where(norms_K1 > 0, norms_K1, 1)).astype(np.float32)


def probabilities(scores_NK: Floats) -> Floats:
    """Softmax over the classes. It keeps each clip's ranking of classes, but not each class's of clips."""
    powers_NK = np.exp(scores_NK - scores_NK.max(1, keepdims=True))
    return np.asarray(powers_NK / powers_NK.sum(1, keepdims=True))


@dataclass(frozen=True)
class Precisions:
    """The precision at each clip that has a class, in that class's ranking of all clips: P values."""

    clips: Integers
    classes: Integers
    values: Floats
    """Share of clips with the class among those that score as high or higher, 0…1."""

    def average(self) -> dict[int, float]:
        """Average precision of each class that occurs."""
        occurring = np.unique(self.classes)
        return {int(k): float(self.values[self.classes == k].mean()) for k in occurring}


def precisions(scores_NK: Floats, labels_NK: npt.NDArray[np.bool_]) -> Precisions:
    """The precisions of which average precision is the mean.

    Clips without any label do not count: the original ranks them last in every class. Clips of equal score
    share a rank, so that a constant model has the chance level. Raises ValueError when shapes differ, a score
    is not finite, or no clip has a label.
    """
    if scores_NK.shape != labels_NK.shape or scores_NK.ndim != 2:
        raise ValueError(f"mAP: scores {scores_NK.shape} and labels {labels_NK.shape} do not fit together")
    if not np.isfinite(scores_NK).all():
        raise ValueError("mAP: a score is not a finite number")
    if not labels_NK.any():
        raise ValueError("mAP: no clip has a label")
    labelled_L = np.flatnonzero(labels_NK.any(1))
    parts = []
    for k in np.flatnonzero(labels_NK.any(0)):
        score_L, own_L = scores_NK[labelled_L, k], labels_NK[labelled_L, k]
        own_P = score_L[own_L]
        ahead_P = len(score_L) - np.searchsorted(np.sort(score_L), own_P)
        right_P = len(own_P) - np.searchsorted(np.sort(own_P), own_P)
        parts.append((labelled_L[own_L], np.full(len(own_P), k), right_P / ahead_P))
    return Precisions(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def chance_precision(labels_NK: npt.NDArray[np.bool_]) -> float:
    """mAP of a model that scores all clips alike, 0…1: the mean over classes of their share of clips."""
    labelled_NK = labels_NK[labels_NK.any(1)]
    return float(labelled_NK.mean(0)[labelled_NK.any(0)].mean())
