"""Filters of texts, one by one; those of a narrator by default."""

from __future__ import annotations

from typing import Any

import pytest

from avion_core.config import NarratorFilters
from avion_core.narrate.quality import (
    NO_TAG,
    REPEATED,
    TOO_LONG,
    TOO_SHORT,
    UNLIKE,
    UNLIKE_CLIP,
    UNSURE,
    Judge,
)
from avion_core.narrate.sentences import LANGUAGE

HUMAN = "#C C opens the drawer"


def judged(
    *texts: str, human: tuple[str, ...] = (), scores: Any = None, cosines: Any = None, **filters: Any
) -> list[str | None]:
    judge = Judge(NarratorFilters.model_validate(filters))
    return judge.judge(texts, human=human, scores=scores, cosines=cosines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#C C opens the drawer", None),
        ("#c c opens the drawer", None),
        ("# C C opens the drawer", None),
        ("#O opens the drawer", None),
        ("#O a man X opens the drawer", None),
        ("opens the drawer", NO_TAG),
        ("The person opens the drawer", NO_TAG),
        ("C opens the drawer", NO_TAG),
        ("#C C opens", TOO_SHORT),
        ("#C C", TOO_SHORT),
        ("#C C " + "opens and " * 15 + "closes", TOO_LONG),
    ],
)
def test_a_text_is_judged_by_itself(text: str, reason: str | None) -> None:
    assert judged(text) == [reason]


def test_each_filter_can_be_turned_off() -> None:
    texts = ("opens", "#C C opens the drawer", "#C C opens the drawer")
    assert judged(*texts) == [NO_TAG, None, REPEATED]
    assert judged(*texts, tagged=False, least_words=1, alike=None) == [None, None, None]
    closes = "#C C closes the drawer"
    assert judged(closes, human=(HUMAN,)) == [UNLIKE["opposite"]]
    assert judged(closes, human=(HUMAN,), unlike_human=[]) == [None]


def test_a_text_with_the_same_words_is_a_repetition_and_the_first_stays() -> None:
    texts = ("#C C puts the mug on the table", "#C C on the table puts the mug", "#C C puts the red mug down")
    assert judged(*texts) == [None, REPEATED, None]
    assert judged(*texts, alike=0.4) == [None, REPEATED, REPEATED]
    assert judged("mug the takes", *texts) == [NO_TAG, None, REPEATED, None], (
        "what is left out repeats nothing"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#C C pulls the drawer open", None),
        ("#C C looks at the man", UNLIKE["subject"]),
        ("#O opens the drawer", UNLIKE["subject"]),
        ("#O a man X opens the drawer", UNLIKE["subject"]),
        ("#C C closes the drawer", UNLIKE["opposite"]),
        ("#C C does not open the drawer", UNLIKE["opposite"]),
        ("#C C watches the man open a drawer", UNLIKE["subject"]),
        ("#C C washes a red apple with a green brush", None),
    ],
)
def test_a_text_is_compared_with_the_human_narration(text: str, reason: str | None) -> None:
    assert judged(text, human=(HUMAN,)) == [reason]


def test_things_are_compared_where_the_setting_says_so() -> None:
    text = "#C C washes a red apple with a green brush"
    filters = {"unlike_human": ["subject", "opposite", "things"]}
    assert judged(text, human=(HUMAN,), **filters) == [UNLIKE["things"]]
    assert judged(text, human=(HUMAN, "#C C washes an apple with the green brush"), **filters) == [None]
    assert judged(text, **filters) == [None], "a window has nothing to be compared with"


def test_scores_above_the_limit_are_left_out() -> None:
    texts = ("#C C opens the drawer", "#C C washes a cup", "#C C cuts a tomato")
    assert judged(*texts, scores=[3.0, 5.1, float("nan")], worst_score=5) == [None, UNSURE, UNSURE]
    assert judged(*texts, worst_score=5) == [None, None, None], "the provider gives no scores"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#C C öffnet die Schublade mit der linken Hand", LANGUAGE),
        ("#C C abre el cajón de la mesa", LANGUAGE),
        ("#C C 打开抽屉 把刀 拿出来", LANGUAGE),
        ("#C C xq zrtw drawer blorp", LANGUAGE),
        ("#C C picks a courgette with the man's clothespin", None),
        ("#C C closes #unsure in the fridge-freezer", None),
    ],
)
def test_most_words_are_english_or_those_of_the_narration(text: str, reason: str | None) -> None:
    assert judged(text) == [reason]
    assert judged(text, least_known=None) == [None]
    assert judged(text, human=(text,)) == [None], "a narration that is not English keeps such texts"


def test_a_text_far_from_the_clip_is_left_out_and_repeats_nothing() -> None:
    texts = ("#C C opens the drawer", "#C C cuts a tomato", "#C C the drawer opens")
    cosine = {"run": "human", "stage": "pretrain", "least": 0.2}
    assert judged(*texts, cosines=[0.1, 0.2, 0.3], cosine=cosine) == [UNLIKE_CLIP, None, None]
    assert judged(*texts, cosine=cosine) == [None, None, REPEATED], "the clip could not be read"
    assert judged(*texts, cosines=[0.1, 0.2, 0.3]) == [None, None, REPEATED]


def test_a_text_counts_for_the_first_filter_that_leaves_it_out() -> None:
    bad = "closes el cajón de la mesa"
    cosine = {"run": "human", "stage": "pretrain"}

    def reason(text: str, **filters: Any) -> str | None:
        measured: dict[str, Any] = {"scores": [9.0], "cosines": [-1.0], "human": (HUMAN,)}
        return judged(text, **measured, worst_score=5, cosine=cosine, **filters)[0]

    assert reason(bad) == NO_TAG
    assert reason(bad, tagged=False) == UNSURE
    assert judged(bad, human=(HUMAN,), cosines=[-1.0], tagged=False, cosine=cosine) == [LANGUAGE]
    closes = "#C C closes the drawer"
    assert judged(closes, human=(HUMAN,), cosines=[-1.0], cosine=cosine) == [UNLIKE["opposite"]]
    assert judged(closes, human=(HUMAN,), cosines=[-1.0], cosine=cosine, unlike_human=[]) == [UNLIKE_CLIP]
