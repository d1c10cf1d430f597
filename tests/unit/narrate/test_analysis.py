"""Narrations taken apart, and put together again."""

from __future__ import annotations

import pytest

from avion_core.narrate.analysis import analyse
from avion_core.narrate.grammar import article_for, render
from avion_core.narrate.words import load_words

WORDS = load_words()


@pytest.mark.parametrize(
    "text",
    [
        "#C C picks up the red mug from the table",
        "#C C walks around the kitchen",
        "#C C is putting two plates on the table",
        "#C C tries to open the jar",
        "#C C keeps stirring the soup",
        "#C C takes it out of the box",
        "#O A man X gives the cup to C",
        "take red mug",
        "washing hands",
        "still cutting bread",
        "A person is cutting bread with a knife",
        "#C C takes a step back",
    ],
)
def test_taking_a_sentence_apart_and_together_changes_nothing(text):
    sentence = analyse(text, WORDS)
    assert render(sentence, tag=sentence.tag) == text


@pytest.mark.parametrize(
    ("text", "verb", "noun", "rest"),
    [
        ("#C C picks the cup up from the table", "pick up", "cup", 2),
        ("#C C puts the cup on the table", "put", "cup", 2),
        ("put on counter", "put", None, 2),
        ("#C C turns the tap off", "turn off", "tap", 0),
        ("#C C looks at the phone", "look at", "phone", 0),
        ("take washing up liquid", "take", "washing up liquid", 0),
        ("pour soy sauce in washing up bowl", "pour", "soy sauce", 2),
        ("take spices and salt", "take", "spices", 2),
        ("#C C moves the mug to the side", "move", "mug", 2),
    ],
)
def test_verb_particle_and_object_are_found(text, verb, noun, rest):
    sentence = analyse(text, WORDS)
    assert sentence.understood
    assert (str(sentence.verb), len(sentence.rest)) == (verb, rest)
    assert (" ".join(sentence.object.noun) if sentence.object else None) == noun


@pytest.mark.parametrize(
    ("text", "understood"),
    [
        ("#C C takes the mug", True),
        ("#C C takes the blorp", False),
        ("#C C takes the bus", False),
        ("#C C rides the bus", True),
        ("#C C pulls a face", False),
        ("#C C washes her face", True),
        ("#C C puts the bread quickly", False),
    ],
)
def test_only_phrases_about_known_things_are_understood(text, understood):
    assert analyse(text, WORDS).understood is understood


def test_kinds_are_those_of_the_longest_known_thing():
    assert "food" in WORDS.kinds(["chicken", "breast"])
    assert "body" not in WORDS.kinds(["chicken", "breast"])
    assert WORDS.kinds(["coffee", "mugs"]) == WORDS.kinds(["mug"]) and not WORDS.kinds(["coffee", "blorp"])


def test_articles_follow_the_sound():
    words = ("orange", "utensil", "used", "umbrella", "hour", "one", "onion", "mug")
    assert [article_for(word) for word in words] == ["an", "a", "a", "an", "an", "a", "an", "a"]
