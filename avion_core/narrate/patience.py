"""How long failures are waited out: those of one request, and those of the server."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable

from avion_core.config import OpenAISettings
from avion_core.narrate.exchange import ProviderError
from avion_core.narrate.failures import Failure, Fault

LONGEST_WAIT_SECONDS = 30.0
"""Bound on our own growing waits."""
LONGEST_ASKED_WAIT_SECONDS = 600.0
"""Bound on a wait that the server asks for."""
SAID_AFTER_SECONDS = 5.0
"""An outage that lasts longer is announced."""


class Tries:
    """The failed tries of one request."""

    def __init__(self, settings: OpenAISettings) -> None:
        self._settings = settings
        self._counts: Counter[Fault] = Counter()
        self._first = 0.0

    def note(self, failure: Failure) -> None:
        """Count one more."""
        if not self._counts:
            self._first = time.monotonic()
        self._counts[failure.fault] += 1

    def of(self, fault: Fault) -> int:
        """How many failed in this way."""
        return self._counts[fault]

    def are_over(self) -> bool:
        """Whether another try is not worth it, unless it was the server's fault."""
        if self._counts[Fault.REFUSED] or self._counts[Fault.FAILED] >= self._settings.max_attempts:
            return True
        away = time.monotonic() - self._first > self._settings.outage_minutes * 60
        return away and self._counts[Fault.AWAY] >= self._settings.max_attempts

    def wait_seconds(self, failure: Failure) -> float:
        """Twice as long as the last time and at least what the server asks, with some jitter."""
        growing = self._settings.first_wait_seconds * 2.0 ** min(self._counts.total() - 1, 30)
        return max(min(growing, LONGEST_WAIT_SECONDS), asked_wait(failure)) * random.uniform(1.0, 1.25)


def asked_wait(failure: Failure) -> float:
    """How long a server asks all requests to wait, in seconds, within reason; 0 if it does not ask."""
    return min(failure.asked_seconds, LONGEST_ASKED_WAIT_SECONDS)


class Outage:
    """The time since which a server has answered nothing."""

    def __init__(self, settings: OpenAISettings, server: str, say: Callable[[str], None]) -> None:
        self._minutes, self._server, self._say = settings.outage_minutes, server, say
        self._since: float | None = None
        self._announced = False

    def note(self, said: str) -> None:
        """The server did not answer."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        seconds = now - self._since
        if seconds > SAID_AFTER_SECONDS and not self._announced:
            clock = time.strftime("%H:%M:%S", time.localtime(time.time() - seconds))
            self._say(
                f"{self._server} has answered nothing since {clock} ({said}); waiting "
                f"{self._minutes:g} minutes for it (narrate.openai.outage_minutes)"
            )
            self._announced = True

    def is_long(self) -> bool:
        """Whether it has lasted for `outage_minutes`."""
        return self._since is not None and time.monotonic() - self._since >= self._minutes * 60

    def check(self, said: str) -> None:
        """Raise ProviderError if it has lasted for `outage_minutes`."""
        if self.is_long():
            raise ProviderError(
                f"{self._server}: no answer for {self._minutes:g} minutes, the last try: {said}. Answers "
                "so far are kept: the same command goes on from here once the server is healthy again "
                "(narrate.openai.outage_minutes bounds the wait)"
            )

    def over(self) -> None:
        """The server answers."""
        if self._announced and self._since is not None:
            self._say(f"{self._server} answers again after {time.monotonic() - self._since:.0f} s")
        self._since, self._announced = None, False
