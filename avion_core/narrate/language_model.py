"""The provider `openai`: joins prompts, client, journal and budget into rephrasings of a shard's texts."""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avion_core.config import NarrateSettings, OpenAISettings
from avion_core.narrate.answered import PARSER, Answered, judged, key_texts
from avion_core.narrate.books import open_books
from avion_core.narrate.budget import money
from avion_core.narrate.client import Answering, ChatClient
from avion_core.narrate.exchange import Answer, NoAnswer, ProviderError, Request
from avion_core.narrate.journal import DeadLetter, Entry, Journal
from avion_core.narrate.ledger import read_ledger, read_ledgers
from avion_core.narrate.prompts import rephrase_messages, reply_schema, unfit
from avion_core.narrate.provider import Rephrasing
from avion_core.progress import Progress
from avion_core.shards import shard_numbers

JUDGED_AFTER = 10
"""Finished narrations before failures may end the run."""
SURE = 2.58
"""Standard deviations by which the failed share must exceed `max_failed_share`: 99 % confidence."""
SAMPLED = 100
"""Given-up narrations of earlier sessions that are read to find the most common reason."""
READY_REQUESTS = 100
"""Requests kept ready for the client, but at least four times `parallel_requests`."""


def rephrase_with_model(
    texts: pa.Array,
    *,
    settings: NarrateSettings,
    shard: str,
    every_text: pa.Array,
    journal_dir: Path,
    client: Answering | None = None,
) -> Iterator[Rephrasing]:
    """The result for each of `texts`; requests only those that the journal does not answer.

    `every_text` holds the texts of all shards, to compute this shard's part of `max_usd`. Raises
    ProviderError and BudgetError; earlier answers are kept.
    """
    with Journal(journal_dir, shard) as journal:
        asking = _Asking(texts, settings=settings, shard=shard, journal=journal, every_text=every_text)
        asking.ask_all(client)
        yield from asking.rephrasings()


def open_texts_of(texts: pa.Array, *, settings: NarrateSettings, journal_dir: Path) -> pa.Array:
    """Texts with attempts left and no usable answer in a journal.

    Answers that the current parser has not judged count as usable.
    """
    with Answered(texts, settings) as answered:
        answered.take(read_ledgers(journal_dir))
        return texts.take(pa.array(open_places(answered, settings)))


def open_places(answered: Answered, settings: NarrateSettings) -> NDArray[np.int64]:
    """Indices of the texts still to be requested, without those that cannot be sent."""
    done, attempts = answered.state()
    found = np.flatnonzero(~done & (attempts < settings.of(OpenAISettings).max_attempts))
    fit = [unfit(text) is None for text in answered.texts.take(pa.array(found)).to_pylist()]
    return found[np.array(fit, np.bool_)]


def surely_more(failed: int, of: int, *, than: float) -> bool:
    """Whether the share of failures is above a limit with confidence (Wilson's lower bound)."""
    if of < JUDGED_AFTER:
        return False
    share, extra = failed / of, SURE**2 / of
    bound = share + extra / 2 - math.sqrt(extra * (share * (1 - share) + extra / 4))
    return bound / (1 + extra) > than


