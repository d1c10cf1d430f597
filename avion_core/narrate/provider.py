"""What a narration provider does: check its settings, estimate the price, rephrase a shard's texts.

Its settings say which class does its work (`config.ProviderSettings.work`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from avion_core.config import ChatSettings, NarrateSettings
from avion_core.narrate.budget import Estimate
from avion_core.narrate.prices import Prices
from avion_core.registry import load


class NarrateError(ValueError):
    """Narration cannot be set up or its parts do not fit. The message says what to do."""


@dataclass(frozen=True)
class Rephrasing:
    """A narration and its new sentences."""

    text: str
    sentences: list[str]
    reason: str | None = None
    """Why there are none, in words that can be counted; None if the text was not to be rephrased."""
    tries: int = 0
    """Requests sent for a narration without sentences."""
    other_subject: int = 0
    """Sentences left out because their subject is not the narration's."""


@dataclass(frozen=True)
class Work:
    """One shard of rephrasing."""

    texts: pa.Array
    """The shard's distinct texts, sorted."""
    every_text: pa.Array
    """The distinct texts of all shards."""
    shard: str
    """`k-of-n`."""
    class_lists: Sequence[Path]
    """CSVs of verb and noun classes, for a provider that reads them."""
    journal_dir: Path
    """Folder for paid answers."""
    others: Mapping[Path, pa.Array] = field(default_factory=dict)
    """For a provider whose answers data sets share: the texts of other data sets that are rephrased too, by
    the folder of their answers. Each text is one data set's."""


class Provider:
    """Rephrases narrations. The defaults are those of a provider that sends no requests."""

    def __init__(self, settings: NarrateSettings) -> None:
        self.settings = settings

    def rephrase(self, work: Work) -> Iterator[Rephrasing]:
        """A rephrasing for each text of the shard, in order."""
        raise NotImplementedError

    def check(self) -> None:
        """Cheap checks of the settings; raises NarrateError with the way out."""

    def check_key(self) -> None:
        """Raise ProviderError if the key is missing. Only requests need it."""

    def estimate(self, texts: pa.Array, *, journal_dir: Path | None) -> Estimate:
        """Size and price of rephrasing distinct texts that the journal, if given, does not answer yet."""
        return Estimate(len(texts), 0, 0, 0, 0.0)


def check_server(server: ChatSettings) -> None:
    """Raise NarrateError unless a server's address is one, or PriceError if its prices are not known."""
    Prices.of(server)
    if server.base_url is not None and not re.match(r"https?://[^/\s]+", server.base_url):
        raise NarrateError(
            f"{server.where}.base_url must start with http:// or https:// (got '{server.base_url}')"
        )


def provider_of(settings: NarrateSettings) -> Provider:
    """The chosen provider, imported when used."""
    made: Provider = load(settings.own.work, base=Provider)(settings)
    return made
