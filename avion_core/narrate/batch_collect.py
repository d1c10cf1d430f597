"""Sorts the results of one batch that is over: answers, failures, and requests without a result.

A request counts as served, and so as billed, unless the server says otherwise: by a status of its own in the
request's line, or by the number of requests that it counts as completed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from avion_core.narrate.api_key import ApiKey, answer_of
from avion_core.narrate.batch_results import outcome_of, read_result
from avion_core.narrate.batch_server import Batch
from avion_core.narrate.batch_state import Flight, Row, now
from avion_core.narrate.chat_reply import ChatReply
from avion_core.narrate.exchange import Answer, BatchBooks, Request
from avion_core.narrate.failures import Failure, Fault
from avion_core.narrate.request_form import RequestForm

LIMIT_WORDS = ("token_limit_exceeded", "enqueued token")
"""Words of a server whose queue is full; finished batches make room."""


def is_token_limit(said: str) -> bool:
    """Whether a server says that too many tokens are enqueued."""
    return any(words in said.lower() for words in LIMIT_WORDS)


@dataclass
class Collection:
    """The results of a batch as they are read."""

    flight: Flight
    batch: Batch
    books: BatchBooks
    key: ApiKey
    form: RequestForm
    """What is known of the server."""
    answered: int = 0
    """Answers that were read, including those that an earlier session had recorded."""
    failed: list[tuple[Row, Failure]] = field(default_factory=list)
    """Requests without an answer."""
    _served: set[int] = field(default_factory=set)
    _errors: dict[int, Failure] = field(default_factory=dict)
    """Of requests without an answer so far, by index."""

    def take(self, line: bytes) -> Iterator[tuple[Request, Answer]]:
        """Record a line of a result file; yields the answer to a request of this session.

        Lines of unknown requests and those after an answer are ignored; an answer counts even after an error.
        """
        result = read_result(line)
        if result is None or result.place >= self.flight.size:
            return
        row = self.flight.rows.get(result.place)
        if row is None:
            if result.place not in self._served and isinstance(result.response, dict):
                self._count_earlier(result.place, result.response.get("status_code"))
            return
        if row.digest != result.digest:
            return
        request = self.flight.full(row)
        outcome = outcome_of(
            result, sent_bytes=request.most_input_tokens, token_limit=row.token_limit * request.choices
        )
        if isinstance(outcome, Failure):
            self._errors[result.place] = outcome
            return
        del self.flight.rows[result.place]
        number = self.flight.try_number(result.place)
        self._served.add(result.place)
        self.answered += 1
        self.form = self.form.joined(self.form.learnt_from(outcome))
        yield from self._answer(request, outcome, number)

    def _answer(self, request: Request, reply: ChatReply, number: int) -> Iterator[tuple[Request, Answer]]:
        seconds = now() - self.flight.state.created_at
        answer = answer_of(reply, number, seconds, key=self.key)
        if self.flight.earlier:
            self.books.settle_unread(request, answer)
        else:
            yield request, answer

    def _count_earlier(self, place: int, status: object) -> None:
        """Count a served request whose answer an earlier session had recorded."""
        if type(status) is int and 200 <= status < 300:
            self._served.add(place)
            self.answered += 1

    def _note_failure(self, place: int, row: Row, failure: Failure) -> None:
        if failure.billed:
            self._served.add(place)
        else:
            self.books.cancel(self.flight.try_number(place))
        self.failed.append((row, failure))

    def close(self) -> None:
        """Record the requests without an answer, after all lines are read."""
        for place, failure in sorted(self._errors.items()):
            if (failed := self.flight.rows.pop(place, None)) is not None:
                self._note_failure(place, failed, failure)
        completed, served = self.batch.completed, len(self._served)
        refused = self.batch.status == "failed" and not self.batch.result_files
        unserved = refused or (completed is not None and completed <= served)
        reasons = {error.line - 1: error.said for error in self.batch.errors if error.line}
        why = f"the batch {self.batch.id} is {self.batch.status}, without a result for it"
        for place, row in sorted(self.flight.rows.items()):
            failure = Failure(Fault.AWAY, why, not unserved)
            if refused and place in reasons:
                failure = Failure(Fault.REFUSED, reasons[place], False)
            self._note_failure(place, row, failure)
        self.flight.rows.clear()
