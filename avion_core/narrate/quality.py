"""Filters of texts: by the texts alone, beside the clip's human narrations, and by their cosine. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from avion_core.config import FilterSettings
from avion_core.narrate.class_lists import ClassLists
from avion_core.narrate.likeness import TAG, Things, has_other_actor, share_known, words_of
from avion_core.narrate.sentences import LANGUAGE, OPPOSITE, OTHER_SUBJECT, OTHER_THING, Narration

NO_TAG = "no tag of who acts"
TOO_SHORT = "too few words"
TOO_LONG = "too many words"
REPEATED = "like another text of the clip"
UNSURE = "a score that is too high"
UNLIKE_CLIP = "a cosine with the clip that is too low"
UNLIKE = {"subject": OTHER_SUBJECT, "opposite": OPPOSITE, "things": OTHER_THING}
"""Verdicts beside a human narration, by the setting `unlike_human`."""


class Judge:
    """Says why texts are left out."""

    def __init__(self, filters: FilterSettings, *, class_lists: ClassLists | None = None) -> None:
        self._filters = filters
        self._unlike = {UNLIKE[name] for name in filters.unlike_human}
        self._things = Things(class_lists or ClassLists())
        self._faults_of = lru_cache(maxsize=100_000)(self._find_faults)

    def judge(
        self,
        texts: Sequence[str],
        *,
        human: Sequence[str] = (),
        scores: Sequence[float] | None = None,
        cosines: Sequence[float] | None = None,
    ) -> list[str | None]:
        """Why each text of a clip is left out; None for those that stay.

        `human` has the clip's human narrations, none for a window; a text may be unlike all but one of them.
        The first filter that leaves a text out gives the reason. A repetition is one of a text that stays.
        """
        kept: list[frozenset[str]] = []
        verdicts: list[str | None] = []
        for place, text in enumerate(texts):
            score = None if scores is None else scores[place]
            cosine = None if cosines is None else cosines[place]
            verdict = self._verdict(text, tuple(human), score, cosine)
            if verdict is None and self._filters.alike is not None:
                words = frozenset(words_of(text))
                verdict = REPEATED if any(self._repeats(words, other) for other in kept) else None
                kept += [words] if verdict is None else []
            verdicts.append(verdict)
        return verdicts

    def _verdict(
        self, text: str, human: tuple[str, ...], score: float | None, cosine: float | None
    ) -> str | None:
        filters = self._filters
        alone, beside = self._faults_of(text, human)
        if alone is None and score is not None and filters.worst_score is not None:
            alone = None if score <= filters.worst_score else UNSURE
        if alone or beside or cosine is None or filters.cosine is None:
            return alone or beside
        return None if cosine >= filters.cosine.least else UNLIKE_CLIP

    def _find_faults(self, text: str, human: tuple[str, ...]) -> tuple[str | None, str | None]:
        """What is wrong with a text by itself, and beside the human narrations."""
        if alone := next(self._faults_alone(text), None):
            return alone, None
        words = words_of(text)
        if self._is_foreign(words, human):
            return None, LANGUAGE
        beside = [self._fault_beside(text, narration) for narration in human]
        return None, beside[0] if beside and all(beside) else None

    def _faults_alone(self, text: str) -> Iterator[str]:
        filters, count = self._filters, len(TAG.sub("", text, count=1).split())
        if filters.tagged and not TAG.match(text.strip()):
            yield NO_TAG
        if count < filters.least_words:
            yield TOO_SHORT
        if count > filters.most_words:
            yield TOO_LONG

    def _is_foreign(self, words: Sequence[str], human: Sequence[str]) -> bool:
        least = self._filters.least_known
        told = [word for narration in human for word in words_of(narration)]
        return least is not None and share_known(words, told=told) < least <= share_known(told)

    def _fault_beside(self, text: str, narration: str) -> str | None:
        """How a text is unlike a narration in one of the ways that the settings name."""
        judged = _read(narration).judge(text)
        if has_other_actor(text, narration):
            judged = OTHER_SUBJECT
        elif judged not in (OPPOSITE, OTHER_SUBJECT):
            other = self._things.are_other(text, narration)
            judged = OTHER_THING if other else judged if other is None else None
        return judged if judged in self._unlike else None

    def _repeats(self, words: frozenset[str], other: frozenset[str]) -> bool:
        share = self._filters.alike
        return share is not None and len(words & other) >= share * len(words | other)


@lru_cache(maxsize=1000)
def _read(narration: str) -> Narration:
    return Narration.read(narration, instruction="")
