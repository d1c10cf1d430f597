"""Filters of a narrator's texts, by the texts alone and beside the clip's human narrations. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from avion_core.config import FilterSettings
from avion_core.narrate.sentences import OPPOSITE, OTHER_SUBJECT, OTHER_THING, Narration

NO_TAG = "no tag of who acts"
TOO_SHORT = "too few words"
TOO_LONG = "too many words"
REPEATED = "like another text of the clip"
UNSURE = "a score that is too high"
UNLIKE = {"subject": OTHER_SUBJECT, "opposite": OPPOSITE, "things": OTHER_THING}
"""Verdicts beside a human narration, by the setting `unlike_human`."""
_TAG = re.compile(r"#\s*[a-z](?:\s+[a-z])?\b", re.IGNORECASE)


def judge_texts(
    texts: Sequence[str],
    *,
    scores: Sequence[float] | None,
    human: Sequence[str],
    filters: FilterSettings,
) -> list[str | None]:
    """Why each text of a clip is left out; None for those that stay.

    `human` has the clip's human narrations, none for a window; a text may be unlike all but one of them.
    """
    told = [Narration.read(text, instruction="") for text in human]
    unlike = {UNLIKE[name] for name in filters.unlike_human}
    kept: list[frozenset[str]] = []
    verdicts: list[str | None] = []
    for place, text in enumerate(texts):
        words = _TAG.sub("", text, count=1).casefold().split()
        score = None if scores is None else scores[place]
        verdict = next(_faults(text, words, score, filters), None)
        if verdict is None and told:
            judged = [narration.judge(text) for narration in told]
            verdict = judged[0] if all(one in unlike for one in judged) else None
        if verdict is None and any(_is_alike(frozenset(words), other, filters.alike) for other in kept):
            verdict = REPEATED
        if verdict is None:
            kept.append(frozenset(words))
        verdicts.append(verdict)
    return verdicts


def _faults(text: str, words: Sequence[str], score: float | None, filters: FilterSettings) -> Iterator[str]:
    """What is wrong with a text by itself."""
    if filters.tagged and not _TAG.match(text.strip()):
        yield NO_TAG
    if len(words) < filters.least_words:
        yield TOO_SHORT
    if len(words) > filters.most_words:
        yield TOO_LONG
    if score is not None and filters.worst_score is not None and not score <= filters.worst_score:
        yield UNSURE


def _is_alike(one: frozenset[str], other: frozenset[str], share: float | None) -> bool:
    return share is not None and len(one & other) >= share * len(one | other)
