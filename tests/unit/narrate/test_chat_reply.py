"""Any bytes are a reply or a broken one, and a reply can always be written down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avion_core.narrate.chat_reply import BrokenReplyError, ChatReply, read_reply

CASES = Path(__file__).parent / "replies"


def read(body: bytes) -> ChatReply:
    return read_reply(body, sent_bytes=500, token_limit=200)


def body(message: Any, *, usage: Any = None, finish: Any = "stop") -> bytes:
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    return json.dumps({"choices": choices, "usage": usage}).encode()


@pytest.mark.parametrize("case", sorted(CASES.glob("*.json")), ids=lambda path: path.stem)
def test_bodies_that_went_wrong_are_replies_or_broken(case):
    try:
        reply = read(case.read_bytes())
    except BrokenReplyError as problem:
        assert case.stem == "choices_dict" and "no message" in str(problem)
        return
    reply.content.encode()
    assert reply.finish == "stop"
    assert (reply.usage is None) == (case.stem == "usage_negative")
    assert reply.reasons == (case.stem == "think_cut")


def test_parts_of_a_message_are_joined():
    parts = [
        {"type": "text", "text": "a"},
        "b",
        {"type": "image"},
        {"text": 7},
        None,
        {"type": "text", "text": "c"},
    ]
    assert read(body({"content": parts})).content == "abc"


def test_a_byte_order_mark_is_not_part_of_the_reply():
    body = b"\xef\xbb\xbf" + json.dumps({"choices": [{"message": {"content": "take the mug"}}]}).encode()
    assert read_reply(body, sent_bytes=100, token_limit=100).content == "take the mug"


def test_a_refusal_is_what_the_model_said():
    assert read(body({"content": None, "refusal": "I cannot"})).content == "I cannot"


@pytest.mark.parametrize(
    ("content", "written"),
    [("caf\ud83d", "caf?"), ("\udc00\ud83d", "??"), ("\ud83d\ude00", "\U0001f600"), (7, ""), (None, "")],
)
def test_a_reply_can_be_written_as_utf8(content, written):
    assert read(body({"content": content})).content == written


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"<html><body>login</body></html>", "not JSON"),
        (b'{"choices": [{"mess', "not JSON"),
        (b"data: {}\n\ndata: [DONE]\n\n", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"choices": ' + b"1" * 10_000 + b"}", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"null", "no message"),
        (b"7", "no message"),
        (b"{}", "no message"),
        (b'{"choices": []}', "no message"),
        (b'{"choices": [null]}', "no message"),
        (b'{"choices": [{"message": null}]}', "no message"),
        (b'{"choices": [{"message": "hello"}]}', "no message"),
        (b'{"error": {"message": "overloaded"}}', "overloaded"),
        (b'{"error": "overloaded"}', "overloaded"),
        (b'{"choices": [{"message": {"content": "' + b"x" * 10_000_000 + b'"}}]}', "longer"),
    ],
)
def test_what_is_no_completion_is_broken_and_says_why(sent, words):
    with pytest.raises(BrokenReplyError, match=words) as caught:
        read(sent)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 0, "completion_tokens": 0},
        None,
        7,
        [],
        {},
        {"prompt_tokens": 5},
        {"prompt_tokens": -1, "completion_tokens": 5},
        {"prompt_tokens": 5, "completion_tokens": -1},
        {"prompt_tokens": "5", "completion_tokens": "5"},
        {"prompt_tokens": True, "completion_tokens": 5},
        {"prompt_tokens": 5.5, "completion_tokens": 5},
        {"prompt_tokens": 10**9, "completion_tokens": 5},
        {"prompt_tokens": 5, "completion_tokens": 10**9},
        {"prompt_tokens": float("nan"), "completion_tokens": 5},
    ],
)
def test_counts_that_cannot_be_are_none(usage):
    assert read(body({"content": "x"}, usage=usage)).usage is None


def test_tokens_of_reasoning_are_noticed():
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 90,
        "completion_tokens_details": {"reasoning_tokens": 80},
    }
    reply = read(body({"content": ""}, usage=usage, finish="length"))
    assert reply.reasons and reply.usage is not None and reply.usage.output_tokens == 90
    assert read(body({"content": "", "reasoning_content": "hm"})).reasons
    assert not read(
        body({"content": "x", "reasoning_content": ""}, usage={"completion_tokens_details": None})
    ).reasons


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "content", "usage", "text", "error", "finish_reason", "prompt_tokens"]
            ),
            inner,
        )
    ),
    max_leaves=20,
)


@given(ANY_JSON | st.builds(lambda inner: {"choices": [{"message": inner}], "usage": inner}, ANY_JSON))
def test_any_json_is_a_reply_or_broken(value):
    try:
        reply = read(json.dumps(value).encode())
    except BrokenReplyError:
        return
    said = reply.content + reply.finish
    assert said.encode().decode() == said


@given(st.binary(max_size=200))
def test_any_bytes_are_a_reply_or_broken(sent):
    try:
        said = read(sent).content
    except BrokenReplyError as problem:
        said = str(problem)
    assert said.encode().decode() == said
