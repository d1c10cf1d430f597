"""Relevancy of a sentence to a clip: how much their verbs and nouns overlap.

The measure of EPIC-KITCHENS-100 multi-instance retrieval (Joint-Part-of-Speech-Embeddings, Wray et
al. 2019; Damen et al. 2022, section 4.6): the mean of the verb's and the nouns' intersection over
union. It comes from class numbers alone, so no published matrix has to be downloaded.

Shapes: N items on the left (clips), M on the right (sentences).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

ROWS_AT_ONCE = 1024
"""Rows filled at a time, which bounds the extra memory."""


def relevancy_matrix(
    verbs_N: npt.ArrayLike,
    nouns_N: Sequence[Iterable[int]],
    verbs_M: npt.ArrayLike,
    nouns_M: Sequence[Iterable[int]],
) -> npt.NDArray[np.float32]:
    """Relevancy of every pair, float32 N,M in 0…1: the mean of verb equality and noun-set IoU.

    `verbs` are class numbers, `nouns` the class numbers of each item's nouns (order and repeats do
    not matter). Two empty noun sets are equal, so their IoU is 1. A value is exactly 1 when verb and
    nouns agree. Raises ValueError when verbs and nouns differ in length.
    """
    left, right = np.asarray(verbs_N), np.asarray(verbs_M)
    for verbs, nouns in ((left, nouns_N), (right, nouns_M)):
        if verbs.shape != (len(nouns),):
            raise ValueError(
                f"relevancy: {verbs.shape} verbs but {len(nouns)} noun lists; one of each an item"
            )
    sets_N, set_N = _distinct(nouns_N)
    sets_M, set_M = _distinct(nouns_M)
    iou_UV = _iou(sets_N, sets_M)
    relevancy_NM = np.empty((len(left), len(right)), np.float32)
    for start in range(0, len(left), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        np.take(iou_UV[set_N[rows]], set_M, axis=1, out=relevancy_NM[rows], mode="clip")
        relevancy_NM[rows] += left[rows, None] == right
    relevancy_NM *= 0.5
    return relevancy_NM


def equal_text_relevancy(texts_N: Sequence[str], texts_M: Sequence[str]) -> npt.NDArray[np.float32]:
    """Relevancy without classes, float32 N,M: 1 where the texts are equal, else 0."""
    number: dict[str, int] = {}
    left, right = (
        np.array([number.setdefault(text, len(number)) for text in texts], np.int64)
        for texts in (texts_N, texts_M)
    )
    return (left[:, None] == right).astype(np.float32)


def _distinct(nouns: Sequence[Iterable[int]]) -> tuple[list[frozenset[int]], npt.NDArray[np.int64]]:
    """The distinct noun sets, and the index of each item's set; many items share one."""
    number: dict[frozenset[int], int] = {}
    set_ids = [number.setdefault(frozenset(int(noun) for noun in item), len(number)) for item in nouns]
    return list(number), np.array(set_ids, np.int64)


def _iou(sets_U: list[frozenset[int]], sets_V: list[frozenset[int]]) -> npt.NDArray[np.float32]:
    """Intersection over union of every two sets, U,V."""
    column = {noun: index for index, noun in enumerate(sorted(frozenset().union(*sets_U, *sets_V)))}
    holds_UC, holds_VC = _indicator(sets_U, column), _indicator(sets_V, column)
    shared_UV = holds_UC @ holds_VC.T
    union_UV = holds_UC.sum(1)[:, None] + holds_VC.sum(1) - shared_UV
    # counts are small whole numbers, exact in float32: equal sets give 1 exactly
    return np.divide(shared_UV, union_UV, out=np.ones_like(shared_UV), where=union_UV > 0)


def _indicator(sets: list[frozenset[int]], column: Mapping[int, int]) -> npt.NDArray[np.float32]:
    holds = np.zeros((len(sets), len(column)), np.float32)
    for row, members in enumerate(sets):
        holds[row, [column[member] for member in members]] = 1
    return holds
