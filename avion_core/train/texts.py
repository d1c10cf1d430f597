"""Choosers of the sentence that a clip is trained with, called by the data set for each sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from avion_core.data.clips import ClipTable, Sentences
from avion_core.evaluate.relevancy import relevancy_matrix


class AnyText:
    """One of the row's own texts at random, as in pretraining (LaViLa, CVPR 2023)."""

    def __init__(self, clips: ClipTable) -> None:
        """Raises ValueError if a row has no text."""
        without = clips.first_without_text()
        if without is not None:
            raise ValueError(
                f"row {without} of the clip tables has no text; this task needs a narration for every clip"
            )
        self._clips = clips

    def __call__(self, row: int, rng: np.random.Generator) -> tuple[int, str]:
        """(place of the text in the row, text)."""
        texts = self._clips.texts(row)
        choice = int(rng.integers(len(texts)))
        return choice, texts[choice]


class RelevantSentence:
    """One of the sentences with a relevancy to the clip above a bound (EPIC-KITCHENS-100 MIR)."""

    def __init__(self, clips: ClipTable, sentences: Sentences, *, min_relevancy: float) -> None:
        """Raises ValueError (a TableError) if the clips have no verb and noun classes."""
        self._verbs, self._clips, self._sentences = clips.column("verb"), clips, sentences
        if len(clips):
            clips.nouns(0)
        self._min_relevancy = min_relevancy
        self._rows_of: dict[tuple[int, frozenset[int]], list[int]] = {}
        for row, (verb, nouns) in enumerate(zip(sentences.verbs, sentences.nouns, strict=True)):
            self._rows_of.setdefault((int(verb), frozenset(nouns)), []).append(row)
        self._rows = [np.array(rows, np.int64) for rows in self._rows_of.values()]
        self._candidates: dict[tuple[int, frozenset[int]], NDArray[np.int64]] = {}

    def __call__(self, row: int, rng: np.random.Generator) -> tuple[int, str]:
        """(sentence_id, text), every candidate equally likely."""
        classes = (int(self._verbs[row]), frozenset(self._clips.nouns(row)))
        groups = self._candidates.get(classes)
        if groups is None:
            groups = self._candidates[classes] = self._groups_above(classes)
        if not len(groups):
            raise ValueError(
                f"row {row} of the clip tables: no sentence has a relevancy above {self._min_relevancy}; "
                "lower min_relevancy"
            )
        ends = np.cumsum([len(self._rows[group]) for group in groups])
        choice = int(rng.integers(ends[-1]))
        place = int(np.searchsorted(ends, choice, side="right"))
        rows = self._rows[groups[place]]
        sentence = int(rows[choice - int(ends[place])])
        return sentence, self._sentences.texts[sentence]

    def _groups_above(self, classes: tuple[int, frozenset[int]]) -> NDArray[np.int64]:
        """Groups of equal sentences that are relevant enough to clips with this verb and these nouns."""
        verbs, nouns = [verb for verb, _ in self._rows_of], [nouns for _, nouns in self._rows_of]
        relevancy = relevancy_matrix([classes[0]], [classes[1]], verbs, nouns)[0]
        return np.flatnonzero(relevancy > self._min_relevancy)
