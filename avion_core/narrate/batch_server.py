"""The Files and Batch API of a server: upload a file of requests, have it answered, read the results.

https://platform.openai.com/docs/guides/batch. The `openai` package makes the requests; its parsing is not
used, as servers leave out fields or send them empty. Methods return a Failure rather than raise one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx2
import openai

from avion_core.config import ChatSettings
from avion_core.narrate.api_key import ApiKey
from avion_core.narrate.chat_reply import BrokenReplyError, read_json
from avion_core.narrate.failures import Failure, Fault, failure_of_exception, failure_of_status
from avion_core.narrate.openai_transport import CONNECT_SECONDS, unusable_proxy

ENDPOINT = "/v1/chat/completions"
"""What the requests of a batch are for; the path is the same whatever the server's address is."""
WINDOW = "24h"
"""The only completion window there is."""
TOKEN = "narrations"
"""Name of our mark in a batch's metadata."""
LISTED, PAGES = 100, 20
"""Batches on one page of the server's list, newest first, and pages that are read."""
LONGEST_LINE_BYTES = 4 << 20
"""A longer line of a result file cannot be an answer; it is skipped."""
OVER = frozenset({"completed", "failed", "expired", "cancelled"})
"""States in which a batch changes no more."""

Made = TypeVar("Made")


@dataclass(frozen=True)
class BatchError:
    """Why a server did not accept a batch."""

    said: str
    """Code and message."""
    line: int | None
    """The line of the input file, counted from 1, if it is about one."""


@dataclass(frozen=True)
class Batch:
    """What a server says about a batch."""

    id: str
    status: str
    """validating, in_progress, finalizing, cancelling, one of OVER, or another word."""
    input_file: str
    token: str
    """Our mark; "" without one."""
    result_files: tuple[str, ...]
    """Ids of the files of answers and of errors, those that exist."""
    total: int | None
    completed: int | None
    """Requests that were served; None if the server does not count."""
    failed: int | None
    errors: tuple[BatchError, ...]

    @property
    def is_over(self) -> bool:
        """Whether there will be no further results."""
        return self.status in OVER

    @classmethod
    def read(cls, value: Any) -> Self:
        """Read the server's JSON. Raises BrokenReplyError if it describes no batch."""
        found = _dict(value)
        if not _text(found.get("id")) or not _text(found.get("status")):
            raise BrokenReplyError("it describes no batch")
        counts = _dict(found.get("request_counts"))
        files = (_text(found.get("output_file_id")), _text(found.get("error_file_id")))
        listed = _dict(found.get("errors")).get("data")
        return cls(
            id=_text(found["id"]),
            status=_text(found["status"]),
            input_file=_text(found.get("input_file_id")),
            token=_text(_dict(found.get("metadata")).get(TOKEN)),
            result_files=tuple(dict.fromkeys(name for name in files if name)),
            total=_count(counts.get("total")),
            completed=_count(counts.get("completed")),
            failed=_count(counts.get("failed")),
            errors=tuple(_error(error) for error in (listed if isinstance(listed, list) else [])),
        )


