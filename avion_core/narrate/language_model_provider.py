"""The provider `language_model`: a language model rephrases narrations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from avion_core.config import RephraserSettings
from avion_core.narrate.api_key import read_api_key
from avion_core.narrate.budget import Estimate, reply_tokens
from avion_core.narrate.provider import NarrateError, Provider, Rephrasing, Work, check_server
from avion_core.narrate.questions import Questions
from avion_core.narrate.rephrase_questions import RephraseQuestions

TYPICAL_BYTES = len("#C C picks up a cup from the table")


class LanguageModelProvider(Provider):
    """Sends requests to a server, keeps its answers in a journal, and stays within `max_usd`."""

    def rephrase(self, work: Work) -> Iterator[Rephrasing]:
        """Answers for each text, from the journal or the server."""
        from avion_core.narrate.language_model import ask_model  # imports the client

        return ask_model(
            RephraseQuestions(work.texts, self.settings),
            every=RephraseQuestions(work.every_text, self.settings),
            others={folder: RephraseQuestions(texts, self.settings) for folder, texts in work.others.items()},
            shard=work.shard,
            journal_dir=work.journal_dir,
        )

    def check(self) -> None:
        """Check the address, the prices, and that a reply may have enough tokens."""
        model, count = self.settings.of(RephraserSettings), self.settings.rephrase.texts_per_narration
        check_server(model)
        typical = np.full(model.narrations_per_request, TYPICAL_BYTES)
        needed = int(reply_tokens(typical, count=count).sum())
        if needed > model.max_tokens_per_reply:
            raise NarrateError(
                f"narrate.language_model.max_tokens_per_reply ({model.max_tokens_per_reply}) cannot hold "
                f"{count} sentences for {model.narrations_per_request} "
                f"narrations (about {needed} tokens); raise it or lower narrations_per_request"
            )

    def check_key(self) -> None:
        """Raise ProviderError if the key cannot be used."""
        read_api_key(self.settings.of(RephraserSettings))

    def estimate(self, texts: pa.Array, *, journal_dir: Path | None) -> Estimate:
        """Requests, tokens and price. Nothing is sent."""
        from avion_core.narrate.language_model import open_questions  # imports the client

        questions: Questions = RephraseQuestions(texts, self.settings)
        return (open_questions(questions, journal_dir) if journal_dir else questions).estimate()
