"""What passes between the client, which knows servers and waits, and the books, which know money.

The client notes every try before it sends it, so that even a kill leaves the try in the journal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from avion_core.narrate.prompts import Message


class ProviderError(ValueError):
    """A provider cannot be used, or gives nothing usable. The message says why and the way out."""


@dataclass(frozen=True)
class Request:
    """Narrations that are asked about together."""

    number: int
    texts: tuple[str, ...]
    messages: tuple[Message, ...]
    schema: dict[str, Any] | None = None
    """JSON schema of the reply, for servers that can bind a reply to one."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one exchange as the server counted them; neither is negative or absurd."""

    input_tokens: int
    output_tokens: int
    """With those spent on reasoning."""


@dataclass(frozen=True)
class Answer:
    """A server's answer to a request: text that can be written as UTF-8, which may be unusable."""

    try_number: int
    """What `Books.begin` gave."""
    content: str
    finish: str
    """Why the model stopped: `stop`, `length` at the token limit, `content_filter`, or another word."""
    usage: Usage | None
    """None when the server counts no tokens, or counts that make no sense."""
    seconds: float
    """From the first try to the answer."""


@dataclass(frozen=True)
class NoAnswer:
    """A request that got no answer in all its tries, though the server answers others."""

    reason: str
    """One line of at most 300 characters, without secrets."""


class Books(Protocol):
    """Told of every try, by the threads that make them."""

    def begin(self, request: Request, token_limit: int) -> int:
        """Note a try at its highest price before it is sent; its number.

        `token_limit` is what the reply is limited to, in tokens. Raises BudgetError or ProviderError to end
        the run.
        """
        ...

    def cancel(self, try_number: int) -> None:
        """The server did not serve this try: it costs nothing."""
        ...
