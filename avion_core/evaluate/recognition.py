"""Top-k accuracy of classification, in per cent, and that of a constant answer.

On EPIC-KITCHENS-100 one head predicts the action, a pair of verb and noun; the probability of a verb
(or noun) is the sum over the actions that contain it (LaViLa, AVION), unless the model has a head for it
(LaViLa's of three heads).

Shapes: N clips, K classes, G groups (verbs or nouns).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

UNKNOWN = -1
"""Label of a clip whose class the model does not have; every prediction is wrong."""


def among_top(
    scores_NK: npt.NDArray[np.floating], labels_N: npt.NDArray[np.integer], k: int = 1
) -> npt.NDArray[np.bool_]:
    """Whether each clip's label is among its k highest scores, bool[N].

    Ties count as higher scores, so a constant model gains nothing from the order of classes. A label
    outside 0…K−1 is always wrong. Raises ValueError when the shapes differ, there is no clip, or a score
    is not finite.
    """
    if scores_NK.ndim != 2 or labels_N.shape != (len(scores_NK),) or not len(scores_NK):
        raise ValueError(f"top-{k}: scores {scores_NK.shape} and labels {labels_N.shape} do not fit together")
    if not np.isfinite(scores_NK).all():
        raise ValueError(f"top-{k}: a score is not a finite number")
    known_N = (labels_N >= 0) & (labels_N < scores_NK.shape[1])
    own_N = scores_NK[np.arange(len(scores_NK)), np.where(known_N, labels_N, 0)]
    ahead_N = (scores_NK >= own_N[:, None]).sum(1) - 1  # without the label itself
    return np.asarray(known_N & (ahead_N < k))


def constant_accuracy(labels_N: npt.NDArray[np.integer], k: int = 1) -> float:
    """Per cent that the best constant answer gets right: the k most frequent classes of the split."""
    if not len(labels_N):
        raise ValueError(f"top-{k}: no clip, so no chance level")
    counts = np.unique(labels_N, return_counts=True)[1]
    return 100 * float(np.sort(counts)[::-1][:k].sum() / len(labels_N))


def parse_actions(actions: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Verb and noun class of each action written `verb:noun`, two int64[K].

    Raises ValueError for a name of another form.
    """
    try:
        pairs = [(int(verb), int(noun)) for verb, noun in (action.split(":") for action in actions)]
    except ValueError:
        raise ValueError("an action class must be written 'verb:noun', two class numbers") from None
    verbs, nouns = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(verbs, np.int64), np.array(nouns, np.int64)


def marginal(
    probabilities_NK: npt.NDArray[np.floating], group_of_K: npt.NDArray[np.integer]
) -> npt.NDArray[np.float64]:
    """Probability of each group (verb or noun), float64 N,G: the sum over the actions that contain it.

    `group_of_K` is each action's group; G is one more than the largest.
    """
    groups = int(group_of_K.max()) + 1
    member_KG = np.zeros((len(group_of_K), groups))
    member_KG[np.arange(len(group_of_K)), group_of_K] = 1
    return np.asarray(probabilities_NK, np.float64) @ member_KG


def action_right(
    probabilities_NK: npt.NDArray[np.floating],
    actions: Sequence[str],
    *,
    labels_N: npt.NDArray[np.integer],
    verbs_N: npt.NDArray[np.integer],
    nouns_N: npt.NDArray[np.integer],
    own_heads: Mapping[str, npt.NDArray[np.floating]] | None = None,
) -> dict[str, npt.NDArray[np.bool_]]:
    """Whether each clip is right, by figure: `verb_top1`, `noun_top1`, `action_top1`.

    `own_heads` are the probabilities of heads for `verb` and `noun`, where the model has them. A clip whose
    action the model does not have (`UNKNOWN`) is wrong as an action and still counts for its verb and noun.
    Raises ValueError when the model's classes are not these actions.
    """
    if probabilities_NK.shape[1:] != (len(actions),):
        raise ValueError(
            f"the model has {probabilities_NK.shape[1]} classes, the data {len(actions)} actions"
        )
    right = {}
    for name, labels, group_of_K in zip(
        ("verb", "noun"), (verbs_N, nouns_N), parse_actions(actions), strict=True
    ):
        own = (own_heads or {}).get(name)
        right[f"{name}_top1"] = among_top(
            marginal(probabilities_NK, group_of_K) if own is None else own, labels
        )
    return {**right, "action_top1": among_top(probabilities_NK, labels_N)}


def class_right(
    probabilities_NK: npt.NDArray[np.floating], labels_N: npt.NDArray[np.integer]
) -> dict[str, npt.NDArray[np.bool_]]:
    """Whether each clip is right, by figure: `top1`, `top5`."""
    return {f"top{k}": among_top(probabilities_NK, labels_N, k) for k in (1, 5)}


def action_classes(
    verbs_N: npt.NDArray[np.integer], nouns_N: npt.NDArray[np.integer]
) -> dict[str, npt.NDArray[np.integer]]:
    """Class of each clip by figure; actions are numbered by their pair, so that those unknown to the model
    stay distinct."""
    pairs_N = np.unique(np.stack([verbs_N, nouns_N]), axis=1, return_inverse=True)[1].reshape(-1)
    return {"verb_top1": verbs_N, "noun_top1": nouns_N, "action_top1": pairs_N}


def action_chance(verbs_N: npt.NDArray[np.integer], nouns_N: npt.NDArray[np.integer]) -> dict[str, float]:
    """Per cent that the best constant answer reaches in each figure of `action_right`."""
    return {name: constant_accuracy(own_N) for name, own_N in action_classes(verbs_N, nouns_N).items()}


def class_chance(labels_N: npt.NDArray[np.integer]) -> dict[str, float]:
    """Per cent that the best constant answer reaches in each figure of `class_right`."""
    return {f"top{k}": constant_accuracy(labels_N, k) for k in (1, 5)}


def accuracy_figures(
    right: Mapping[str, npt.NDArray[np.bool_]], chance: Mapping[str, float]
) -> dict[str, Any]:
    """Per cent of clips that are right, by figure, and `chance`."""
    return {name: 100 * float(np.mean(right_N)) for name, right_N in right.items()} | {"chance": chance}
