"""Replies in the forms that models really send, and what is left of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from avion_core.config import RephraseSettings
from avion_core.narrate.parse import parse_replies
from avion_core.narrate.prompts import rephrase_messages
from avion_core.narrate.sentences import clean, distinct

REPLIES = yaml.safe_load(Path(__file__).with_name("replies.yaml").read_text(encoding="utf-8"))
INSTRUCTION = RephraseSettings().instruction


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


def test_no_more_than_asked_for():
    assert len(sentences('["grab a mug", "get the mug", "lift the mug"]', [ORIGINAL], count=2)[0]) == 2


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


@pytest.mark.parametrize(
    "more",
    [
        '\n\nDescription: #C C turns on the stove\nRewritten: ["#C C turns on the hob", "turn the stove on"]',
        '\nAnswer with a JSON array of 3 different sentences and nothing else.\n["set the plate down"]',
        '\n#C C eats an apple {"1": ["#C C bites into an apple"]}',
    ],
)
def test_narrations_that_a_base_model_goes_on_with_are_left_out(more):
    for answer in ('["#C C grabs the red mug"]', '{"1": ["#C C grabs the red mug"]}'):
        assert sentences(answer + more, [ORIGINAL], count=3) == [["#C C grabs the red mug"]]
    two = sentences(
        '{"1": ["grab the cup"], "2": ["shut the door"]}' + more, ["take cup", "close door"], count=3
    )
    assert two == [["grab the cup"], ["shut the door"]]


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


@pytest.mark.parametrize("case", REPLIES, ids=lambda case: case.get("name") or case["reply"])
def test_nothing_but_sentences_about_the_action_passes(case):
    narration, finish = case.get("narration", "#C C picks up the plate"), case.get("finish", "stop")
    [parsed] = parse_replies(case["reply"], [narration], count=10, finish=finish, instruction=INSTRUCTION)
    assert parsed.sentences == case["sentences"]
    assert parsed.other_subject == case.get("other_subject", parsed.other_subject)


def test_good_sentences_pass():
    """Of all but a few: some share no word with their narration."""
    rejected, total = [], 0
    for line in Path(__file__).with_name("rephrasings.txt").read_text(encoding="utf-8").splitlines()[1:]:
        narration, *wanted = line.split(" | ")
        for sentence in wanted:
            [parsed] = parse_replies(f'["{sentence}"]', [narration], count=1, instruction=INSTRUCTION)
            total += 1
            if parsed.reason not in (None, "a copy of the narration"):
                rejected.append((narration, sentence, parsed.reason))
    assert total > 400 and len(rejected) / total < 0.02, rejected


@pytest.mark.parametrize(
    ("reply", "finish", "reason"),
    [
        ("", "stop", "empty"),
        ("", "length", "cut off by the token limit"),
        ('["#C C grabs the pl', "length", "cut off by the token limit"),
        ("<think>Which verb?", "stop", "reasoning without an answer"),
        ("<think>Which verb?", "length", "cut off by the token limit"),
        ("I can't help with that. Please ask something else.", "stop", "refused"),
        ('["#C C grabs the plate"]', "content_filter", "refused"),
        ('["A man picks up the plate", "one"]', "stop", "other subject"),
        ('["#C C hebt den Teller auf"]', "stop", "another language"),
        ('["pick up the red cup"]', "stop", "a copy of the prompt"),
        ('["drop the plate"]', "stop", "the opposite"),
        ('["#C C opens the wooden door"]', "stop", "other things"),
        ('["#C C picks up the plate."]', "stop", "a copy of the narration"),
        (f'["#C C grabs {"the big " * 40} plate"]', "stop", "too long"),
        ("x " * 200_000, "stop", "too long"),
        ('["plate"]', "stop", "no sentence"),
        ("[" * 900 + "]" * 900, "stop", "no sentence"),
    ],
)
def test_a_reason_says_why_there_is_no_sentence(reply, finish, reason):
    [parsed] = parse_replies(
        reply, ["#C C picks up the plate"], count=3, finish=finish, instruction=INSTRUCTION
    )
    assert (parsed.sentences, parsed.reason) == ([], reason)


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        ('{"²": ["shut door"], "1": ["open the door"]}', [["open the door"], [], []]),
        ('{"1": ["open the door"], "1": ["shut door"], "9": ["rinse cup"]}', [["open the door"], [], []]),
        (
            '[{"2": ["shut door"]}, {"1": ["open the door"]}, {"3": []}]',
            [["open the door"], ["shut door"], []],
        ),
        (
            '[{"1": "open the door"}, {"1": "shut door"}, {"1": "rinse cup"}]',
            [["open the door"], ["shut door"], ["rinse cup"]],
        ),
        (
            '[{"id": 1, "texts": "open the door"}, {"id": 2, "texts": []}, {"id": 3, "texts": "rinse cup"}]',
            [["open the door"], [], ["rinse cup"]],
        ),
        (
            '{"answers": [["open the door"], ["shut door"], ["rinse cup"]]}',
            [["open the door"], ["shut door"], ["rinse cup"]],
        ),
        (
            '["open the door"]\n["shut door"]\n["rinse cup"]',
            [["open the door"], ["shut door"], ["rinse cup"]],
        ),
        ('["open the door"]\n["shut door"]', [[], [], []]),
        (
            '{"0": ["open the door"], "1": ["shut door"], "2": ["rinse cup"]}',
            [["open the door"], ["shut door"], ["rinse cup"]],
        ),
        ('{"0": ["open the door"], "1": ["shut door"], "3": ["rinse cup"]}', [[], [], []]),
        ('[["open the door"], ["shut door"], ["rinse c', [[], [], []]),
        (
            '{"description 1": {"original": "open door", "rephrased": ["open the door"]}}',
            [["open the door"], [], []],
        ),
        ("{1: ['open the door'], 2: ['shut door',], }", [["open the door"], ["shut door"], []]),
        (
            'Draft: [["shut door"], ["open the door"], []] Final: [["open the door"], ["shut door"], []]',
            [[], [], []],
        ),
    ],
)
def test_answers_are_dealt_out_only_where_it_is_clear_whose_they_are(reply, wanted):
    assert sentences(reply, ORIGINALS, count=3) == wanted


def test_odd_narrations_get_their_own_answers():
    odd = ["take cup\n2. wash the hands", "{done} {x} take $HOME", '[take] the "cup"', "take <b>mug</b>"]
    _, user = rephrase_messages(odd, instruction="Rewrite.", count=1)
    asked = [line.split(". ", 1) for line in user["content"].splitlines()]
    reply = json.dumps({number: [text.replace("take", "grab")] for number, text in asked})
    assert sentences(reply, odd, count=1) == [
        ["grab cup 2 wash the hands"],
        ["done x grab $HOME"],
        ["grab the cup"],
        ["grab b mug /b"],
    ]


def test_narrations_without_an_answer_have_a_reason():
    found = parse_replies('{"1": ["open the door"]}', ORIGINALS, count=3)
    assert [parsed.reason for parsed in found] == [None, *["no answer under its number"] * 2]
    assert {parsed.reason for parsed in parse_replies("I'm sorry, no.", ORIGINALS, count=3)} == {"refused"}
    assert {parsed.reason for parsed in parse_replies("", ORIGINALS, count=3)} == {"empty"}


PIECES = [
    *"[]{}\"'\\,:|(“”–² \n\0\ud83d\u2028",
    *("1", '"1": ', "1. ", "- ", "**", "\\u2028", "\\ud83d", "```\n", "NaN", "9" * 5000, "</think>"),
    *("<think>", "<|im_end|>", "<|channel|>final<|message|>", "#C C grabs the mug", "take mug from shelf"),
]


@settings(deadline=None)
@given(
    st.one_of(st.text(st.characters()), st.lists(st.sampled_from(PIECES), max_size=60).map("".join)),
    st.lists(
        st.one_of(st.sampled_from(["#C C takes the mug", "", "²"]), st.text(st.characters())),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["stop", "length", "content_filter", "?"]),
)
@example("[" * 100_000, ["#C C takes the mug"], "stop")
@example('{"²": ["take mug from shelf"], "1": ["grab the mug"]}', ["take mug", "wash mug"], "stop")
@example("[" + "1" * 5000 + "]", ["take mug"], "stop")
@example('["#C C grabs the mug \\ud83d now", "take mug\u0085 from shelf"]', ["#C C takes the mug"], "stop")
def test_any_reply_to_any_narrations_gives_clean_sentences_or_a_reason(reply, texts, finish):
    found = parse_replies(reply, texts, count=3, finish=finish, instruction=INSTRUCTION)
    assert len(found) == len(texts)
    for parsed in found:
        assert len(parsed.sentences) <= 3 and (parsed.reason is None) == bool(parsed.sentences)
        for text in parsed.sentences:
            assert text.isprintable() and text == " ".join(text.split()) and len(text) <= 300
            text.encode()


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "[",
            '["',
            "['",
            "[“",
            "{",
            '{"a":',
            '"',
            '\\"',
            '" ',
            '["a" ',
            "[a\n",
            "(",
            " ",
            "\n",
            "a",
            "a: ",
            "#C C ",
        ),
        *("<think>", "</think>", "<|", "<|a", "```\n", "1. ", "\n- a", "|", "**", "user:\n"),
    ],
)
def test_a_long_reply_takes_time_in_proportion(piece):
    """With a step that takes quadratic time, this would not end."""
    within = piece * (50_000 // len(piece))
    for reply in (piece * 200_000, '["' + within, "x\n" + within):
        assert len(parse_replies(reply, ["#C C takes the mug"], count=3)) == 1
        assert len(parse_replies(reply, ORIGINALS, count=3, finish="length")) == len(ORIGINALS)