class ResultsError(Exception):
    """A result file could not be read to its end."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.said)
        self.failure = failure


class BatchServer:
    """One server's Files and Batch API. Redirects are not followed: the key stays here."""

    def __init__(self, settings: ChatSettings, server: str, key: ApiKey) -> None:
        seconds = settings.timeout_seconds
        patience = openai.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
        try:
            http = openai.DefaultHttpxClient(timeout=patience, follow_redirects=False)
            self._client: Any = openai.OpenAI(
                api_key=key.value, base_url=server, max_retries=0, timeout=patience, http_client=http
            )
        except (ValueError, ImportError, httpx2.InvalidURL) as error:
            raise unusable_proxy(error, key) from None
        self._answered = False

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def check(self) -> Failure | None:
        """Whether the server lists batches; the failure if it does not."""
        found = self._made(lambda: self._get("/batches", limit=1))
        return found if isinstance(found, Failure) else None

    def upload(self, path: Path, name: str) -> str | Failure:
        """Upload a file of requests; returns its id."""

        def send() -> str:
            with path.open("rb") as stream:
                sent = {"file": (name, stream, "application/jsonl")}
                found = self._post("/files", body={"purpose": "batch"}, files=sent)
            if not (number := _text(_dict(found).get("id"))):
                raise BrokenReplyError("it has no id of the file")
            return number

        return self._made(send)

    def create(self, input_file: str, token: str) -> Batch | Failure:
        """Create a batch of an uploaded file."""
        body = {
            "input_file_id": input_file,
            "endpoint": ENDPOINT,
            "completion_window": WINDOW,
            "metadata": {TOKEN: token},
        }
        return self._made(lambda: Batch.read(self._post("/batches", body=body)))

    def batch(self, number: str) -> Batch | Failure:
        """The present state of a batch."""
        return self._made(lambda: Batch.read(self._get(f"/batches/{quote(number)}")))

    def cancel(self, number: str) -> Batch | Failure:
        """Cancel a batch; its results so far stay."""
        return self._made(lambda: Batch.read(self._post(f"/batches/{quote(number)}/cancel")))

    def find(self, input_file: str, token: str) -> Batch | Failure | None:
        """The batch of an uploaded file or with our mark; None if the server has none."""

        def look() -> Batch | None:
            after: dict[str, Any] = {}
            for _ in range(PAGES):
                page = _dict(self._get("/batches", limit=LISTED, **after))
                found = [Batch.read(value) for value in page.get("data") or [] if _dict(value).get("id")]
                for batch in found:
                    if batch.input_file == input_file or batch.token == token:
                        return batch
                if not found or not page.get("has_more"):
                    break
                after = {"after": found[-1].id}
            return None

        return self._made(look)

    def delete(self, file: str) -> Failure | None:
        """Delete an uploaded file, so that no batch can be made of it."""

        def send() -> None:
            self._client.delete(f"/files/{quote(file)}", cast_to=httpx2.Response)

        return self._made(send)

    def lines(self, file: str) -> Iterator[bytes]:
        """The complete or last lines of a result file, as they arrive. Raises ResultsError."""
        try:
            asked = {"cast_to": httpx2.Response, "stream": True}
            response = self._client.get(f"/files/{quote(file)}/content", **asked)
            try:
                yield from _lines(response.iter_bytes())
            finally:
                response.close()
        except openai.APIStatusError as error:
            raise ResultsError(_failure_of_status(error, answered=self._answered)) from None
        except (openai.APIError, httpx2.HTTPError, OSError, ValueError) as error:
            raise ResultsError(failure_of_exception(error, answered=self._answered)) from None

    def _get(self, path: str, **query: Any) -> Any:
        response = self._client.get(path, cast_to=httpx2.Response, options={"params": query})
        return read_json(response.content)

    def _post(self, path: str, **sent: Any) -> Any:
        if "files" in sent:
            sent["options"] = {"headers": {"Content-Type": "multipart/form-data"}}
        response = self._client.post(path, cast_to=httpx2.Response, **sent)
        return read_json(response.content)

    def _made(self, call: Callable[[], Made]) -> Made | Failure:
        """What a call returns, or its failure."""
        try:
            made = call()
        except openai.APIStatusError as error:
            return _failure_of_status(error, answered=self._answered)
        except BrokenReplyError as error:
            return Failure(Fault.FAILED, f"broken reply: {error}", True)
        except Exception as error:  # whatever a server's bytes make the HTTP packages raise
            return failure_of_exception(error, answered=self._answered)
        self._answered = True
        return made


def _failure_of_status(error: openai.APIStatusError, *, answered: bool) -> Failure:
    response = error.response
    try:
        body = response.content
    except httpx2.HTTPError:  # it was cut off, or not read
        body = b""
    return failure_of_status(response.status_code, body, response.headers, answered=answered)


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Lines of a file that comes in pieces; JSON may hold any other line separator than "\\n"."""
    rest, skipping = b"", False
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if not skipping:
                yield line
            skipping = False
        if len(rest) > LONGEST_LINE_BYTES:
            rest, skipping = b"", True
    if rest and not skipping:
        yield rest


def _error(value: Any) -> BatchError:
    found = _dict(value)
    said = ": ".join(filter(None, (_text(found.get("code")), _text(found.get("message")))))
    return BatchError(said or str(value), _count(found.get("line")))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
