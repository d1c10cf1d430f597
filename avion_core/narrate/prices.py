"""Prices of language models: those of the settings, or else the list prices of `prices.yaml`.

A model without either is refused, so that no bill is silently zero or wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from avion_core.config import ChatSettings

TABLE = Path(__file__).with_name("prices.yaml")
_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")
"""The date in the name of one version of a model, which costs what the model does."""


class PriceError(ValueError):
    """The price of a model is not known. The message says which settings give it."""


@dataclass(frozen=True)
class Prices:
    """US dollars per million tokens."""

    input: float
    cached_input: float
    """Of input tokens that the server had in its cache."""
    output: float
    origin: str
    """`as set`, or the date of the list price."""
    source: str = ""
    """Where the list price is published."""

    @classmethod
    def of(cls, model: ChatSettings, share: float = 1.0) -> Prices:
        """This share of a model's prices. Raises PriceError if they are not known.

        With a share, as in a batch, cached tokens cost as much as others: servers grant one discount.
        """
        found = _normal(model)
        if share == 1.0:
            return found
        return replace(
            found, input=share * found.input, cached_input=share * found.input, output=share * found.output
        )

    def usd(self, input_tokens: float, output_tokens: float, *, cached_tokens: float = 0) -> float:
        """Price of this many tokens; `cached_tokens` of the input were cached."""
        whole = (input_tokens - cached_tokens) * self.input + output_tokens * self.output
        return (whole + cached_tokens * self.cached_input) / 1e6

    def __str__(self) -> str:
        return f"${self.input:g}/${self.output:g} per million tokens in/out, {self.origin}"

    @property
    def described(self) -> str:
        """In words, with where to check a list price."""
        return f"{self}; check it at {self.source}" if self.source else str(self)


def _normal(model: ChatSettings) -> Prices:
    """The prices of requests that are sent directly; those of the settings come before the list's."""
    given, written = model.usd_per_million_input_tokens, model.usd_per_million_output_tokens
    cached = model.usd_per_million_cached_input_tokens
    if given is not None and written is not None:
        return Prices(given, given if cached is None else cached, written, "as set")
    listed = _listed().get(model.model) or _listed().get(_SNAPSHOT.sub("", model.model))
    if listed is None or (given, written) != (None, None):
        raise PriceError(
            f"{model.where}: the price of the model '{model.model}' is not known; set "
            "usd_per_million_input_tokens and usd_per_million_output_tokens, both 0 for a server of your own"
        )
    return listed if cached is None else replace(listed, cached_input=cached)


@cache
def _listed() -> dict[str, Prices]:
    """List prices by model."""
    lists: list[dict[str, Any]] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {
        name: Prices(**prices, origin=f"list price of {entry['date']}", source=entry["source"])
        for entry in lists
        for name, prices in entry["models"].items()
    }
