"""Asks a language model the questions of one shard: joins requests, client, journal and budget."""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avion_core.media import MediaError
from avion_core.narrate.answered import Answered
from avion_core.narrate.batch_client import BatchClient
from avion_core.narrate.batch_state import BATCHES, keys_in_flight, shards_in_flight
from avion_core.narrate.books import NO_OTHERS, ShardBooks, open_books
from avion_core.narrate.budget import money
from avion_core.narrate.client import Answering, ChatClient
from avion_core.narrate.exchange import Answer, NoAnswer, ProviderError, RefusedError, Request
from avion_core.narrate.journal import DeadLetter, Journal, JournalError
from avion_core.narrate.ledger import every_ledger, journal_folders, read_ledger
from avion_core.narrate.provider import Rephrasing
from avion_core.narrate.questions import Questions
from avion_core.progress import Progress
from avion_core.shards import shard_numbers

JUDGED_AFTER = 10
"""Finished questions before failures may end the run."""
SURE = 2.58
"""Standard deviations by which the failed share must exceed `max_failed_share`: 99 % confidence."""
SAMPLED = 100
"""Given-up questions of earlier sessions that are read to find the most common reason."""


def ask_model(
    questions: Questions,
    *,
    every: Questions,
    shard: str,
    journal_dir: Path,
    others: Mapping[Path, Questions] = NO_OTHERS,
    client: Answering | None = None,
) -> Iterator[Rephrasing]:
    """The result for each of `questions`; requests only those that the journal does not answer.

    `every` are the questions of all shards, and `others` those of other data sets by their journal's folder,
    to compute this shard's part of `max_usd` and of the limits per minute. Raises ProviderError and
    BudgetError; earlier answers are kept.
    """
    with Journal(journal_dir, shard) as journal:
        asking = _Asking(questions, shard=shard, journal=journal, every=every, others=others)
        asking.ask_all(client)
        yield from asking.results()


def open_questions(questions: Questions, journal_dir: Path) -> Questions:
    """Questions with attempts left and no usable answer in a journal, which are in no batch in flight.

    Answers that the current parser has not judged count as usable.
    """
    with Answered(questions) as answered:
        answered.take(every_ledger(journal_dir))
        places = open_places(answered)
    return questions.at(places[~_in_flight(questions.keys[places], journal_dir)])


def _in_flight(keys: NDArray[np.uint64], journal_dir: Path) -> NDArray[np.bool_]:
    """Which questions batches in flight may answer, those of other data sets included."""
    return np.isin(keys, np.concatenate([*map(keys_in_flight, journal_folders(journal_dir))]))


def open_places(answered: Answered) -> NDArray[np.int64]:
    """Indices of the questions still to be asked, without those that cannot be sent."""
    done, attempts = answered.state()
    questions = answered.questions
    found = np.flatnonzero(~done & (attempts < questions.server.max_attempts))
    return found[questions.fit(found)]


def surely_more(failed: int, of: int, *, than: float) -> bool:
    """Whether the share of failures is above a limit with confidence (Wilson's lower bound)."""
    if of < JUDGED_AFTER:
        return False
    share, extra = failed / of, SURE**2 / of
    bound = share + extra / 2 - math.sqrt(extra * (share * (1 - share) + extra / 4))
    return bound / (1 + extra) > than


class Waiting(deque[Request]):
    """Requests, of which about `ready` are made in advance."""

    def __init__(self, source: Iterator[Request], ready: int) -> None:
        super().__init__(itertools.islice(source, ready))
        self._source = source

    def popleft(self) -> Request:
        """The next request."""
        self.extend(itertools.islice(self._source, 1))
        return super().popleft()

    def pop(self) -> Request:  # type: ignore[override]
        """The last of those that are made."""
        self.extend(itertools.islice(self._source, 1))
        return super().pop()


