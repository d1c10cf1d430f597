"""Has requests answered by a server's Batch API: at about half the price, within a day.

Requests are written to a file, the file is uploaded, and a batch is created from it and polled until it is
over. Each step is on disk before it is taken (`batch_state`), and the requests' tries are in the journal
before the batch is created. The first request of a run is sent directly, or else a parameter that the server
refuses would be noticed only when a whole batch comes back.

Answers to batches of an earlier session go straight to the journal, unjudged; the caller reads it again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avion_core.config import ChatSettings
from avion_core.narrate.batch_collect import Collection, is_token_limit
from avion_core.narrate.batch_patience import PatientServer, StoppedError
from avion_core.narrate.batch_sender import Sender
from avion_core.narrate.batch_server import Batch, ResultsError
from avion_core.narrate.batch_state import Flight, Stage, load_flights, now
from avion_core.narrate.client import DOUBTFUL_REQUESTS, ChatClient, Outcome, say
from avion_core.narrate.exchange import BatchBooks, NoAnswer, ProviderError, Request
from avion_core.narrate.failures import Failure, Fault
from avion_core.narrate.patience import Tries
from avion_core.narrate.request_form import RequestForm
from avion_core.processes import finishing_when_stopped

FRUITLESS = 3
"""The run ends after this many batches in a row without an answer."""
UNKNOWN = 3
"""After so many replies in a row that it does not know a batch, the server has deleted it."""
CANCELLING_SECONDS = 3600.0
"""A cancelled batch that is not over by then never will be; servers take ten minutes."""
SAID_SECONDS = 60.0
"""Minimum time between two lines about one batch."""


class BatchClient:
    """Has requests answered in batches. Raises ProviderError if there is no usable key."""

    def __init__(
        self, settings: ChatSettings, home: Path, *, direct: ChatClient, wanted: NDArray[np.uint64]
    ) -> None:
        """`home` is the shard's folder of batches in flight, `direct` sends single requests.

        Batches of an earlier session are collected if they may answer one of the keys `wanted`. With
        `settings.batch` off, new requests are sent directly.
        """
        self._settings, self._home, self._wanted = settings, home, wanted
        self._direct = direct
        self._key = self._direct.key
        self._server = PatientServer(settings, self._direct.server, self._key)
        self._failures: Counter[int] = Counter()
        """Failed tries of each request, by its number."""
        self._fruitless = 0

    @property
    def form(self) -> RequestForm:
        """What is known of the server."""
        return self._direct.form

    def answers(self, waiting: deque[Request], books: BatchBooks) -> Iterator[Outcome]:
        """Yield (request, outcome) as batches are over.

        Raises ProviderError for a refused key, an unknown model, a server without a Batch API, one that
        accepts no request or is away for more than `outage_minutes`; and the error of `books.begin`, once no
        batch is left that might make room in the budget. Batches that are in flight then, or when a stop
        signal comes, continue on the server; the next session has their answers.
        """
        self._books = books
        self._sender = Sender(
            self._settings, self._home, server=self._server, direct=self._direct, books=books
        )
        with finishing_when_stopped(self._stop_by_signal):
            try:
                self._resume()
                while waiting or self._sender.again or self._sender.flights:
                    for flight in list(self._sender.flights):
                        yield from self._look(flight)
                    while self._sender.may_send(waiting):
                        yield from self._sender.send(waiting)
                    if waiting or self._sender.again or self._sender.flights:
                        self._server.pause(self._settings.batch_poll_seconds)
            except StoppedError:
                pass
            finally:
                self._server.api.close()

    def _stop_by_signal(self) -> None:
        count = len(self._sender.flights)
        say(f"stopping; {count} batches continue on the server, and the same command collects their answers")
        self._server.stop.set()

    # Batches of an earlier session.

    def _resume(self) -> None:
        """Find out what became of each batch on disk. Raises ProviderError if it is on another server."""
        for flight in load_flights(self._home):
            self._take_over(flight)
            if not flight.rows:
                flight.remove()
                continue
            if not np.isin(flight.keys, self._wanted).any():
                say(f"{flight.folder}: this batch is left for a run with the settings that it was sent with")
                continue
            if flight.state.server != self._server.address:
                raise ProviderError(
                    f"{flight.folder}: a batch is in flight on {flight.state.server}, not on "
                    f"{self._server.address}; set {self._settings.where}.base_url back to collect its "
                    "answers, or delete the folder to give them up"
                )
            self._server.check()
            if flight.state.stage is Stage.CREATED:
                flight.unload()
                self._sender.flights.append(flight)
            elif not self._sender.found(flight):
                self._sender.take_back(flight)

    def _take_over(self, flight: Flight) -> None:
        """Read the requests whose tries are not settled; a batch that was never sent costs nothing."""
        unsettled, share = self._books.open_tries(), flight.state.price_share
        if flight.state.stage is Stage.PREPARING:
            for number in [number for number in unsettled if number >= flight.state.first_try]:
                self._books.cancel(number)
            return
        flight.load()
        for place, row in list(flight.rows.items()) if flight.earlier else ():
            if (number := flight.try_number(place)) in unsettled:
                self._books.take_over(number, row.token_limit, price_share=share)
            else:
                del flight.rows[place]

    # Waiting and collecting.

    def _look(self, flight: Flight) -> Iterator[Outcome]:
        """Look at a batch in flight, and collect its results if it is over."""
        found = self._server.patiently(lambda: self._server.api.batch(flight.state.batch))
        if isinstance(found, Failure):
            self._note_unknown(flight, found)
            return
        flight.unknown = 0
        self._show(flight, found)
        if found.is_over:
            self._take_over(flight)
            said = next((error.said for error in found.errors if is_token_limit(error.said)), None)
            if found.status == "failed" and said and not found.result_files:
                self._sender.wait_for_room(flight, said)
            else:
                yield from self._collect(flight, found)
        elif flight.cancelled_at:
            if now() - flight.cancelled_at > CANCELLING_SECONDS:
                raise ProviderError(
                    f"{self._server.address}: batch {found.id} is '{found.status}' an hour after it was "
                    f"cancelled; the same command looks again, or delete {flight.folder} to give up its "
                    "answers"
                )
        elif now() - flight.state.created_at > self._settings.batch_hours * 3600:
            if not isinstance(self._server.api.cancel(found.id), Failure):
                flight.cancelled_at = now()
            say(f"batch {found.id} takes longer than {self._settings.batch_hours:g} hours; cancelling it")

    def _note_unknown(self, flight: Flight, failure: Failure) -> None:
        """Give up a batch that the server has deleted; it may have been paid for."""
        if failure.status not in (404, 410):
            raise ProviderError(
                f"{self._server.address}: batch {flight.state.batch}: {self._server.said(failure)}"
            )
        flight.unknown += 1
        if flight.unknown < UNKNOWN:
            return
        self._take_over(flight)
        say(
            f"{self._server.address} does not know batch {flight.state.batch} any more "
            f"({self._server.said(failure)}); its {len(flight.rows)} requests are sent again, and also count "
            "as billed"
        )
        if not flight.earlier:
            self._sender.again.extend((flight, row) for row in flight.rows.values())
        flight.remove()
        self._sender.flights.remove(flight)

    def _show(self, flight: Flight, batch: Batch) -> None:
        """Show the progress of a batch: when its state changes, and every SAID_SECONDS."""
        done, seconds = (batch.completed or 0) + (batch.failed or 0), now() - flight.state.created_at
        seen = (batch.status, done)
        same_status = flight.seen[:1] == (batch.status,)
        if seen == flight.seen or (same_status and now() - flight.said_at < SAID_SECONDS):
            return
        flight.seen, flight.said_at = seen, now()
        left = f", about {seconds / done * (flight.size - done) / 60:.0f} min left" if done else ""
        say(
            f"batch {batch.id}: {batch.status}, {done} of {flight.size} requests, {seconds / 60:.0f} min so "
            f"far{'' if batch.is_over else left}"
        )

    def _collect(self, flight: Flight, batch: Batch) -> Iterator[Outcome]:
        """Yield the outcomes of a batch that is over; what has none is sent again."""
        found = Collection(flight, batch, self._books, self._key, self.form)
        for file in batch.result_files:
            yield from self._read(found, file)
        found.close()
        self._direct.form = self.form.joined(found.form)
        self._books.sync()
        self._sender.make_room()
        self._sender.flights.remove(flight)
        flight.remove()
        yield from self._sort_failed(found)

    def _read(self, found: Collection, file: str) -> Iterator[Outcome]:
        """Read a result file; one that breaks off is read again, and lines taken already are ignored."""
        tries = Tries(self._settings)
        while True:
            try:
                for line in self._server.api.lines(file):
                    yield from found.take(line)
                self._server.outage.over()
                return
            except ResultsError as error:
                if error.failure.fault is Fault.SETUP:
                    raise self._server.problem(error.failure) from None
                if error.failure.fault is Fault.REFUSED:
                    said = self._server.said(error.failure)
                    say(f"{self._server.address} does not give out the file {file} ({said})")
                    return
                try:
                    self._server.wait_out(error.failure, tries)
                except ProviderError as away:
                    raise ProviderError(
                        f"{away}. If the results of batch {found.batch.id} break off at the same place each "
                        f"time, delete {found.flight.folder}: the requests without an answer are sent again"
                    ) from None

    def _sort_failed(self, found: Collection) -> Iterator[Outcome]:
        """Decide which failed requests are sent again, and yield those that are given up.

        Nothing is given up for a large batch without any answer, as the server or a setting is at fault then.
        """
        flight, batch = found.flight, found.batch
        doubtful = not found.answered and flight.size > DOUBTFUL_REQUESTS
        all_refused = doubtful and all(failure.fault is Fault.REFUSED for _, failure in found.failed)
        fruitful, said = found.answered > 0, f"it is {batch.status}"
        for row, failure in found.failed if not flight.earlier else ():
            said, request = self._server.said(failure), flight.full(row)
            better = self.form.without_refused(failure, request, self._settings)
            final = failure.fault in (Fault.REFUSED, Fault.SETUP) and better == self.form
            self._direct.form = better
            if final and (all_refused or failure.fault is Fault.SETUP):
                raise self._server.problem(failure)
            counts = failure.fault is Fault.FAILED or batch.status == "completed"
            self._failures[request.number] += counts and not doubtful
            if final or self._failures[request.number] >= self._settings.max_attempts:
                yield request, NoAnswer(said)
            else:
                self._sender.again.append((flight, row))
            fruitful = fruitful or final or (counts and not doubtful)
        self._fruitless = 0 if fruitful or flight.earlier else self._fruitless + 1
        if self._fruitless >= FRUITLESS:
            reasons = "; ".join(error.said for error in batch.errors[:3])
            raise ProviderError(
                f"{self._server.address}: {FRUITLESS} batches in a row gave no answer; the last, "
                f"{batch.id}, is {batch.status} ({self._key.public(reasons or said)}). The same command "
                "tries again"
            )
