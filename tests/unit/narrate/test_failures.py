"""What statuses, headers and lost connections mean."""

from __future__ import annotations

import json
import socket
import ssl

import httpx2
import pytest

from avion_core.narrate.failures import Fault, asked_seconds, failure_of_exception, failure_of_status


def fault(status: int, *, answered: bool = True, **error: str) -> Fault:
    failure = failure_of_status(status, json.dumps({"error": error}).encode(), {}, answered=answered)
    assert not failure.billed
    return failure.fault


@pytest.mark.parametrize("status", [408, 425, 429, 502, 503, 504, 522, 529])
def test_a_busy_server_is_waited_for(status):
    assert fault(status) is Fault.AWAY


def test_a_limit_that_mentions_billing_is_no_empty_account():
    assert fault(429, message="Rate limit reached. Add a payment method at /account/billing") is Fault.AWAY
    assert fault(429, message="You exceeded your current quota", code="insufficient_quota") is Fault.SETUP
    assert fault(402, message="Insufficient Balance") is Fault.SETUP


def test_a_request_that_is_too_large_for_the_limit_is_not_waited_for():
    assert fault(429, message="Request too large for gpt-x on tokens per min (TPM)") is Fault.REFUSED


@pytest.mark.parametrize("status", [403, 404, 405])
def test_a_door_that_opened_before_is_not_the_wrong_one(status):
    assert fault(status, answered=False) is Fault.SETUP
    assert fault(status, answered=True) is Fault.REFUSED


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[1]", b'"no"', b'{"detail": "no"}', b'{"error": null}', b"\xff"]
)
def test_any_error_body_is_read(body):
    failure = failure_of_status(400, body, {}, answered=True)
    assert failure.fault is Fault.REFUSED and failure.said.startswith("400")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after": "Fri, 27 Nov 2026 06:00:30 GMT", "date": "Fri, 27 Nov 2026 06:00:00 GMT"}, 30),
        ({"retry-after": "Fri, 27 Nov 2026 06:00:00 GMT", "date": "Fri, 27 Nov 2026 06:00:30 GMT"}, 0),
        ({"retry-after": "Friday, 27-Nov-26 06:00:30 GMT", "date": "Fri, 27 Nov 2026 06:00:00 GMT"}, 30),
        ({"retry-after": "Fri Nov 27 06:00:30 2026", "date": "Fri, 27 Nov 2026 06:00:00 GMT"}, 30),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": ""}, 0),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "nan"}, 0),
        ({"retry-after": "inf"}, 0),
        ({"retry-after": "99 Nov 99999999999999999999"}, 0),
        ({"retry-after": "Fri, 31 Feb 2026 06:00:30 GMT"}, 0),
    ],
)
def test_how_long_a_server_asks_to_wait(headers, seconds):
    assert asked_seconds(headers) == pytest.approx(seconds)


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_what_never_reached_the_server_is_not_billed():
    refused = raised_from(httpx2.ConnectError(""), ConnectionRefusedError(111, "Connection refused"))
    failure = failure_of_exception(refused, answered=False)
    assert (failure.fault, failure.billed) == (Fault.AWAY, False) and "Connection refused" in failure.said
    lost = failure_of_exception(httpx2.RemoteProtocolError("Server disconnected"), answered=False)
    assert (lost.fault, lost.billed) == (Fault.FAILED, True)


@pytest.mark.parametrize(
    "cause", [socket.gaierror(-2, "Name or service not known"), ssl.SSLCertVerificationError()]
)
def test_a_wrong_address_is_not_waited_for(cause):
    assert (
        failure_of_exception(raised_from(httpx2.ConnectError(""), cause), answered=False).fault is Fault.SETUP
    )
    assert (
        failure_of_exception(raised_from(httpx2.ConnectError(""), cause), answered=True).fault is Fault.AWAY
    )


def test_a_redirect_is_told_without_what_its_address_hides():
    headers = {"location": "https://user:word@other.example/v1/x?token=abc"}
    said = failure_of_status(307, b"", headers, answered=False).said
    assert "https://other.example/v1/x" in said and "word" not in said and "abc" not in said