class _Asking:
    """Asks the questions of one shard."""

    def __init__(
        self,
        questions: Questions,
        *,
        shard: str,
        journal: Journal,
        every: Questions,
        others: Mapping[Path, Questions],
    ) -> None:
        self._questions, self._every, self._others = questions, every, others
        self._server = questions.server
        self._shard, self._title, self._journal = shard, f"{questions.title} {shard}", journal
        self._numbers = itertools.count()
        self._places: dict[int, Sequence[int]] = {}
        """Indices of the questions of each pending request, by its number."""
        self._reasons: Counter[str] = Counter()
        """Why replies of this session were unusable."""
        self._new: dict[int, str] = {}
        """Sentences (one per line) of questions whose first answer came in this session and is usable."""
        self._heard = False
        """Whether a request of this session was answered."""
        self._unread = 0
        """Clips that could not be read."""
        self._look()

    def ask_all(self, client: Answering | None) -> None:
        """Send requests until every question has a usable answer or is given up.

        Raises ProviderError if more than `max_failed_share` of the questions are given up.
        """
        self._collect_other_shards()
        collected = self._ask(client)
        # The parser may have changed since the answers came, and batches of earlier sessions are unjudged.
        while self._answered.judge() or collected:
            if collected:  # some may be in a batch that another data set's shard has sent meanwhile
                self._collect_other_shards()
            self._count()
            collected = self._ask(client)
        self._check_failed(at_end=True)
        if estimated := sum(bill.estimated for bill in self._ledger.answered.values()):
            self._say(
                f"{estimated} answers came without usable token counts; they are estimated from lengths"
            )
        self._say(f"done, ${money(self._ledger.usd)} billed in {self._journal.path}")

    def results(self) -> Iterator[Rephrasing]:
        """The result for each question, in order."""
        for place in range(len(self._questions)):
            if place in self._new:
                yield Rephrasing(self._questions.name(place), self._new[place].split("\n"))
                continue
            found = self._answered.rephrasing(place)
            unsent = self._questions.unfit(place) if not found.sentences else None
            yield Rephrasing(found.text, [], unsent) if unsent else found

    def _say(self, text: str) -> None:
        print(f"{self._title}: {text}", file=sys.stderr, flush=True)

    def _look(self) -> None:
        """Find answered questions; reads other shards' files only if this shard's leaves some open."""
        path = self._journal.path
        self._ledger = read_ledger(path)
        self._answered = Answered(self._questions)
        self._answered.take([(path, self._ledger)])
        if len(open_places(self._answered)):
            others = (pair for pair in every_ledger(path.parent) if pair[0] != path)
            self._answered.take(others)
        self._count()

    def _count(self) -> None:
        """Count the questions that are answered or given up, by the answers judged so far."""
        self._done, self._attempts = self._answered.state()
        lost = ~self._done & (self._attempts >= self._server.max_attempts)
        self._failed = int(lost.sum()) + self._unread
        self._finished = int(self._done.sum()) + self._failed

    def _ask(self, client: Answering | None) -> bool:
        """Send requests for the open questions. Each answer is in the journal before the next is read.

        Returns whether some of the questions were in batches of an earlier session.
        """
        places = open_places(self._answered)
        if not len(places):
            return False
        self._check_failed()
        answered, total = len(self._questions) - len(places), len(self._questions)
        wanted = self._questions.keys[places]
        flying = _in_flight(wanted, self._journal.path.parent)
        batches = f", {int(flying.sum())} in batches" if flying.any() else ""
        self._say(f"{answered} of {total} {self._questions.what} already answered{batches}")
        places = places[~flying]
        self._books = open_books(
            self._journal,
            self._ledger,
            shard=self._shard,
            questions=self._questions.at(places),
            every=self._every,
            others=self._others,
            in_flight=bool(flying.any()),
        )
        client = client or self._client(wanted, prepare=len(places) > 0)
        with Progress(self._title, total, unit=self._questions.what, done=answered) as progress:
            try:
                self._send(client, places, progress)
            except RefusedError as error:
                raise self._questions.doubt(str(error), certain=True) or error from None
        if self._books.problem is not None:
            raise self._books.problem
        self._look()
        return bool(flying.any())

    def _send(self, client: Answering, places: NDArray[np.int64], progress: Progress) -> None:
        """Send requests for these questions and record the outcomes."""
        waiting = Waiting(self._requests(places), self._questions.ready)
        for request, outcome in client.answers(waiting, self._books):
            before = self._finished
            for place in self._take(request, outcome):
                waiting.extendleft(self._request([place]))  # first, so that an odd one is soon given up
            progress.advance(self._finished - before, note=f"${money(self._books.spent_usd)}")

    def _client(self, wanted: NDArray[np.uint64], *, prepare: bool) -> Answering:
        """The client of the settings; earlier batches are collected even if no more are to be sent."""
        shards = shard_numbers(self._shard)[1] * (1 + len(self._others))
        direct = ChatClient(self._server, shards=shards)
        if prepare:
            self._questions.prepare(direct, self._books)
        home = self._journal.path.parent / BATCHES / self._shard
        if self._server.batch or home.exists():
            return BatchClient(self._server, home, direct=direct, wanted=wanted)
        return direct

    def _collect_other_shards(self) -> None:
        """Collect the batches of another number of shards, or for another data set, that may answer
        questions of this one."""
        path = self._journal.path
        flying = [(own, name) for own in journal_folders(path.parent) for name in shards_in_flight(own)]
        others = [(own, name) for own, name in flying if (own, name) != (path.parent, self._shard)]
        wanted = self._questions.keys[open_places(self._answered) if others else []]
        for folder, name in others:
            while np.isin(wanted, keys_in_flight(folder, name)).any():
                try:
                    with Journal(folder, name) as journal:
                        self._say(f"collecting batches of the shard {name}")
                        ledger = read_ledger(journal.path)
                        books = ShardBooks(
                            journal, ledger, title=self._title, limit_usd=0.0, server=self._server
                        )
                        home, direct = folder / BATCHES / name, ChatClient(self._server)
                        client = BatchClient(self._server, home, direct=direct, wanted=wanted)
                        deque(client.answers(deque(), books), maxlen=0)
                except JournalError:  # another shard is at it
                    time.sleep(self._server.batch_poll_seconds)
        if len(wanted):
            self._look()

    def _requests(self, places: NDArray[np.int64]) -> Iterator[Request]:
        size = self._questions.at_once
        for start in range(0, len(places), size):
            yield from self._request(places[start : start + size].tolist())

    def _request(self, places: Sequence[int]) -> Iterator[Request]:
        """The request for these questions; none for a clip that cannot be read."""
        number = next(self._numbers)
        try:
            request = self._questions.request(number, places)
        except MediaError as error:
            self._reasons[error.reason] += 1
            self._unread += 1
            self._failed += 1
            self._finished += 1
            return
        self._places[number] = places
        keys = tuple(f"{self._questions.keys[place]:016x}" for place in places)
        yield replace(request, keys=keys)

    def _take(self, request: Request, outcome: Answer | NoAnswer) -> list[int]:
        """Record a request's outcome; returns the indices of the texts to request again, one by one."""
        places, tries = self._places.pop(request.number), self._books.tries.pop(request.number, 0)
        attempts = 1
        if isinstance(outcome, Answer):
            usable, self._heard = self._record(request, outcome, places), True
        elif not self._heard and (problem := self._questions.doubt(outcome.reason)):
            self._books.problem = problem
            return []
        elif len(places) > 1:
            return list(places)  # one of them may be at fault
        else:
            usable, attempts = [False], self._server.max_attempts
            self._give_up(request, outcome.reason, tries=tries, attempts=attempts)
        again = [
            place
            for place, good in zip(places, usable, strict=True)
            if not self._is_finished(place, good, attempts)
        ]
        if surely_more(self._failed, self._finished, than=self._questions.max_failed_share):
            self._books.problem = self._too_many_failed()
        return again

    def _is_finished(self, place: int, good: bool, attempts: int) -> bool:
        """Count an outcome of a text; returns whether it was the last."""
        self._done[place] = good
        self._attempts[place] += 0 if good else attempts
        failed = not good and self._attempts[place] >= self._server.max_attempts
        self._failed += failed
        self._finished += good or failed
        return good or bool(failed)

    def _record(self, request: Request, answer: Answer, places: Sequence[int]) -> list[bool]:
        """Write an answer to the journal; returns whether each of its questions now has a usable sentence."""
        found = self._questions.judged(answer.reply, list(request.texts), finish=answer.finish)
        self._reasons.update(parsed.reason for parsed in found if parsed.reason)
        usable = [bool(parsed.sentences) for parsed in found]
        for place, parsed in zip(places, found, strict=True):
            if parsed.sentences and not parsed.other_subject and not self._attempts[place]:
                self._new[place] = "\n".join(parsed.sentences)
        self._books.settle(request, answer, usable=usable, parser=self._questions.parser)
        return usable

    def _give_up(self, request: Request, reason: str, *, tries: int, attempts: int) -> None:
        self._reasons[reason] += 1
        letter = DeadLetter(reason, list(request.keys), list(request.texts), tries, attempts)
        self._books.give_up(letter)

    def _check_failed(self, *, at_end: bool = False) -> None:
        """Raise ProviderError if too many questions have no usable sentence."""
        allowed = self._questions.max_failed_share
        if at_end and self._failed > allowed * self._finished:
            raise self._too_many_failed()
        if surely_more(self._failed, self._finished, than=allowed):
            raise self._too_many_failed()

    def _too_many_failed(self) -> ProviderError:
        if not self._reasons:
            lost = np.flatnonzero(~self._done & (self._attempts > 0))[:SAMPLED].tolist()
            self._reasons.update(str(self._answered.rephrasing(place).reason) for place in lost)
        reason = self._reasons.most_common(1)[0][0]
        questions = self._questions
        return ProviderError(
            f"{self._title}: {self._failed} of {self._finished} {questions.what} got no usable sentence from "
            f"the model '{self._server.model}' (mostly: {reason}), more than {questions.section}."
            f"max_failed_share ({questions.max_failed_share:g}) allows; its replies are in "
            f"{self._journal.path}. Choose another model, change {questions.prompt}, raise "
            f"{self._server.where}.max_tokens_per_reply if replies were cut off, or raise max_failed_share"
        )
