"""Filters of a narrator's texts."""

from __future__ import annotations

from typing import Any

import pytest

from avion_core.config import FilterSettings
from avion_core.narrate.quality import (
    NO_TAG,
    REPEATED,
    TOO_LONG,
    TOO_SHORT,
    UNLIKE,
    UNSURE,
    judge_texts,
)

HUMAN = "#C C opens the drawer"


def judged(*texts: str, human: tuple[str, ...] = (), scores: Any = None, **filters: Any) -> list[str | None]:
    return judge_texts(texts, scores=scores, human=human, filters=FilterSettings.model_validate(filters))


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
