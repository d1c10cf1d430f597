"""Reads the lines of a batch's result files. Pure; accepts any bytes.

A line names its request (`custom_id`) and holds either the response, with a status of its own, or an error.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from avion_core.files import fingerprint
from avion_core.narrate.chat_reply import BrokenReplyError, ChatReply, read_reply
from avion_core.narrate.failures import Failure, Fault, failure_of_status

UNSERVED = ("batch_expired", "batch_cancelled")
"""Codes of requests that were not served before their batch ended."""


@dataclass(frozen=True)
class Result:
    """A line of a result file."""

    place: int
    """Index of the request in the batch's input file."""
    digest: str
    """Digest of the request's content."""
    response: Any
    error: Any


def custom_id(place: int, body: dict[str, Any]) -> str:
    """Name of a request in its batch: its index, and a digest of its content."""
    return f"{place:05}-{fingerprint(body)}"


def digest_of(name: str) -> str:
    """The digest in a request's name."""
    return name.rpartition("-")[2]


def read_result(line: bytes) -> Result | None:
    """The result in a line; None if there is none of ours, as in a line that was cut off."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    name = re.fullmatch(r"(\d{1,9})-([0-9a-f]{16})", str(found.get("custom_id")))
    if name is None:
        return None
    return Result(int(name[1]), name[2], found.get("response"), found.get("error"))


def outcome_of(result: Result, *, sent_bytes: int, token_limit: int) -> ChatReply | Failure:
    """The reply or the failure of a request whose prompt and reply have these limits."""
    if isinstance(result.response, dict):
        status, body = result.response.get("status_code"), result.response.get("body")
        if type(status) is int and not 200 <= status < 300:
            return failure_of_status(status, json.dumps(body).encode(), {}, answered=True)
        try:
            return read_reply(json.dumps(body).encode(), sent_bytes=sent_bytes, token_limit=token_limit)
        except BrokenReplyError as error:
            return Failure(Fault.FAILED, f"broken reply: {error}", True)
    about = result.error if isinstance(result.error, dict) else {}
    said = ": ".join(str(about[name]) for name in ("code", "message") if about.get(name))
    if about.get("code") in UNSERVED:
        return Failure(Fault.AWAY, said, False)
    return Failure(Fault.FAILED, said or "neither a response nor an error", not said)
