"""Calls a server's Batch API until it answers, and explains why if it never will."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from avion_core.config import ChatSettings
from avion_core.narrate.api_key import ApiKey
from avion_core.narrate.batch_server import BatchServer
from avion_core.narrate.client import say
from avion_core.narrate.exchange import ProviderError
from avion_core.narrate.failures import Failure, Fault
from avion_core.narrate.patience import Outage, Tries, setup_problem

NO_API = (404, 405, 501)
"""Statuses of a server without a Batch API."""

Made = TypeVar("Made")


class StoppedError(Exception):
    """A stop signal came; nothing more is sent."""


class PatientServer:
    """A server's Batch API; waits out temporary failures."""

    def __init__(self, settings: ChatSettings, server: str, key: ApiKey) -> None:
        self.api = BatchServer(settings, server, key)
        self.stop = threading.Event()
        """Set by a stop signal: ends every wait with StoppedError."""
        self.address = server
        self._settings, self._key = settings, key
        self.outage = Outage(settings, server, say)
        self._checked = False

    def patiently(self, call: Callable[[], Made | Failure]) -> Made | Failure:
        """Call until the server answers. Raises ProviderError if it is away for too long, or set up wrong."""
        tries = Tries(self._settings)
        while True:
            made = call()
            if not isinstance(made, Failure):
                self.outage.over()
                return made
            if made.fault is Fault.SETUP:
                raise self.problem(made)
            if made.fault is Fault.REFUSED:
                return made
            self.wait_out(made, tries)

    def check(self) -> None:
        """Raise ProviderError if the server has no Batch API."""
        if self._checked:
            return
        tries = Tries(self._settings)
        while (failure := self.api.check()) is not None:
            if failure.status in NO_API:
                raise self.no_api(failure)
            if failure.fault in (Fault.SETUP, Fault.REFUSED):
                raise self.problem(failure)
            self.wait_out(failure, tries)
        self._checked = True

    def no_api(self, failure: Failure) -> ProviderError:
        where = self._settings.where
        return ProviderError(
            f"{self.address} has no Batch API ({self.said(failure)}); set {where}.batch to false, or see "
            f"{where}.base_url"
        )

    def problem(self, failure: Failure) -> ProviderError:
        return setup_problem(failure, self._settings, self.address, self._key)

    def said(self, failure: Failure) -> str:
        return self._key.public(failure.said)

    def wait_out(self, failure: Failure, tries: Tries) -> None:
        self.outage.note(self.said(failure))
        self.outage.check(self.said(failure))
        tries.note(failure)
        self.pause(tries.wait_seconds(failure))

    def pause(self, seconds: float) -> None:
        """Wait; raises StoppedError if a stop signal comes."""
        if self.stop.wait(seconds):
            raise StoppedError