class _Asking:
    """Requests the texts of one shard."""

    def __init__(
        self,
        texts: pa.Array,
        *,
        settings: NarrateSettings,
        shard: str,
        journal: Journal,
        every_text: pa.Array,
    ) -> None:
        self._texts, self._settings, self._every_text = texts, settings, every_text
        self._openai = settings.of(OpenAISettings)
        self._shard, self._title, self._journal = shard, f"narrate {shard}", journal
        self._numbers = itertools.count()
        self._places: dict[int, Sequence[int]] = {}
        """Indices of the texts of each pending request, by its number."""
        self._reasons: Counter[str] = Counter()
        """Why replies of this session were unusable."""
        self._new: dict[int, str] = {}
        """Sentences (one per line) of texts whose first answer came in this session and is usable."""
        self._look()

    def ask_all(self, client: Answering | None) -> None:
        """Send requests until every text has a usable answer or is given up.

        Raises ProviderError if more than `max_failed_share` of the texts are given up.
        """
        self._ask(client)
        while self._answered.judge():  # the parser may have changed since the answers came
            self._count()
            self._ask(client)
        self._check_failed(at_end=True)
        if estimated := sum(bill.estimated for bill in self._ledger.answered.values()):
            self._say(
                f"{estimated} answers came without usable token counts; they are estimated from lengths"
            )
        self._say(f"done, ${money(self._ledger.usd)} billed in {self._journal.path}")

    def rephrasings(self) -> Iterator[Rephrasing]:
        """The result for each text, in order."""
        for place in range(len(self._texts)):
            if place in self._new:
                yield Rephrasing(self._texts[place].as_py(), self._new[place].split("\n"))
                continue
            found = self._answered.rephrasing(place)
            unsent = unfit(found.text) if not found.sentences else None
            yield Rephrasing(found.text, [], unsent) if unsent else found

    def _say(self, text: str) -> None:
        print(f"{self._title}: {text}", file=sys.stderr, flush=True)

    def _look(self) -> None:
        """Find answered texts; reads other shards' files only if this shard's leaves some open."""
        path, settings = self._journal.path, self._settings
        self._ledger = read_ledger(path)
        self._answered = Answered(self._texts, settings)
        self._answered.take([(path, self._ledger)])
        if len(open_places(self._answered, settings)):
            others = (pair for pair in read_ledgers(path.parent) if pair[0] != path)
            self._answered.take(others)
        self._count()

    def _count(self) -> None:
        """Count the texts that are answered or given up, by the answers judged so far."""
        self._done, self._attempts = self._answered.state()
        lost = ~self._done & (self._attempts >= self._openai.max_attempts)
        self._failed = int(lost.sum())
        self._finished = int(self._done.sum()) + self._failed

    def _ask(self, client: Answering | None) -> None:
        """Send requests for the open texts. Each answer is written to the journal before the next is read."""
        places = open_places(self._answered, self._settings)
        if not len(places):
            return
        self._check_failed()
        answered = len(self._texts) - len(places)
        self._say(f"{answered} of {len(self._texts)} narrations already answered")
        client = client or ChatClient(self._openai, shards=shard_numbers(self._shard)[1])
        self._books = open_books(
            self._journal,
            self._ledger,
            shard=self._shard,
            open_texts=self._texts.take(pa.array(places)),
            every_text=self._every_text,
            settings=self._settings,
        )
        size = self._openai.narrations_per_request
        groups = iter([places[start : start + size].tolist() for start in range(0, len(places), size)])
        ready = max(READY_REQUESTS, 4 * self._openai.parallel_requests)
        waiting: deque[Request] = deque(self._request(group) for group in itertools.islice(groups, ready))
        total = len(self._texts)
        with Progress(self._title, total, unit="narrations", done=total - len(places)) as progress:
            for request, outcome in client.answers(waiting, self._books):
                before = self._finished
                for place in self._take(request, outcome):
                    waiting.appendleft(self._request([place]))  # first, so that an odd one is soon given up
                waiting.extend(map(self._request, itertools.islice(groups, 1)))
                progress.advance(self._finished - before, note=f"${money(self._books.spent_usd)}")
        self._look()

    def _request(self, places: Sequence[int]) -> Request:
        texts = self._texts.take(pa.array(places)).to_pylist()
        rephrase = self._settings.rephrase
        messages = rephrase_messages(
            texts, instruction=rephrase.instruction, count=rephrase.texts_per_narration
        )
        number = next(self._numbers)
        self._places[number] = places
        schema = reply_schema(len(texts), count=rephrase.texts_per_narration)
        return Request(number, tuple(texts), tuple(messages), schema)

    def _take(self, request: Request, outcome: Answer | NoAnswer) -> list[int]:
        """Record a request's outcome; returns the indices of the texts to request again, one by one."""
        places, tries = self._places.pop(request.number), self._books.tries.pop(request.number, 0)
        attempts = 1
        if isinstance(outcome, Answer):
            usable = self._record(request, outcome, places)
        elif len(places) > 1:
            return list(places)  # one of them may be at fault
        else:
            usable, attempts = [False], self._openai.max_attempts
            self._give_up(request, outcome.reason, tries=tries, attempts=attempts)
        again = [
            place
            for place, good in zip(places, usable, strict=True)
            if not self._is_finished(place, good, attempts)
        ]
        if surely_more(self._failed, self._finished, than=self._settings.max_failed_share):
            self._books.problem = self._too_many_failed()
        return again

    def _is_finished(self, place: int, good: bool, attempts: int) -> bool:
        """Count an outcome of a text; returns whether it was the last."""
        self._done[place] = good
        self._attempts[place] += 0 if good else attempts
        failed = not good and self._attempts[place] >= self._openai.max_attempts
        self._failed += failed
        self._finished += good or failed
        return good or bool(failed)

    def _record(self, request: Request, answer: Answer, places: Sequence[int]) -> list[bool]:
        """Write an answer to the journal; returns whether each of its texts now has a usable sentence."""
        settings = self._settings
        texts = list(request.texts)
        given, written, usd = self._books.price(request, answer)
        limit = self._books.token_limit(answer)
        found = judged(answer.content, texts, finish=answer.finish, settings=settings)
        self._reasons.update(parsed.reason for parsed in found if parsed.reason)
        usable = [bool(parsed.sentences) for parsed in found]
        for place, parsed in zip(places, found, strict=True):
            if parsed.sentences and not parsed.other_subject and not self._attempts[place]:
                self._new[place] = "\n".join(parsed.sentences)
        entry = Entry(
            answers=answer.try_number,
            keys=list(key_texts(texts, settings)),
            usable=usable,
            parser=PARSER,
            provider=settings.provider,
            model=self._openai.model,
            input_tokens=given,
            output_tokens=written,
            measured=answer.usage is not None,
            usd=usd,
            seconds=answer.seconds,
            finish=answer.finish,
            limit=limit,
            reasons=limit > self._openai.max_tokens_per_reply,
            texts=texts,
            reply=answer.content,
        )
        self._books.settle(entry)
        return usable

    def _give_up(self, request: Request, reason: str, *, tries: int, attempts: int) -> None:
        self._reasons[reason] += 1
        keys = list(key_texts(request.texts, self._settings))
        self._books.give_up(DeadLetter(reason, keys, list(request.texts), tries, attempts))

    def _check_failed(self, *, at_end: bool = False) -> None:
        """Raise ProviderError if too many texts have no usable sentence."""
        allowed = self._settings.max_failed_share
        if at_end and self._failed > allowed * self._finished:
            raise self._too_many_failed()
        if surely_more(self._failed, self._finished, than=allowed):
            raise self._too_many_failed()

    def _too_many_failed(self) -> ProviderError:
        if not self._reasons:
            lost = np.flatnonzero(~self._done & (self._attempts > 0))[:SAMPLED].tolist()
            self._reasons.update(str(self._answered.rephrasing(place).reason) for place in lost)
        reason = self._reasons.most_common(1)[0][0]
        return ProviderError(
            f"{self._title}: {self._failed} of {self._finished} narrations got no usable sentence from the "
            f"model '{self._openai.model}' (mostly: {reason}), more than narrate.max_failed_share "
            f"({self._settings.max_failed_share:g}) allows; its replies are in {self._journal.path}. Choose "
            "another model, change narrate.rephrase.instruction, raise narrate.openai.max_tokens_per_reply "
            "if replies were cut off, or raise max_failed_share"
        )
