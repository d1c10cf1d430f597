"""Writes requests to files, uploads them and creates batches; recovers from kills and lost replies."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from avion_core.config import ChatSettings
from avion_core.narrate.batch_collect import is_token_limit
from avion_core.narrate.batch_patience import NO_API, PatientServer
from avion_core.narrate.batch_results import custom_id, digest_of
from avion_core.narrate.batch_server import ENDPOINT, Batch
from avion_core.narrate.batch_state import Flight, Row, Stage, new_flight, now
from avion_core.narrate.budget import BudgetError
from avion_core.narrate.client import ChatClient, Outcome, say
from avion_core.narrate.exchange import BatchBooks, NoAnswer, ProviderError, Request
from avion_core.narrate.failures import Failure, Fault
from avion_core.narrate.patience import Tries


class Sender:
    """The batches of one shard on a server, and the requests to send again."""

    def __init__(
        self,
        settings: ChatSettings,
        home: Path,
        *,
        server: PatientServer,
        direct: ChatClient,
        books: BatchBooks,
    ) -> None:
        self.flights: list[Flight] = []
        self.again: deque[tuple[Flight, Row]] = deque()
        """Requests to send once more, with the batches whose files hold their messages."""
        self._settings, self._home, self._server, self._direct = settings, home, server, direct
        self._books, self._key = books, direct.key
        self._arrived: list[Outcome] = []
        self._most = settings.batch_requests
        self._short: BudgetError | None = None
        """Why no request may be sent before a batch is over: batches count at their highest price."""
        self._crowded, self._crowded_since = False, 0.0
        """Whether the server takes no batch until another is over, and since when it has had none of ours."""
        self._tried = False
        self._uncreated = 0

    def may_send(self, waiting: deque[Request]) -> bool:
        """Whether there is a request to send and room for a batch."""
        blocked = bool(self.flights) and (self._crowded or self._short is not None)
        return bool(waiting or self.again) and not blocked

    def send(self, waiting: deque[Request]) -> Iterator[Outcome]:
        """Send one batch; the first request of a run directly."""
        if not self._settings.batch:
            yield from self._direct.answers(waiting, self._books)
            return
        self._server.check()
        if not self._tried:
            self._tried = True
            yield from self._send_directly(waiting)
            return
        share, number = self._settings.price_share, self._books.next_try
        flight = new_flight(self._home, server=self._server.address, price_share=share, first_try=number)
        try:
            yield from self._fill(flight, waiting)
        except ProviderError:
            self._drop(flight)
            raise
        if flight.rows:
            self._launch(flight)
        else:
            flight.remove()
            if self._short is not None and not self.flights:
                raise self._short
        arrived, self._arrived = self._arrived, []
        yield from arrived

    def _send_directly(self, waiting: deque[Request]) -> Iterator[Outcome]:
        """Send one request by itself, to learn which parameters the server takes."""
        request = self._next(waiting)
        try:
            yield from self._direct.answers(deque([request]), self._books)
        except BudgetError as error:
            if not self.flights:
                raise
            self._short, self._tried = error, False
            waiting.appendleft(request)

    def _fill(self, flight: Flight, waiting: deque[Request]) -> Iterator[Outcome]:
        """Write requests to the batch's file until it is full or the budget is used; yields those that are
        too large for any file."""
        most_bytes = int(self._settings.batch_megabytes * 1e6)
        limit, self._short = self._direct.form.token_limit(self._settings), None
        with flight.writing():
            while (waiting or self.again) and flight.size < self._most:
                request = self._next(waiting)
                body = self._direct.form.arguments(request, self._settings)
                name = custom_id(flight.size, body)
                line = json.dumps({"custom_id": name, "method": "POST", "url": ENDPOINT, "body": body})
                data = line.encode() + b"\n"
                if len(data) > most_bytes:
                    yield request, NoAnswer(self._too_large(len(data)))
                elif flight.length + len(data) > most_bytes or not self._afford(request, limit, flight):
                    waiting.appendleft(request)
                    break
                else:
                    flight.add(request, data, token_limit=limit, digest=digest_of(name))

    def _next(self, waiting: deque[Request]) -> Request:
        if not self.again:
            return waiting.popleft()
        flight, row = self.again.popleft()
        return flight.full(row)

    def _afford(self, request: Request, limit: int, flight: Flight) -> bool:
        """Record a request's try, unless the budget has no room for it now."""
        try:
            self._books.begin(request, limit, price_share=flight.state.price_share)
        except BudgetError as error:
            self._short = error
            return False
        return True

    def _launch(self, flight: Flight) -> None:
        """Upload a written file and create its batch."""
        token = flight.state.token
        uploaded = self._server.patiently(lambda: self._server.api.upload(flight.input, f"{token}.jsonl"))
        if isinstance(uploaded, Failure):
            self._take_refusal(flight, uploaded)
            return
        self._books.sync()
        flight.note(stage=Stage.CREATING, input_file=uploaded, created_at=now())
        tries = Tries(self._settings)
        while True:
            made = self._server.api.create(uploaded, token)
            if isinstance(made, Batch):
                self._note_created(flight, made)
                return
            if is_token_limit(made.said):
                self.wait_for_room(flight, made.said)
                return
            if made.billed or made.status == 408 or (made.status or 0) >= 500:
                self._settle_creation(flight, made, tries)
                return
            if made.fault is not Fault.AWAY:
                self._take_refusal(flight, made)
                return
            self._server.wait_out(made, tries)

    def _settle_creation(self, flight: Flight, failure: Failure, tries: Tries) -> None:
        """Find out whether a batch was created although the reply was lost; if not, start over."""
        self._server.wait_out(failure, tries)
        if self.found(flight):
            return
        self._uncreated += 1
        self.take_back(flight)
        if self._uncreated > self._settings.max_attempts:
            raise ProviderError(f"{self._server.address} creates no batch ({self._server.said(failure)})")

    def _note_created(self, flight: Flight, batch: Batch) -> None:
        flight.note(stage=Stage.CREATED, batch=batch.id, created_at=flight.state.created_at or now())
        self._uncreated = 0
        flight.unload()
        self.flights.append(flight)
        say(f"batch {batch.id}: {flight.size} requests sent")
        if self._short is not None:
            say(
                f"{self._short}; the other requests wait until this batch is over, as its requests count at "
                "their highest price"
            )

    def _take_refusal(self, flight: Flight, failure: Failure) -> None:
        """Handle a file or batch that was not accepted. Raises ProviderError unless it is only too large."""
        if failure.status == 413 and flight.size > 1:
            self._most = max(1, flight.size // 2)
            say(f"{self._server.address} refuses a file of {flight.length:,} bytes; smaller ones follow")
            self.take_back(flight)
            return
        if failure.status == 413:
            (row,) = flight.rows.values()
            self._arrived.append((flight.full(row), NoAnswer(self._server.said(failure))))
            self._drop(flight)
            return
        self._drop(flight)
        if failure.status in NO_API:
            raise self._server.no_api(failure)
        raise ProviderError(
            f"{self._server.address} does not accept the batch ({self._server.said(failure)})"
        )

    def wait_for_room(self, flight: Flight, said: str) -> None:
        """Take back a batch for which the server's queue has no room."""
        self.take_back(flight)
        if self.flights:
            say(f"the server's queue is full ({self._key.public(said)}); waiting for a batch to be over")
            self._crowded = True
            return
        self._crowded_since = self._crowded_since or now()
        if now() - self._crowded_since > self._settings.batch_hours * 3600:
            raise ProviderError(
                f"{self._server.address} has had no room for a batch for {self._settings.batch_hours:g} "
                f"hours ({self._key.public(said)}); see whether other batches of the account are in progress"
            )
        self._most = max(1, flight.size // 2)
        say(f"the server's queue has no room ({self._key.public(said)}); next: {self._most} requests")
        self._server.pause(self._settings.batch_poll_seconds)

    def _drop(self, flight: Flight) -> None:
        """Cancel the tries of a batch that does not exist."""
        for place in range(flight.size):
            self._books.cancel(flight.try_number(place))
        flight.remove()

    def take_back(self, flight: Flight) -> None:
        """Cancel a batch's tries, none of which was served, and send its requests again.

        Those of an earlier session are requested again by the caller.
        """
        for place, row in flight.rows.items():
            self._books.cancel(flight.try_number(place))
            if not flight.earlier:
                self.again.append((flight, row))
        flight.remove()
        if flight in self.flights:
            self.flights.remove(flight)

    def found(self, flight: Flight) -> bool:
        """Whether the server has created a batch; if it has not, none can be created any more."""
        state = flight.state
        for attempt in range(2):
            found = self._server.patiently(lambda: self._server.api.find(state.input_file, state.token))
            if isinstance(found, Batch):
                self._note_created(flight, found)
                return True
            if isinstance(found, Failure):
                raise ProviderError(
                    f"{self._server.address} does not list its batches ({self._server.said(found)}), so it "
                    f"is unknown whether it created one; look for '{state.token}' in its metadata, and "
                    f"delete {flight.folder} if there is none"
                )
            if not attempt:
                self._server.patiently(lambda: self._server.api.delete(state.input_file))
                self._server.pause(self._settings.batch_poll_seconds)  # a list may be a little behind
        return False

    def _too_large(self, length: int) -> str:
        where = self._settings.where
        return f"its {length:,} bytes are more than a batch's file may have ({where}.batch_megabytes)"

    def make_room(self) -> None:
        """Note that a batch is over: its requests left the server's queue and count at their real price."""
        self._crowded, self._crowded_since, self._short = False, 0.0, None
