"""Replies about clips, as models write them."""

from __future__ import annotations

import json

import pytest

from avion_core.narrate.clip_sentences import ClipSubject, parse_clip_replies
from avion_core.narrate.parse import CUT_OFF, EMPTY
from avion_core.narrate.sentences import NO_SENTENCE, REFUSED, TOO_LONG

CUP, KNIFE = "#C C picks up the cup", "#C C cuts an onion with a knife"


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ([json.dumps({"1": [CUP, KNIFE]})], [CUP, KNIFE]),
        ([json.dumps({"1": [text]}) for text in (CUP, KNIFE, f"{CUP}.")], [CUP, KNIFE]),
        ([json.dumps([CUP])], [CUP]),
        ([f"```json\n{json.dumps({'caption': CUP})}\n```"], [CUP]),
        ([f"1. {CUP}.\n2. {KNIFE}."], [CUP, KNIFE]),
        (["The camera wearer picks up the cup."], [CUP]),
        ([CUP], [CUP]),
        (["#O opens the door"], ["#O opens the door"]),
        ([f"<think>a cup?</think>{json.dumps({'1': [CUP]})}"], [CUP]),
        ([json.dumps({"1": [CUP, "In the first frame, a cup is seen"]})], [CUP]),
    ],
)
def test_sentences_are_found(replies, expected):
    parsed = parse_clip_replies(replies, count=5, finish="stop")
    assert (parsed.sentences, parsed.reason) == (expected, None)


@pytest.mark.parametrize(
    ("replies", "finish", "reason"),
    [
        (["I'm sorry, I cannot help with that."], "stop", REFUSED),
        ([json.dumps({"1": [CUP]})], "content_filter", REFUSED),
        ([""], "stop", EMPTY),
        ([""], "length", CUT_OFF),
        (['{"1": ["#C C pic'], "length", CUT_OFF),
        (["[]"], "stop", NO_SENTENCE),
        ([json.dumps({"1": ["The image shows a kitchen"]})], "stop", NO_SENTENCE),
        ([json.dumps({"1": ["a red cup"]})], "stop", NO_SENTENCE),
        ([json.dumps({"1": [" ".join(["#C C moves the cup and"] * 20)]})], "stop", TOO_LONG),
    ],
)
def test_what_is_no_sentence_has_a_reason(replies, finish, reason):
    parsed = parse_clip_replies(replies, count=5, finish=finish)
    assert (parsed.sentences, parsed.reason) == ([], reason)


def test_no_more_sentences_than_asked_for():
    assert parse_clip_replies([json.dumps({"1": [CUP, KNIFE]})], count=1, finish="stop").sentences == [CUP]


@pytest.mark.parametrize(
    ("candidate", "usable"),
    [
        ("#C C looks at the picture on the wall", True),
        ("#C C takes a photo", True),
        ("The picture frame is hung up by #C C", False),
        ("#C C picks up the cup. He drinks", False),
        ("Is #C C cooking?", False),
    ],
)
def test_images_may_be_things_but_not_the_subject(candidate, usable):
    assert (ClipSubject().judge(candidate) is None) == usable
