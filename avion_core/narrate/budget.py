"""What language-model text will cost, and the stop before it costs more than the user said.

Shards run at the same time, perhaps on different machines, so each has a fixed part of `max_usd` and
none needs to know what the others have just spent. Before a request is sent, its highest possible price is
set aside; so the sum cannot pass the limit. A request that timed out may have been billed by the server
without our hearing of it, and keeps its price set aside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from avion_core.config import OpenAISettings, RephraseSettings
from avion_core.narrate.prompts import Message, rephrase_messages

BYTES_PER_TOKEN = 3.5
"""Of short English sentences; an upper estimate of the tokens follows from it."""
TOKENS_PER_MESSAGE = 4
"""Wrapping of one chat message."""
WORDIER = 1.3
"""Length of a rephrasing with its JSON quotes, relative to the narration."""


class BudgetError(ValueError):
    """The work would cost more than allowed. The message says how much is needed and where to say so."""


@dataclass(frozen=True)
class Estimate:
    """Size and price of work that has not been done yet."""

    texts: int
    """Distinct narrations."""
    requests: int
    input_tokens: int
    output_tokens: int
    usd: float

    def __str__(self) -> str:
        return (
            f"{self.texts} distinct narrations, {self.requests} requests, about {self.input_tokens} input "
            f"and {self.output_tokens} output tokens, about ${money(self.usd)}"
        )


@dataclass(frozen=True)
class Prices:
    """US dollars per million tokens."""

    input: float
    output: float

    def usd(self, input_tokens: int, output_tokens: int) -> float:
        """Price of so many tokens."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


def money(usd: float) -> str:
    """Dollars with cents, and with more digits when there are only fractions of a cent."""
    return f"{usd:.2f}" if usd >= 0.1 or usd == 0 else f"{usd:.2g}"


def tokens(text: str) -> int:
    """Estimated number of tokens of a text."""
    return math.ceil(len(text.encode()) / BYTES_PER_TOKEN)


def message_tokens(messages: Sequence[Message]) -> int:
    """Estimated input tokens of a chat."""
    return sum(tokens(message["content"]) + TOKENS_PER_MESSAGE for message in messages)


def reply_tokens(texts: Sequence[str], *, count: int) -> int:
    """Estimated output tokens of the reply to one request."""
    return sum(math.ceil(count * (tokens(text) * WORDIER + 2)) for text in texts) + 2


def estimate_texts(texts: Sequence[str], *, rephrase: RephraseSettings, openai: OpenAISettings) -> Estimate:
    """Price of asking for all of `texts`, from their lengths."""
    size, count = openai.narrations_per_request, rephrase.texts_per_narration
    empty = message_tokens(
        rephrase_messages([""] * min(size, 2), instruction=rephrase.instruction, count=count)
    )
    requests = math.ceil(len(texts) / size)
    numbering = 3 if size > 1 else 0
    given = requests * empty + sum(tokens(text) + numbering for text in texts)
    wanted = sum(min(reply_tokens([text], count=count), openai.max_tokens_per_reply) for text in texts)
    prices = Prices(openai.usd_per_million_input_tokens, openai.usd_per_million_output_tokens)
    return Estimate(len(texts), requests, given, wanted, prices.usd(given, wanted))


class Budget:
    """Money of one shard: what is spent, what is set aside for requests on their way, and the limit."""

    def __init__(self, *, limit_usd: float, spent_usd: float, prices: Prices, max_reply_tokens: int) -> None:
        self.limit_usd, self.spent_usd = limit_usd, spent_usd
        self._prices, self._max_reply_tokens = prices, max_reply_tokens
        self._aside: dict[int, float] = {}
        self._lost_usd = 0.0

    def set_aside(self, request: int, messages: Sequence[Message]) -> bool:
        """Reserve the highest price of a request; False if that would pass the limit."""
        highest = self._prices.usd(message_tokens(messages), self._max_reply_tokens)
        held = self.spent_usd + self._lost_usd + sum(self._aside.values())
        if highest and held + highest > self.limit_usd:
            return False
        self._aside[request] = highest
        return True

    def settle(self, request: int, usd: float, *, lost_tries: int = 0) -> None:
        """A request was answered at this price, after `lost_tries` whose price is not known."""
        self._lost_usd += lost_tries * self._aside.pop(request)
        self.spent_usd += usd
