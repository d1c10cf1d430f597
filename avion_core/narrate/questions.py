"""What a language model is asked about a data set: narrations to rephrase, or clips to narrate.

The journal, the budget and the loop that sends requests know no more of a question than this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from avion_core.config import ChatSettings
from avion_core.narrate.budget import Estimate
from avion_core.narrate.exchange import Books, ProviderError, Request
from avion_core.narrate.parse import Parsed

READY_REQUESTS = 100
"""Requests kept ready for the client, but at least four times `parallel_requests`."""
CANNOT_BE_READ = Parsed([], "cannot be read", 0)
"""Result for a reply on which the parser fails."""


class Questions:
    """Questions with distinct keys, in order."""

    title: ClassVar[str]
    """Name of the job in messages."""
    what: ClassVar[str]
    """What is asked about, in the plural."""
    section: ClassVar[str]
    """The section of the settings, for messages."""
    cheaper: ClassVar[str]
    """Settings that lower the bill, for messages."""
    prompt: ClassVar[str]
    """The setting with the instruction, for messages."""

    server: ChatSettings
    max_failed_share: float
    keys: NDArray[np.uint64]
    """Key of each question in the journal."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def parser(self) -> str:
        """Digest of the parser that judges replies, 8 hex digits."""
        raise NotImplementedError

    @property
    def at_once(self) -> int:
        """Questions in one request."""
        return 1

    @property
    def ready(self) -> int:
        """Requests kept ready for the client."""
        return max(READY_REQUESTS, 4 * self.server.parallel_requests)

    def at(self, places: NDArray[np.int64]) -> Self:
        """Some of the questions."""
        raise NotImplementedError

    def name(self, place: int) -> str:
        """The narration, or the clip's video and seconds."""
        raise NotImplementedError

    def unfit(self, place: int) -> str | None:
        """Why a question cannot be sent, in words that can be counted; None if it can."""
        raise NotImplementedError

    def fit(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the questions can be sent."""
        return np.array([self.unfit(place) is None for place in places.tolist()], bool)

    def prepare(self, client: Any, books: Books) -> None:
        """Learn what the server supports, before requests are made."""

    def doubt(self, reason: str, *, certain: bool = False) -> ProviderError | None:
        """The error to end a run with whose first outcome is a refusal for this reason, or whose server is
        `certain` to refuse everything; None to go on, or for the client's own error."""
        return None

    def request(self, number: int, places: Sequence[int]) -> Request:
        """One request for these questions. Raises MediaError if a clip cannot be read."""
        raise NotImplementedError

    def judged(self, reply: Any, names: Any, *, finish: Any) -> list[Parsed]:
        """The usable sentences of a reply for each question of its request. Never raises."""
        raise NotImplementedError

    def estimate(self) -> Estimate:
        """Size and price of asking all."""
        raise NotImplementedError

    def usd(self) -> NDArray[np.float64]:
        """Estimated price of each question."""
        raise NotImplementedError
