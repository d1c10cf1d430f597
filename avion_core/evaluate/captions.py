"""Captions against reference sentences: CIDEr and ROUGE-L. Pure.

CIDEr: Vedantam et al. 2015, as in the COCO caption evaluation (CIDEr-D: clipped counts, a length penalty,
times 10). Its weights come from the references of all clips given, so figures of different subsets cannot be
compared. ROUGE-L: Lin 2004, with the recall weight of the same evaluation. Both compare words in lower case;
a punctuation mark is a word, as in LaViLa's evaluation. METEOR is left out: it needs WordNet and tables of
paraphrases.

Shapes: N clips, each with one caption and at least one reference.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

LONGEST_NGRAM = 4
LENGTH_SIGMA = 6.0
"""Standard deviation of CIDEr's length penalty, in words."""
RECALL_WEIGHT = 1.2
"""Beta of ROUGE-L."""
CIDER_SCALE = 10.0
"""Highest CIDEr: every caption equals its only reference."""

_WORD = re.compile(r"\w+|[^\w\s]")

Ngram = tuple[str, ...]


def words_of(text: str) -> list[str]:
    """Words and punctuation marks in lower case."""
    return _WORD.findall(text.lower())


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
    """CIDEr of each caption, from 0 to CIDER_SCALE. Its mean is the corpus's.

    With a single clip it is 0, as every phrase is then in every clip. Raises ValueError for a clip without
    references.
    """
    _check(captions, references)
    counted = [[_ngrams(words_of(text)) for text in texts] for texts in references]
    clips_with = Counter(ngram for texts in counted for ngram in set().union(*texts))
    idf = {ngram: math.log(len(captions) / count) for ngram, count in clips_with.items()}
    unseen = math.log(max(len(captions), 1))

    def weighted(ngrams: Counter[Ngram]) -> _Weighted:
        return _Weighted(ngrams, {ngram: n * idf.get(ngram, unseen) for ngram, n in ngrams.items()})

    return np.array(
        [
            CIDER_SCALE
            * np.mean([_similarity(weighted(_ngrams(words_of(caption))), weighted(text)) for text in texts])
            for caption, texts in zip(captions, counted, strict=True)
        ]
    )


def rouge_l(captions: Sequence[str], references: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
    """ROUGE-L of each caption, from 0 to 1: the highest precision and recall over its references.

    Raises ValueError for a clip without references.
    """
    _check(captions, references)
    found = []
    for caption, texts in zip(captions, references, strict=True):
        words = words_of(caption)
        reference_words = [words_of(text) for text in texts]
        common = [longest_common_subsequence(words, text) for text in reference_words]
        precision = max(n / max(len(words), 1) for n in common)
        recall = max(n / max(len(text), 1) for n, text in zip(common, reference_words, strict=True))
        weight = RECALL_WEIGHT**2
        found.append((1 + weight) * precision * recall / (recall + weight * precision) if precision else 0.0)
    return np.array(found)


def longest_common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest sequence of words that both have in this order, with gaps."""
    best = [0] * (len(other) + 1)
    for word in one:
        before = best
        best = [0]
        for place, (diagonal, above) in enumerate(pairwise(before)):
            best.append(diagonal + 1 if word == other[place] else max(above, best[-1]))
    return best[-1]


class _Weighted:
    """The TF-IDF weights of a text's n-grams."""

    def __init__(self, ngrams: Counter[Ngram], weights: dict[Ngram, float]) -> None:
        self.weights = weights
        squares = [0.0] * LONGEST_NGRAM
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight**2
        self.norms = [math.sqrt(square) for square in squares]
        self.pairs = sum(count for ngram, count in ngrams.items() if len(ngram) == 2)
        """Number of word pairs, as the length."""


def _similarity(caption: _Weighted, reference: _Weighted) -> float:
    """Clipped cosine, averaged over the lengths of n-grams, with the length penalty; from 0 to 1."""
    products = [0.0] * LONGEST_NGRAM
    for ngram, weight in caption.weights.items():
        other = reference.weights.get(ngram, 0.0)
        products[len(ngram) - 1] += min(weight, other) * other
    norms = (one * other for one, other in zip(caption.norms, reference.norms, strict=True))
    cosines = [product / norm if norm else 0.0 for product, norm in zip(products, norms, strict=True)]
    penalty = math.exp(-((caption.pairs - reference.pairs) ** 2) / (2 * LENGTH_SIGMA**2))
    return penalty * sum(cosines) / LONGEST_NGRAM


def _ngrams(words: Sequence[str]) -> Counter[Ngram]:
    return Counter(
        tuple(words[start : start + length])
        for length in range(1, LONGEST_NGRAM + 1)
        for start in range(len(words) - length + 1)
    )


def _check(captions: Sequence[str], references: Iterable[Sequence[str]]) -> None:
    counts = [len(texts) for texts in references]
    if len(counts) != len(captions):
        raise ValueError(f"{len(captions)} captions, but references for {len(counts)} clips")
    if 0 in counts:
        raise ValueError(f"clip {counts.index(0)} has no reference sentence")
