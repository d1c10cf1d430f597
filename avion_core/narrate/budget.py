"""What language-model text will cost, and the part of the limit that each shard may spend.

Shards run at the same time, perhaps on different machines, so each has a fixed part of `max_usd` and need not
know what the others have spent. A request counts at its highest possible price until its answer arrives, so
the sum cannot exceed the limit. A request that timed out may have been billed, and keeps counting at that
price.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from avion_core.config import RephraserSettings, RephraseSettings
from avion_core.narrate.exchange import Request
from avion_core.narrate.prices import Prices
from avion_core.narrate.prompts import Message, rephrase_messages, text_of

BYTES_PER_TOKEN = 3.5
"""Low for short English sentences, so that tokens are overestimated."""
TOKENS_PER_MESSAGE = 4
"""Overhead of one chat message."""
WORDIER = 1.3
"""Length of a rephrasing with its JSON quotes, relative to the narration."""


class BudgetError(ValueError):
    """The work would cost more than allowed. The message says how much is needed and what to change."""


@dataclass(frozen=True)
class Estimate:
    """Size and price of work still to be done."""

    count: int
    """Distinct narrations or clips."""
    requests: int
    input_tokens: int
    output_tokens: int
    usd: float
    reasoning_usd: float = 0.0
    """Additional price of `max_reasoning_tokens` for each request."""
    what: str = "distinct narrations"
    images: int = 0
    sent_bytes: int = 0
    """Of all requests' prompts and images."""
    price_share: float = 1.0
    """Price relative to that of single requests, as in a batch."""
    prices: str = ""
    """Of what a token costs, and where that is from."""

    def __str__(self) -> str:
        reasoning = f", at most ${money(self.reasoning_usd)} more if it reasons" if self.reasoning_usd else ""
        images = f"{self.images} images, " if self.images else ""
        sent = (
            f"{self.sent_bytes / 1e6:.2g} MB" if self.sent_bytes < 1e8 else f"{self.sent_bytes / 1e9:.1f} GB"
        )
        batch = f" in batches, at {self.price_share:.0%} of the price" if self.price_share != 1 else ""
        return (
            f"{self.count} {self.what}, {self.requests} requests, {images}about {self.input_tokens} input "
            f"and {self.output_tokens} output tokens, about {sent} to send, about "
            f"${money(self.usd)}{batch}{reasoning}{f' ({self.prices})' if self.prices else ''}"
        )


def money(usd: float) -> str:
    """Dollars and cents, with more digits for small amounts."""
    return f"{usd:.2f}" if usd >= 0.1 or usd == 0 else f"{usd:.2g}"


def tokens(text: str) -> int:
    """Estimated number of tokens of a text."""
    return math.ceil(len(text.encode()) / BYTES_PER_TOKEN)


def message_tokens(messages: Sequence[Message]) -> int:
    """Estimated input tokens of a chat, without its images."""
    return sum(tokens(text_of(message)) + TOKENS_PER_MESSAGE for message in messages)


def byte_lengths(texts: pa.Array) -> NDArray[np.int64]:
    """Bytes of each text."""
    return np.asarray(pc.binary_length(texts)).astype(np.int64)


def reply_tokens(lengths: NDArray[np.int64], *, count: int) -> NDArray[np.int64]:
    """Estimated output tokens of `count` sentences for narrations of these lengths in bytes."""
    narration = np.ceil(lengths / BYTES_PER_TOKEN)
    return (np.ceil(count * (narration * WORDIER + 2)) + 2).astype(np.int64)


def highest_usd(request: Request, token_limit: int, prices: Prices) -> float:
    """Upper bound on a request's price: a token has at least one byte, and each reply ends at its limit."""
    given = (len(json.dumps(request.schema)) if request.schema else 0) + request.most_input_tokens
    given += TOKENS_PER_MESSAGE * len(request.messages)
    cached = given if prices.cached_input > prices.input else 0
    return prices.usd(given, token_limit * request.choices, cached_tokens=cached)


def estimate_texts(
    lengths: NDArray[np.int64], *, rephrase: RephraseSettings, model: RephraserSettings
) -> Estimate:
    """Size and price of rephrasing narrations of these lengths in bytes."""
    requests = math.ceil(len(lengths) / model.narrations_per_request)
    given, wanted = _tokens_by_text(lengths, rephrase=rephrase, model=model)
    input_tokens = requests * _empty_request(rephrase, model) + int(given.sum())
    output_tokens = int(wanted.sum())
    prices = Prices.of(model, model.price_share)
    return Estimate(
        count=len(lengths),
        requests=requests,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        usd=prices.usd(input_tokens, output_tokens),
        reasoning_usd=prices.usd(0, requests * model.max_reasoning_tokens),
        sent_bytes=int(lengths.sum()) + requests * _prompt_bytes(rephrase, model),
        price_share=model.price_share,
        prices=Prices.of(model).described,
    )


def usd_by_text(
    lengths: NDArray[np.int64], *, rephrase: RephraseSettings, model: RephraserSettings
) -> NDArray[np.float64]:
    """Price of each narration, given its length in bytes, including its share of the request."""
    given, wanted = _tokens_by_text(lengths, rephrase=rephrase, model=model)
    shared = _empty_request(rephrase, model) / model.narrations_per_request
    prices = Prices.of(model, model.price_share)
    return ((given + shared) * prices.input + wanted * prices.output) / 1e6


def _empty_request(rephrase: RephraseSettings, model: RephraserSettings) -> int:
    """Input tokens of a request without its narrations."""
    return message_tokens(_prompt(rephrase, model))


def _prompt_bytes(rephrase: RephraseSettings, model: RephraserSettings) -> int:
    return len(json.dumps(_prompt(rephrase, model)))


def _prompt(rephrase: RephraseSettings, model: RephraserSettings) -> list[Message]:
    texts = [""] * min(model.narrations_per_request, 2)
    return rephrase_messages(texts, instruction=rephrase.instruction, count=rephrase.texts_per_narration)


def _tokens_by_text(
    lengths: NDArray[np.int64], *, rephrase: RephraseSettings, model: RephraserSettings
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Input and output tokens of each narration."""
    numbering = 3 if model.narrations_per_request > 1 else 0
    given = np.ceil(lengths / BYTES_PER_TOKEN) + numbering
    wanted = reply_tokens(lengths, count=rephrase.texts_per_narration)
    return given, np.minimum(wanted, model.max_tokens_per_reply)


def limits(max_usd: float, *, wanted: Sequence[float], spent: Sequence[float]) -> list[float]:
    """Total that each shard may spend: parts of `max_usd` in proportion to `wanted`.

    A shard that has already `spent` more than its part, on other narrations, may spend nothing more, and the
    others share the rest. As long as shards stay within their limits, all of them compute the same ones.
    """
    given, used = np.array(wanted, float), np.array(spent, float)
    closed = np.zeros(len(given), np.bool_)
    while True:
        left = max(0.0, max_usd - used[closed].sum())
        whole = given[~closed].sum()
        part = left * given / (whole or 1.0)
        over = ~closed & (used > part)
        if not over.any():
            return [float(value) for value in np.where(closed, used, part)]
        closed |= over
