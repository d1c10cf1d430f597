"""The spending of one shard: every try is recorded before it is sent, and none can exceed the limit."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from avion_core.config import ChatSettings
from avion_core.narrate.answered import Answered
from avion_core.narrate.budget import (
    BudgetError,
    highest_usd,
    limits,
    message_tokens,
    money,
    tokens,
)
from avion_core.narrate.exchange import Answer, Request, Usage
from avion_core.narrate.journal import DeadLetter, Entry, Journal, today
from avion_core.narrate.ledger import Ledger, every_ledger, read_ledger
from avion_core.narrate.prices import Prices
from avion_core.narrate.questions import Questions
from avion_core.shards import shard_names, shard_numbers

NO_OTHERS: Mapping[Path, Questions] = MappingProxyType({})
"""Where no other data set shares the limit."""


@dataclass(frozen=True, slots=True)
class _Try:
    """A request in flight."""

    highest_usd: float
    token_limit: int = 0
    price_share: float = 1.0


class ShardBooks:
    """Cost and outcome of a shard's tries. Safe to use from any thread."""

    def __init__(
        self, journal: Journal, ledger: Ledger, *, title: str, limit_usd: float, server: ChatSettings
    ) -> None:
        """`ledger` is the content of the journal's file when it is opened."""
        self.title, self.limit_usd, self.spent_usd = title, limit_usd, ledger.usd
        self.tries: Counter[int] = Counter()
        """Tries of each request, by its number."""
        self.problem: Exception | None = None
        """Raised at the next try, to end the run."""
        self._journal, self._server = journal, server
        self.next_try = ledger.next_try
        """Number of the next try."""
        self._lock = threading.Lock()
        self._unsettled = {number: _Try(usd) for number, (_, usd) in ledger.unsettled.items()}

    def begin(self, request: Request, token_limit: int, *, price_share: float = 1.0) -> int:
        """Record a try at its highest price before it is sent; returns its number.

        Raises BudgetError if it could exceed the limit, or the `problem` that ends the run.
        """
        highest = highest_usd(request, token_limit, Prices.of(self._server, price_share))
        with self._lock:
            if self.problem is not None:
                raise self.problem
            if highest and self.spent_usd + highest > self.limit_usd:
                raise self._limit_reached(highest)
            number = self.next_try
            self._journal.begin(number, usd=highest, model=self._server.model)
            self.next_try += 1
            self._unsettled[number] = _Try(highest, token_limit, price_share)
            self.spent_usd += highest
            self.tries[request.number] += 1
        return number

    def cancel(self, try_number: int) -> None:
        """Record that the server did not serve a try: it costs nothing."""
        with self._lock:
            self._journal.cancel(try_number)
            self.spent_usd -= self._unsettled.pop(try_number).highest_usd

    def open_tries(self) -> Set[int]:
        """Numbers of the tries without answer or cancellation, those of earlier sessions included."""
        return self._unsettled.keys()

    def take_over(self, try_number: int, token_limit: int, *, price_share: float) -> None:
        """Continue a try of an earlier session."""
        with self._lock:
            highest = self._unsettled[try_number].highest_usd
            self._unsettled[try_number] = _Try(highest, token_limit, price_share)

    def settle(self, request: Request, answer: Answer, *, usable: list[bool], parser: str) -> None:
        """Record an answer at its actual price; `usable` is what the parser found for each key."""
        sent = self._unsettled[answer.try_number]
        prices = Prices.of(self._server, sent.price_share)
        used = self._tokens(request, answer)
        usd = prices.usd(used.input_tokens, used.output_tokens, cached_tokens=used.cached_tokens)
        entry = Entry(
            answers=answer.try_number,
            keys=list(request.keys),
            usable=usable,
            parser=parser,
            provider=self._server.where.rpartition(".")[2],
            model=self._server.model,
            input_tokens=used.input_tokens,
            cached_tokens=used.cached_tokens,
            output_tokens=used.output_tokens,
            measured=answer.usage is not None,
            usd=usd,
            prices=str(prices),
            day=today(),
            seconds=answer.seconds,
            finish=answer.finish,
            limit=sent.token_limit,
            reasons=sent.token_limit > self._server.max_tokens_per_reply,
            texts=list(request.texts),
            reply=answer.reply,
        )
        with self._lock:
            self._journal.add(entry)
            self.spent_usd += usd - self._unsettled.pop(answer.try_number).highest_usd

    def settle_unread(self, request: Request, answer: Answer) -> None:
        """Record an answer to a request of an earlier session; it is parsed when it is next looked at."""
        self.settle(request, answer, usable=[], parser="")

    def sync(self) -> None:
        """Write everything recorded so far to disk."""
        self._journal.sync()

    def give_up(self, letter: DeadLetter) -> None:
        """Record that a narration or clip was given up."""
        self._journal.add(letter)

    @staticmethod
    def _tokens(request: Request, answer: Answer) -> Usage:
        """Tokens of an answer; from lengths if the server counted none."""
        if answer.usage is not None:
            return answer.usage
        given = message_tokens(request.messages) + request.image_tokens
        return Usage(given, sum(map(tokens, (answer.content, *answer.others))))

    def _limit_reached(self, highest: float) -> BudgetError:
        return BudgetError(
            f"{self.title}: stopped at ${money(self.spent_usd)}: the next request may cost "
            f"${money(highest)} and exceed this shard's part (${money(self.limit_usd)}) of "
            f"{self._server.where}.max_usd ({self._server.max_usd:g}). Raise max_usd to go on; answers so "
            "far are kept"
        )


