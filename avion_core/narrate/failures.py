"""What a failed try means: for the request, for the run, and for the bill. Pure."""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

import httpx2

from avion_core.narrate.chat_reply import BrokenReplyError, read_json, words_of

BUSY = frozenset({408, 409, 425, 429, 502, 503, 504, 529, *range(520, 528)})
"""Statuses of a server, or of a proxy in front of it, that will answer later."""
NO_CREDIT = ("insufficient_quota", "insufficient balance", "insufficient credit")
"""Words for an account without money. Not "billing", which is in OpenAI's rate-limit messages too."""


class Fault(Enum):
    """Where the fault may lie, and so what to try."""

    REFUSED = "refused"
    """The request will be refused again."""
    FAILED = "failed"
    """Another try may help; if it does not while others are answered, the request is at fault."""
    AWAY = "away"
    """The server is down or busy: waiting helps."""
    SETUP = "setup"
    """Key, address, model or account: only the user can help."""


@dataclass(frozen=True)
class Failure:
    """A try without an answer."""

    fault: Fault
    said: str
    """What happened, in words that may still contain the key."""
    billed: bool
    """Whether the server may have served it."""
    status: int | None = None
    """HTTP status; None if there was no answer or a broken one."""
    asked_seconds: float = 0.0
    """How long the server asks clients to wait."""
    parameter: str = ""
    """The request parameter that the server's error names."""


def failure_of_status(status: int, body: bytes, headers: Mapping[str, str], *, answered: bool) -> Failure:
    """The failure of an HTTP status that is not a success.

    `answered`: this server has answered others with the same key, model and address.
    """
    try:
        value = read_json(body)
    except BrokenReplyError:
        value = body.decode("utf-8", "replace")
    error = value.get("error", value) if isinstance(value, dict) else None
    parameter = str(error.get("param") or "") if isinstance(error, dict) else ""
    said = f"{status}: {words_of(value)}"
    if 300 <= status < 400:
        said = f"{status}: it redirects to {_without_secrets(headers.get('location', 'nowhere'))}"
    fault = _fault_of_status(status, said, value, answered=answered)
    return Failure(fault, said, False, status, asked_seconds(headers), parameter)


def _fault_of_status(status: int, said: str, value: Any, *, answered: bool) -> Fault:
    lowered = str(value).lower()
    if status == 429 and "too large" in lowered:
        return Fault.REFUSED
    if status == 402 or (status in (403, 429) and any(word in lowered for word in NO_CREDIT)):
        return Fault.SETUP
    if status in BUSY:
        return Fault.AWAY
    if status >= 500:
        return Fault.FAILED
    if status < 400 or status in (401, 407):
        return Fault.SETUP
    if status in (403, 404, 405):
        return Fault.REFUSED if answered else Fault.SETUP
    return Fault.REFUSED


def failure_of_exception(error: BaseException, *, answered: bool) -> Failure:
    """The failure of an exchange that ended without an HTTP status."""
    causes = list(_causes(error))
    said = next((text for cause in reversed(causes) if (text := str(cause).strip())), type(error).__name__)
    if any(
        isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError) for cause in causes
    ):
        wrong = any(isinstance(cause, ssl.SSLCertVerificationError | socket.gaierror) for cause in causes)
        fault = Fault.SETUP if wrong and not answered else Fault.AWAY
        return Failure(fault, f"no connection: {said}", False)
    return Failure(Fault.FAILED, f"connection lost: {said}", True)


def asked_seconds(headers: Mapping[str, str]) -> float:
    """Seconds from retry-after-ms or Retry-After (seconds or an HTTP date); 0 if absent or invalid."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        try:
            seconds = float(value) * unit
        except ValueError:
            seconds = _seconds_until(value, headers.get("date", ""))
        if math.isfinite(seconds) and seconds > 0:
            return seconds
    return 0.0


def _seconds_until(date: str, server_now: str) -> float:
    """By the server's own clock, if it sends one, so that a wrong clock on either side does no harm."""
    until = _moment(date)
    if until is None:
        return 0.0
    return (until - (_moment(server_now) or datetime.now(UTC))).total_seconds()


def _moment(date: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(date)
    except (ValueError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _without_secrets(address: str) -> str:
    """An address without its user, password and query."""
    try:
        parts = urlsplit(address)
        return (
            f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else parts.path
        )
    except ValueError:
        return "an invalid address"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__
