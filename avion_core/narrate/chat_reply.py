"""Reads a model's words from the body of an HTTP response. Pure; accepts any bytes.

A server may send HTML, truncated JSON, values of the wrong type, or impossible counts. A body with a message
is a reply, if perhaps an unusable one; anything else is a BrokenReplyError.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from avion_core.narrate.exchange import Usage

LARGEST_REPLY_BYTES = 2**20
"""A longer body counts as broken and is not read to its end."""


class BrokenReplyError(Exception):
    """The body is not a chat completion."""


@dataclass(frozen=True)
class ChatReply:
    """What a model said."""

    content: str
    """Encodable as UTF-8; "" if there is no text."""
    finish: str
    usage: Usage | None
    reasons: bool
    """Whether the model spent tokens on reasoning."""
    others: tuple[str, ...] = ()
    """Contents of further choices."""

    @property
    def is_cut_off(self) -> bool:
        """Whether the token limit was reached before any text."""
        return self.finish == "length" and not any(map(str.strip, (self.content, *self.others)))


def read_reply(body: bytes, *, sent_bytes: int, token_limit: int) -> ChatReply:
    """The first choice's message, further choices' contents, and the token counts if they are plausible.

    `sent_bytes` is the length of the prompt, `token_limit` the limit of all choices. Raises BrokenReplyError.
    """
    if len(body) > LARGEST_REPLY_BYTES:
        raise BrokenReplyError(f"it is longer than {LARGEST_REPLY_BYTES:,} bytes")
    value = read_json(body)
    choices = _field(value, "choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = _field(choice, "message")
    if not isinstance(message, dict):
        raise BrokenReplyError(words_of(value) if _field(value, "error") else "it holds no message")
    content = _said(message)
    others = [_said(_field(other, "message")) for other in choices[1:]] if isinstance(choices, list) else []
    finish = _field(choice, "finish_reason")
    details = _field(_field(value, "usage"), "completion_tokens_details")
    spent = _field(details, "reasoning_tokens")
    thoughts = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
    return ChatReply(
        content=_utf8(content),
        finish=_utf8(finish)[:40] if isinstance(finish, str) else "unknown",
        usage=_usage(value, most_in=2 * sent_bytes + 10_000, most_out=len(body) + 10 * token_limit),
        reasons=bool(thoughts.strip()) or "<think>" in content or (type(spent) is int and spent > 0),
        others=tuple(_utf8(other) for other in others),
    )


def read_json(body: bytes) -> Any:
    """The JSON value of a body; BrokenReplyError if it has none."""
    if not body.strip():
        raise BrokenReplyError("it is empty")
    try:
        return json.loads(body.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        start = body[:80].decode("utf-8", "replace")
        raise BrokenReplyError(f"it is not JSON and begins with {start!r}") from None


def words_of(value: Any) -> str:
    """The message of an error body, in the protocol's form or a similar one."""
    error = _field(value, "error") or value
    for name in ("message", "detail", "error"):
        said = _field(error, name)
        if said:
            return str(said)
    return str(error)


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _said(message: Any) -> str:
    return _text(_field(message, "content")) or _text(_field(message, "refusal"))


def _text(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part if isinstance(part, str) else _field(part, "text") for part in parts]
    return "".join(text for text in texts if isinstance(text, str))


def _usage(value: Any, *, most_in: int, most_out: int) -> Usage | None:
    usage = _field(value, "usage")
    given, written = _field(usage, "prompt_tokens"), _field(usage, "completion_tokens")
    if type(given) is not int or type(written) is not int:
        return None
    if not (0 < given <= most_in and 0 <= written <= most_out):
        return None
    cached = _field(_field(usage, "prompt_tokens_details"), "cached_tokens")
    return Usage(given, written, cached if type(cached) is int and 0 <= cached <= given else 0)


def _utf8(text: str) -> str:
    """A text without lone surrogates, which JSON can spell and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()
