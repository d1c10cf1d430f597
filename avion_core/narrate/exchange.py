"""Types shared by the client, which sends requests, and the books, which record what they cost.

The client records every try before sending it, so that the try is in the journal even after a kill.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Protocol

from avion_core.narrate.prompts import Message, text_of


class ProviderError(ValueError):
    """A provider cannot be used, or gives nothing usable. The message says why and what to do."""


class RefusedError(ProviderError):
    """The server refuses every request."""


HARMLESS = "#C C picks up a cup from the table"
"""A narration that any working server answers."""


@dataclass(frozen=True)
class Request:
    """Narrations, or a clip, sent together."""

    number: int
    texts: tuple[str, ...]
    """The narrations; the video and seconds of a clip."""
    messages: tuple[Message, ...]
    schema: dict[str, Any] | None = None
    """JSON schema of the reply, for servers that support one."""
    choices: int = 1
    """Replies sampled for it."""
    image_tokens: int = 0
    """Most input tokens that its images may count."""
    keys: tuple[str, ...] = ()
    """Keys of the texts or the clip in the journal, in order."""
    harmless: str | list[dict[str, Any]] = HARMLESS
    """Content of a message like the last one that a working server answers."""

    @property
    def most_input_tokens(self) -> int:
        """Bound on the tokens of its messages: a token has at least one byte."""
        return sum(len(text_of(message).encode()) for message in self.messages) + self.image_tokens


@dataclass(frozen=True)
class Usage:
    """Tokens of one exchange as counted by the server, checked to be plausible."""

    input_tokens: int
    output_tokens: int
    """Including reasoning."""
    cached_tokens: int = 0
    """Of the input, those that the server had in its cache."""


@dataclass(frozen=True)
class Answer:
    """A server's answer to a request, which may be unusable."""

    try_number: int
    """Returned by `Books.begin`."""
    content: str
    """Encodable as UTF-8."""
    finish: str
    """Why the model stopped: `stop`, `length` at the token limit, `content_filter`, or another word."""
    usage: Usage | None
    """None if the server gives no token counts, or implausible ones."""
    seconds: float
    """From the first try to the answer."""
    others: tuple[str, ...] = ()
    """Contents of further choices."""

    @property
    def reply(self) -> str | list[str]:
        """The content, or those of all choices."""
        return [self.content, *self.others] if self.others else self.content


@dataclass(frozen=True)
class NoAnswer:
    """A request that got no answer in all its tries, although the server answers others."""

    reason: str
    """One line of at most 300 characters, without secrets."""


class Books(Protocol):
    """Records every try. Called from the threads that make them."""

    def begin(self, request: Request, token_limit: int) -> int:
        """Record a try at its highest price before it is sent; returns its number.

        `token_limit` is the limit of the reply. Raises BudgetError or ProviderError to end the run.
        """
        ...

    def cancel(self, try_number: int) -> None:
        """Record that the server did not serve a try: it costs nothing."""
        ...


class BatchBooks(Books, Protocol):
    """Books that outlast the session: a batch may be sent in one and answered in the next."""

    def begin(self, request: Request, token_limit: int, *, price_share: float = 1.0) -> int:
        """The same; `price_share` is the price relative to the normal one."""
        ...

    @property
    def next_try(self) -> int:
        """Number of the next try."""
        ...

    def open_tries(self) -> Set[int]:
        """Numbers of the tries without answer or cancellation, those of earlier sessions included."""
        ...

    def take_over(self, try_number: int, token_limit: int, *, price_share: float) -> None:
        """Continue a try of an earlier session."""
        ...

    def settle_unread(self, request: Request, answer: Answer) -> None:
        """Record an answer to a request of an earlier session; it is parsed when it is next looked at."""
        ...

    def sync(self) -> None:
        """Write everything recorded so far to disk."""
        ...