def open_books(
    journal: Journal,
    ledger: Ledger,
    *,
    shard: str,
    questions: Questions,
    every: Questions,
    others: Mapping[Path, Questions] = NO_OTHERS,
    in_flight: bool = False,
) -> ShardBooks:
    """Print what `questions` will cost; BudgetError if that exceeds this shard's part of `max_usd`.

    `ledger` is the content of the journal's file, `every` are the questions of all shards, `others` those of
    other data sets whose shards may run at the same time, by their journal's folder. With batches
    `in_flight`, which count at their highest price until they are over, nothing is refused here.
    """
    title, server = f"{questions.title} {shard}", questions.server
    number, shards = shard_numbers(shard)
    running = {journal.path.parent: every, **others}
    spent, earlier = _spent(list(running), shards)
    wanted = [usd for asked in running.values() for usd in _wanted(asked, shards, earlier=list(earlier))]
    before = sum(earlier.values())
    limit = limits(server.max_usd - before, wanted=wanted, spent=spent)[number - 1]
    left = questions.estimate()
    print(
        f"{title}: ${money(ledger.usd)} billed; to ask: {left}; limit ${money(server.max_usd)} for all "
        f"shards{' of all data sets' if others else ''}, ${money(limit)} for this one",
        file=sys.stderr,
        flush=True,
    )
    if left.usd and ledger.usd + left.usd > limit and not in_flight:
        share = wanted[number - 1] / sum(wanted) or 1.0
        needed = (ledger.usd + left.usd) / share + before
        raise BudgetError(
            f"{title}: all shards together need about ${money(needed * 1.1)} (${money(ledger.usd)} already "
            f"billed in {journal.path}, about ${money(left.usd)} to come in this shard), but "
            f"{server.where}.max_usd is {server.max_usd:g}; raise it, or {questions.cheaper}, or change the "
            "model"
        )
    return ShardBooks(journal, ledger, title=title, limit_usd=limit, server=server)


def _spent(running: list[Path], shards: int) -> tuple[list[float], dict[Path, float]]:
    """Dollars spent by each shard of the folders `running`, and in each other file: of another number of
    shards, or of a data set that is not made now."""
    names = [(folder, name) for folder in running for name in shard_names(shards)]
    here, earlier = dict.fromkeys(names, 0.0), {}
    for path, ledger in every_ledger(running[0]):
        if (path.parent, path.stem) in here:
            here[path.parent, path.stem] = ledger.usd
        else:
            earlier[path] = ledger.usd
    return list(here.values()), earlier


def _wanted(every: Questions, shards: int, *, earlier: list[Path]) -> list[float]:
    """Price of each shard's questions, except those with a usable answer in the files `earlier`.

    Answers of the running shards do not count, so that all of them compute the same parts.
    """
    usd = every.usd()
    if earlier:
        with Answered(every) as answered:
            answered.take((path, read_ledger(path)) for path in earlier)
            usd *= ~answered.surely()
    return np.bincount(np.arange(len(usd)) % shards, weights=usd, minlength=shards).tolist()
