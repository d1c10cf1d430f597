"""A line of a result file, whatever the server wrote there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from avion_core.narrate.batch_results import custom_id, digest_of, outcome_of, read_result
from avion_core.narrate.batch_server import Batch, _lines
from avion_core.narrate.chat_reply import BrokenReplyError, ChatReply
from avion_core.narrate.failures import Failure, Fault

NAME = custom_id(7, {"model": "m", "messages": []})
BODY = {
    "choices": [{"message": {"content": "a cup"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5},
}


def outcome(response: Any, error: Any = None) -> ChatReply | Failure:
    line = json.dumps({"custom_id": NAME, "response": response, "error": error}).encode()
    found = read_result(line)
    assert found is not None and (found.place, found.digest) == (7, digest_of(NAME))
    return outcome_of(found, sent_bytes=100, token_limit=50)


def test_a_requests_name_is_its_place_and_a_digest_of_its_content():
    assert NAME == custom_id(7, {"messages": [], "model": "m"}) != custom_id(7, {"model": "n"})
    assert NAME.startswith("00007-") and len(NAME) <= 64


def test_an_answer():
    found = outcome({"status_code": 200, "body": BODY})
    assert isinstance(found, ChatReply)
    assert (found.content, found.usage.output_tokens) == ("a cup", 5)


@pytest.mark.parametrize(
    ("response", "error", "fault", "billed", "said"),
    [
        ({"status_code": 400, "body": {"error": {"message": "long"}}}, None, Fault.REFUSED, False, "long"),
        ({"status_code": 429, "body": None}, None, Fault.AWAY, False, "429"),
        ({"status_code": 500, "body": "oops"}, None, Fault.FAILED, False, "oops"),
        ({"status_code": 200, "body": None}, None, Fault.FAILED, True, "broken"),
        ({"status_code": 200, "body": {"choices": []}}, None, Fault.FAILED, True, "no message"),
        ({}, None, Fault.FAILED, True, "broken"),
        (None, {"code": "batch_expired", "message": "late"}, Fault.AWAY, False, "batch_expired: late"),
        (None, {"code": "batch_cancelled"}, Fault.AWAY, False, "batch_cancelled"),
        (None, {"code": "server_error", "message": "x"}, Fault.FAILED, False, "server_error: x"),
        (None, None, Fault.FAILED, True, "neither"),
        ("", "", Fault.FAILED, True, "neither"),
    ],
)
def test_failures(response, error, fault, billed, said):
    found = outcome(response, error)
    assert isinstance(found, Failure)
    assert (found.fault, found.billed) == (fault, billed) and said in found.said


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"null",
        b"<html>",
        b'{"custom_id": null}',
        b'{"custom_id": "other"}',
        b'{"custom_id": "7-xyz"}',
        json.dumps({"custom_id": NAME}).encode()[:-3],
        b"\xff\xfe",
    ],
)
def test_lines_that_are_none_of_ours(line):
    assert read_result(line) is None


def test_lines_come_whole_however_the_bytes_are_cut():
    data = "\u2028a\nbb\n\nccc".encode()
    for size in (1, 2, 5, 100):
        pieces = (data[start : start + size] for start in range(0, len(data), size))
        assert list(_lines(pieces)) == ["\u2028a".encode(), b"bb", b"", b"ccc"]


def test_a_batch_with_the_fields_that_servers_leave_out():
    bare = Batch.read({"id": "b", "status": "in_progress"})
    assert not bare.is_over and bare.result_files == () and bare.completed is None
    odd = {"output_file_id": "", "error_file_id": None, "request_counts": [], "errors": {"data": ["?"]}}
    assert Batch.read({"id": "b", "status": "expired", **odd}).errors[0].said == "?"
    same = {"output_file_id": "f", "error_file_id": "f"}
    assert Batch.read({"id": "b", "status": "failed", **same}).result_files == ("f",)
    for wrong in (None, [], {"id": "b"}, {"id": 3, "status": "x"}):
        with pytest.raises(BrokenReplyError):
            Batch.read(wrong)
