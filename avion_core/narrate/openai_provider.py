"""The provider `openai`: a language model behind an OpenAI-compatible server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from avion_core.config import OpenAISettings
from avion_core.narrate.api_key import read_api_key
from avion_core.narrate.budget import Estimate, byte_lengths, estimate_texts, reply_tokens
from avion_core.narrate.provider import NarrateError, Provider, Rephrasing, Work

TYPICAL_BYTES = len("#C C picks up a cup from the table")


class OpenAIProvider(Provider):
    """Sends requests to a server, keeps its answers in a journal, and stays within `max_usd`."""

    def rephrase(self, work: Work) -> Iterator[Rephrasing]:
        """Answers for each text, from the journal or the server."""
        from avion_core.narrate.language_model import rephrase_with_model  # imports the client

        return rephrase_with_model(
            work.texts,
            settings=self.settings,
            shard=work.shard,
            every_text=work.every_text,
            journal_dir=work.journal_dir,
        )

    def check(self) -> None:
        """Check the address, and that a reply may have enough tokens."""
        model, count = self.settings.of(OpenAISettings), self.settings.rephrase.texts_per_narration
        if model.base_url is not None and not re.match(r"https?://[^/\s]+", model.base_url):
            raise NarrateError(
                f"narrate.openai.base_url must start with http:// or https:// (got '{model.base_url}')"
            )
        typical = np.full(model.narrations_per_request, TYPICAL_BYTES)
        needed = int(reply_tokens(typical, count=count).sum())
        if needed > model.max_tokens_per_reply:
            raise NarrateError(
                f"narrate.openai.max_tokens_per_reply ({model.max_tokens_per_reply}) cannot hold "
                f"{count} sentences for {model.narrations_per_request} "
                f"narrations (about {needed} tokens); raise it or lower narrations_per_request"
            )

    def check_key(self) -> None:
        """Raise ProviderError if OPENAI_API_KEY cannot be used."""
        read_api_key(self.settings.of(OpenAISettings).base_url or "")

    def estimate(self, texts: pa.Array, *, journal_dir: Path | None) -> Estimate:
        """Requests, tokens and price. Nothing is sent."""
        if journal_dir is not None:
            from avion_core.narrate.language_model import open_texts_of  # imports the client

            texts = open_texts_of(texts, settings=self.settings, journal_dir=journal_dir)
        openai = self.settings.of(OpenAISettings)
        return estimate_texts(byte_lengths(texts), rephrase=self.settings.rephrase, openai=openai)
