"""Narrations to rephrase, as questions for a language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avion_core.config import NarrateSettings, RephraserSettings
from avion_core.files import code_fingerprint
from avion_core.narrate.budget import Estimate, byte_lengths, estimate_texts, usd_by_text
from avion_core.narrate.exchange import Request
from avion_core.narrate.ledger import key_numbers
from avion_core.narrate.parse import Parsed, parse_replies
from avion_core.narrate.prompts import answer_keys, rephrase_messages, reply_schema, unfit
from avion_core.narrate.questions import CANNOT_BE_READ, Questions

PARSER_FILES = (
    "narrate/parse.py",
    "narrate/reply_forms.py",
    "narrate/sentences.py",
    "narrate/talk.yaml",
    "plain_text.py",
)
SAME_PARSERS = {"b4f1e0e3": "6c231eb8"}
"""The digest under which a parser with the very same results has judged answers, by its digest now."""
_DIGEST = code_fingerprint(Path(__file__).parents[1] / name for name in PARSER_FILES)[:8]
PARSER = SAME_PARSERS.get(_DIGEST, _DIGEST)
"""Digest of the current parser."""
TEXTS_AT_ONCE = 65536


class RephraseQuestions(Questions):
    """Distinct narrations."""

    title: ClassVar[str] = "narrate"
    what: ClassVar[str] = "narrations"
    section: ClassVar[str] = "narrate"
    prompt: ClassVar[str] = "narrate.rephrase.instruction"
    cheaper: ClassVar[str] = "lower narrate.rephrase.texts_per_narration, raise narrations_per_request"

    def __init__(self, texts: pa.Array, settings: NarrateSettings) -> None:
        self.texts, self._settings = texts, settings
        self.server = self._model = settings.of(RephraserSettings)
        self.max_failed_share = settings.max_failed_share
        pieces = [np.empty(0, np.uint64)]
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            piece = texts.slice(start, TEXTS_AT_ONCE).to_pylist()
            pieces.append(key_numbers(list(key_texts(piece, settings))))
        self.keys = np.concatenate(pieces)

    @property
    def parser(self) -> str:
        """Digest of the parser."""
        return PARSER

    @property
    def at_once(self) -> int:
        """Narrations in one request."""
        return self._model.narrations_per_request

    def at(self, places: NDArray[np.int64]) -> RephraseQuestions:
        """Some of the narrations."""
        return RephraseQuestions(self.texts.take(pa.array(places)), self._settings)

    def name(self, place: int) -> str:
        """The narration."""
        return str(self.texts[place].as_py())

    def unfit(self, place: int) -> str | None:
        """Why a narration cannot be sent."""
        return unfit(self.name(place))

    def fit(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the narrations can be sent."""
        return np.array([unfit(text) is None for text in self.texts.take(pa.array(places)).to_pylist()], bool)

    def request(self, number: int, places: Sequence[int]) -> Request:
        """One request for these narrations."""
        texts = self.texts.take(pa.array(places)).to_pylist()
        rephrase = self._settings.rephrase
        count = rephrase.texts_per_narration
        messages = rephrase_messages(texts, instruction=rephrase.instruction, count=count)
        return Request(number, tuple(texts), tuple(messages), reply_schema(len(texts), count=count))

    def judged(self, reply: Any, names: Any, *, finish: Any) -> list[Parsed]:
        """The usable sentences for each narration of a request."""
        rephrase = self._settings.rephrase
        try:
            return parse_replies(
                reply,
                names,
                count=rephrase.texts_per_narration,
                finish=finish,
                instruction=rephrase.instruction,
            )
        except Exception:  # the parser should accept anything, but a paid answer must never stop a run
            return [CANNOT_BE_READ] * (len(names) if isinstance(names, list) else 1)

    def estimate(self) -> Estimate:
        """Size and price of rephrasing all."""
        return estimate_texts(byte_lengths(self.texts), rephrase=self._settings.rephrase, model=self._model)

    def usd(self) -> NDArray[np.float64]:
        """Price of each narration with its share of the request."""
        return usd_by_text(byte_lengths(self.texts), rephrase=self._settings.rephrase, model=self._model)


def key_texts(texts: Sequence[str], settings: NarrateSettings) -> Iterator[str]:
    """The keys of texts under the settings, as in a journal."""
    model = settings.of(RephraserSettings)
    return answer_keys(
        texts,
        client=model.client,
        model=model.model,
        temperature=model.temperature,
        instruction=settings.rephrase.instruction,
        count=settings.rephrase.texts_per_narration,
    )
