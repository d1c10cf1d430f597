"""How long to wait out failures of a request and of the server, and what is wrong if that does not help."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable

from avion_core.config import ChatSettings
from avion_core.narrate.api_key import ApiKey
from avion_core.narrate.exchange import ProviderError, RefusedError
from avion_core.narrate.failures import Failure, Fault

LONGEST_WAIT_SECONDS = 30.0
"""Upper bound of our own growing waits."""
LONGEST_ASKED_WAIT_SECONDS = 600.0
"""Upper bound of a wait that the server asks for."""
SAID_AFTER_SECONDS = 5.0
"""An outage that lasts longer is announced."""


def setup_problem(failure: Failure, settings: ChatSettings, server: str, key: ApiKey) -> ProviderError:
    """The error for a server that refuses everything: what the user has to change."""
    said, where = key.public(failure.said), settings.where
    if failure.fault is Fault.REFUSED:
        return RefusedError(f"{server} refuses every request ({said})")
    if failure.status in (401, 403):
        return ProviderError(f"{server} refuses the key in {settings.key_from} ({said})")
    if failure.status in (402, 429):
        return ProviderError(f"{server}: the account has no credit left ({said})")
    if failure.status is None:
        return ProviderError(f"{server} cannot be reached ({said}); see {where}.base_url")
    return ProviderError(
        f"{server} does not know the model '{settings.model}', or is not the address of a server for the "
        f"client '{settings.client}' ({said}); see {where}.model and base_url"
    )


class Tries:
    """The failed tries of one request."""

    def __init__(self, settings: ChatSettings) -> None:
        self._settings = settings
        self._counts: Counter[Fault] = Counter()
        self._first = 0.0

    def note(self, failure: Failure) -> None:
        """Count one failure."""
        if not self._counts:
            self._first = time.monotonic()
        self._counts[failure.fault] += 1

    def of(self, fault: Fault) -> int:
        """Number of failures of this kind."""
        return self._counts[fault]

    def are_over(self) -> bool:
        """Whether to give the request up, provided that the server is not at fault."""
        if self._counts[Fault.REFUSED] or self._counts[Fault.FAILED] >= self._settings.max_attempts:
            return True
        away = time.monotonic() - self._first > self._settings.outage_minutes * 60
        return away and self._counts[Fault.AWAY] >= self._settings.max_attempts

    def wait_seconds(self, failure: Failure) -> float:
        """Exponential wait with jitter, at least as long as the server asks."""
        growing = self._settings.first_wait_seconds * 2.0 ** min(self._counts.total() - 1, 30)
        return max(min(growing, LONGEST_WAIT_SECONDS), asked_wait(failure)) * random.uniform(1.0, 1.25)


def asked_wait(failure: Failure) -> float:
    """Seconds that a server asks clients to wait, up to a limit; 0 if it does not ask."""
    return min(failure.asked_seconds, LONGEST_ASKED_WAIT_SECONDS)


class Outage:
    """How long a server has not answered."""

    def __init__(self, settings: ChatSettings, server: str, say: Callable[[str], None]) -> None:
        self._minutes, self._server, self._say = settings.outage_minutes, server, say
        self._setting = f"{settings.where}.outage_minutes"
        self._since: float | None = None
        self._announced = False

    def note(self, said: str) -> None:
        """Record that the server did not answer."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        seconds = now - self._since
        if seconds > SAID_AFTER_SECONDS and not self._announced:
            clock = time.strftime("%H:%M:%S", time.localtime(time.time() - seconds))
            self._say(
                f"{self._server} has not answered since {clock} ({said}); waiting up to "
                f"{self._minutes:g} minutes ({self._setting})"
            )
            self._announced = True

    def is_long(self) -> bool:
        """Whether it has lasted for `outage_minutes`."""
        return self._since is not None and time.monotonic() - self._since >= self._minutes * 60

    def check(self, said: str) -> None:
        """Raise ProviderError if it has lasted for `outage_minutes`."""
        if self.is_long():
            raise ProviderError(
                f"{self._server}: no answer for {self._minutes:g} minutes; last error: {said}. Answers "
                "so far are kept: the same command continues from here once the server is healthy again "
                f"({self._setting} limits the wait)"
            )

    def over(self) -> None:
        """Record that the server answers."""
        if self._announced and self._since is not None:
            self._say(f"{self._server} is answering again after {time.monotonic() - self._since:.0f} s")
        self._since, self._announced = None, False
