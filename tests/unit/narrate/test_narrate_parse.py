"""Replies in the forms that models really send, and what is left of them."""

from __future__ import annotations

import pytest

from avion_core.narrate.parse import clean, distinct, parse_replies


def sentences(reply, texts, **more):
    return [parsed.sentences for parsed in parse_replies(reply, texts, **more)]


ORIGINAL = "#C C takes the red mug"
WANTED = ["#C C picks up the red mug", "take the red mug"]


@pytest.mark.parametrize(
    "reply",
    [
        '["#C C picks up the red mug", "take the red mug"]',
        '```json\n["#C C picks up the red mug.", "take the red mug."]\n```',
        'Here are 2 versions:\n["#C C picks up the red mug", "take the red mug"]\nI hope this helps!',
        "1. #C C picks up the red mug.\n2. Take the red mug.",
        "#C C picks up the red mug\ntake the red mug<|im_end|>\n<|im_end|>user\nopen the door<|im_end|>",
        "Sure! Here you go:\n\n1) #C C picks up the red mug\n2) take the red mug\n",
        '- "#C C picks up the red mug"\n- "take the red mug"',
        "* **#C C picks up the red mug**\n* take the red mug",
        "#C C picks up the red mug\ntake the red mug",
        '{"sentences": ["#C C picks up the red mug", "take the red mug"]}',
        '[{"text": "#C C picks up the red mug"}, {"text": "take the red mug"}]',
        '["#C C picks up the red mug", "take the red mug", "#C C gra',
        "<think>1. no\n2. maybe</think>\n1. #C C picks up the red mug\n2. take the red mug",
        '["C picks up the red mug", "take the red mug"]',
        '["#c c picks up the red mug", "take the red mug"]',
        '["The camera wearer picks up the red mug", "take the red mug"]',
        '["“#C C picks up the red mug”", "take the red mug!"]',
        '["#C C takes the red mug.", "#C C picks up the red mug", "#C C PICKS up the red mug", '
        '"take the red mug"]',
    ],
)
def test_every_form_gives_the_same_sentences(reply):
    assert [text.replace("Take", "take") for text in sentences(reply, [ORIGINAL], count=3)[0]] == WANTED


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "   ",
        "I'm sorry, I can't help with that.",
        "#C C takes the red mug<|im_end|>\nuser\nno",
        "[]",
        "{}",
        "[1, 2]",
        "...",
        "```\n```",
    ],
)
def test_nothing_usable_is_nothing(reply):
    assert sentences(reply, [ORIGINAL], count=3)[0] == []


def test_no_more_than_asked_for():
    assert len(sentences('["a cup b", "b cup c", "c cup d"]', [ORIGINAL], count=2)[0]) == 2


def test_numbers_and_inner_marks_survive():
    assert (
        clean("It's 0.5 l, in a well-known 'jug'; see: (there)", wearer=False)
        == "It's 0.5 l in a well-known jug see there"
    )


def test_the_tag_is_made_only_for_a_camera_wearers_sentence():
    assert distinct(["C major chord"], original="a piano plays", count=1) == ["C major chord"]
    assert distinct(["C opens a box"], original="#C C opens the box", count=1) == ["#C C opens a box"]


def test_talk_longer_than_a_narration_is_left_out():
    assert distinct(["word " * 78], original="x", count=1) == []


ORIGINALS = ["open door", "close door", "wash cup"]


@pytest.mark.parametrize(
    "reply",
    [
        '{"1": ["open the door"], "2": ["shut door", "close door"], "3": []}',
        '```json\n{"answers": {"1": ["open the door"], "2": ["shut door"], "3": []}}\n```',
        '[["open the door"], ["shut door"], []]',
        '{"1": ["open the door"], "2": ["shut door"], "3": ["rinse the c',
        '{"2": ["shut door"], "1": ["open the door"]}',
    ],
)
def test_each_of_several_narrations_gets_its_own_sentences(reply):
    assert sentences(reply, ORIGINALS, count=3) == [["open the door"], ["shut door"], []]


def test_a_reply_of_another_length_is_not_dealt_out_at_random():
    assert sentences('[["open the door"], ["rinse cup"]]', ORIGINALS, count=3) == [[], [], []]
    assert sentences("I'm sorry.", ORIGINALS, count=3) == [[], [], []]
