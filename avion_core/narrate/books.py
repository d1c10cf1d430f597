"""The spending of one shard: every try is recorded before it is sent, and none can exceed the limit."""

from __future__ import annotations

import itertools
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avion_core.config import ChatSettings
from avion_core.narrate.answered import Answered
from avion_core.narrate.budget import (
    BudgetError,
    Prices,
    highest_usd,
    limits,
    message_tokens,
    money,
    tokens,
)
from avion_core.narrate.exchange import Answer, Request
from avion_core.narrate.journal import DeadLetter, Entry, Journal
from avion_core.narrate.ledger import Ledger, read_ledger, read_ledgers
from avion_core.narrate.questions import Questions
from avion_core.shards import shard_names, shard_numbers


@dataclass(frozen=True)
class _Try:
    """A request in flight."""

    highest_usd: float
    token_limit: int


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
        self._numbers = itertools.count(ledger.next_try)
        self._lock = threading.Lock()
        self._unsettled: dict[int, _Try] = {}

    def begin(self, request: Request, token_limit: int) -> int:
        """Record a try at its highest price before it is sent; returns its number.

        Raises BudgetError if it could exceed the limit, or the `problem` that ends the run.
        """
        highest = highest_usd(request, token_limit, Prices.of(self._server))
        with self._lock:
            if self.problem is not None:
                raise self.problem
            if highest and self.spent_usd + highest > self.limit_usd:
                raise self._limit_reached(highest)
            number = next(self._numbers)
            self._journal.begin(number, usd=highest, model=self._server.model)
            self._unsettled[number] = _Try(highest, token_limit)
            self.spent_usd += highest
            self.tries[request.number] += 1
        return number

    def cancel(self, try_number: int) -> None:
        """Record that the server did not serve a try: it costs nothing."""
        with self._lock:
            self._journal.cancel(try_number)
            self.spent_usd -= self._unsettled.pop(try_number).highest_usd

    def settle(
        self, request: Request, answer: Answer, *, keys: list[str], usable: list[bool], parser: str
    ) -> None:
        """Record an answer at its actual price; `usable` is what the parser found for each key."""
        given, written, usd = self._price(request, answer)
        limit = self._unsettled[answer.try_number].token_limit
        entry = Entry(
            answers=answer.try_number,
            keys=keys,
            usable=usable,
            parser=parser,
            provider=self._server.where.rpartition(".")[2],
            model=self._server.model,
            input_tokens=given,
            output_tokens=written,
            measured=answer.usage is not None,
            usd=usd,
            seconds=answer.seconds,
            finish=answer.finish,
            limit=limit,
            reasons=limit > self._server.max_tokens_per_reply,
            texts=list(request.texts),
            reply=answer.reply,
        )
        with self._lock:
            self._journal.add(entry)
            self.spent_usd += usd - self._unsettled.pop(answer.try_number).highest_usd

    def give_up(self, letter: DeadLetter) -> None:
        """Record that a narration or clip was given up."""
        self._journal.add(letter)

    def _price(self, request: Request, answer: Answer) -> tuple[int, int, float]:
        """Input tokens, output tokens and price of an answer; from lengths if the server counted none."""
        if answer.usage is not None:
            given, written = answer.usage.input_tokens, answer.usage.output_tokens
        else:
            given = message_tokens(request.messages) + request.image_tokens
            written = sum(map(tokens, (answer.content, *answer.others)))
        return given, written, Prices.of(self._server).usd(given, written)

    def _limit_reached(self, highest: float) -> BudgetError:
        return BudgetError(
            f"{self.title}: stopped at ${money(self.spent_usd)}: the next request may cost "
            f"${money(highest)} and exceed this shard's part (${money(self.limit_usd)}) of "
            f"{self._server.where}.max_usd ({self._server.max_usd:g}). Raise max_usd to go on; answers so "
            "far are kept"
        )


def open_books(
    journal: Journal, ledger: Ledger, *, shard: str, questions: Questions, every: Questions
) -> ShardBooks:
    """Print what `questions` will cost; BudgetError if that exceeds this shard's part of `max_usd`.

    `ledger` is the content of the journal's file, `every` are the questions of all shards.
    """
    title, server = f"{questions.title} {shard}", questions.server
    number, shards = shard_numbers(shard)
    spent, earlier = _spent(journal.path.parent, shards)
    wanted = _wanted(every, shards, earlier=list(earlier))
    before = sum(earlier.values())
    limit = limits(server.max_usd - before, wanted=wanted, spent=spent)[number - 1]
    left = questions.estimate()
    print(
        f"{title}: ${money(ledger.usd)} billed; to ask: {left}; limit ${money(server.max_usd)} for all "
        f"shards, ${money(limit)} for this one",
        file=sys.stderr,
        flush=True,
    )
    if left.usd and ledger.usd + left.usd > limit:
        share = wanted[number - 1] / sum(wanted) or 1.0
        needed = (ledger.usd + left.usd) / share + before
        raise BudgetError(
            f"{title}: all shards together need about ${money(needed * 1.1)} (${money(ledger.usd)} already "
            f"billed in {journal.path}, about ${money(left.usd)} to come in this shard), but "
            f"{server.where}.max_usd is {server.max_usd:g}; raise it, or {questions.cheaper}, or change the "
            "model"
        )
    return ShardBooks(journal, ledger, title=title, limit_usd=limit, server=server)


def _spent(folder: Path, shards: int) -> tuple[list[float], dict[Path, float]]:
    """Dollars spent by each shard, and in each file of another number of shards."""
    here, earlier = [0.0] * shards, {}
    numbers = {name: number for number, name in enumerate(shard_names(shards))}
    for path, ledger in read_ledgers(folder):
        if path.stem in numbers:
            here[numbers[path.stem]] = ledger.usd
        else:
            earlier[path] = ledger.usd
    return here, earlier


def _wanted(every: Questions, shards: int, *, earlier: list[Path]) -> list[float]:
    """Price of each shard's questions, except those with a usable answer in files of another number of
    shards.

    Answers of the running shards do not count, so that all of them compute the same parts.
    """
    usd = every.usd()
    if earlier:
        with Answered(every) as answered:
            answered.take((path, read_ledger(path)) for path in earlier)
            usd *= ~answered.surely()
    return np.bincount(np.arange(len(usd)) % shards, weights=usd, minlength=shards).tolist()
