"""The provider `openai`: joins prompts, client, journal and budget into rephrasings of a shard's texts."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from avion_core.config import NarrateSettings
from avion_core.narrate.budget import (
    Budget,
    BudgetError,
    Prices,
    estimate_texts,
    message_tokens,
    money,
    tokens,
)
from avion_core.narrate.client import Answering, ChatClient
from avion_core.narrate.exchange import Answer, NoAnswer, ProviderError, Request, Usage
from avion_core.narrate.journal import Entry, Journal
from avion_core.narrate.parse import parse_replies
from avion_core.narrate.prompts import answer_key, rephrase_messages, reply_schema
from avion_core.progress import Progress

JUDGED_AFTER = 20
"""Finished narrations after which a model that answers most of them with nothing usable is given up."""


def rephrase_with_model(
    texts: Sequence[str],
    *,
    settings: NarrateSettings,
    shard: str,
    every_text: Sequence[str],
    journal_dir: Path,
) -> dict[str, list[str]]:
    """Sentences for each of `texts`, asked only for those that the journal does not have.

    `every_text` holds the texts of all shards: this shard may spend its share of `max_usd`. Raises
    ProviderError and BudgetError; what was answered before is kept.
    """
    keys = {_key(text, settings) for text in texts}
    with Journal(journal_dir, shard, wanted=keys) as journal:
        asking = _Asking(texts, settings=settings, shard=shard, journal=journal)
        asking.check_budget(every_text)
        open_texts = asking.open_texts()
        if open_texts:
            asking.ask(open_texts, ChatClient(settings.openai))
        asking.check_usable()
        print(f"narrate {shard}: done, ${money(journal.usd_here)} billed in {journal.path}", file=sys.stderr)
        return {text: asking.sentences(text) for text in texts}


def open_texts_of(
    texts: Sequence[str], *, settings: NarrateSettings, entries: dict[str, list[Entry]]
) -> list[str]:
    """Texts that have no usable answer among `entries` (by key) and attempts left."""
    return [text for text in texts if _is_open(text, settings, entries.get(_key(text, settings), []))]


class _Asking:
    """One shard at work."""

    def __init__(
        self, texts: Sequence[str], *, settings: NarrateSettings, shard: str, journal: Journal
    ) -> None:
        self._texts, self._settings, self._shard, self._journal = texts, settings, shard, journal
        prices = settings.openai
        self._prices = Prices(prices.usd_per_million_input_tokens, prices.usd_per_million_output_tokens)
        self._numbers = itertools.count()
        self._limit_usd = 0.0
        self._finished = self._failed = 0

    def sentences(self, text: str) -> list[str]:
        """Of the first usable answer; [] if there is none."""
        return _sentences(text, self._settings, self._journal.answers(_key(text, self._settings)))

    def open_texts(self) -> list[str]:
        return [text for text in self._texts if self._is_open(text)]

    def check_budget(self, every_text: Sequence[str]) -> None:
        """Print the estimate; BudgetError if what is left does not fit into this shard's part."""
        price = partial(estimate_texts, rephrase=self._settings.rephrase, openai=self._settings.openai)
        ask, all_usd = self.open_texts(), price(every_text).usd
        here, limit = price(self._texts).usd, self._settings.openai.max_usd
        same_cut = self._shard[self._shard.index("-of-") :]
        earlier = sum(usd for name, usd in self._journal.usd_by_file.items() if not name.endswith(same_cut))
        share = here / all_usd if all_usd else 1.0
        self._limit_usd = max(0.0, limit - earlier) * share
        left, spent = price(ask), self._journal.usd_here
        print(
            f"narrate {self._shard}: {len(self._texts) - len(ask)} of {len(self._texts)} narrations answered "
            f"already, ${money(spent)} billed; to ask: {left}; limit ${money(limit)} for all shards, "
            f"${money(self._limit_usd)} for this one",
            file=sys.stderr,
            flush=True,
        )
        if left.usd and spent + left.usd > self._limit_usd:
            self._too_expensive(left.usd, share, earlier)

    def _too_expensive(self, left_usd: float, share: float, earlier: float) -> None:
        limit = self._settings.openai.max_usd
        needed = (self._journal.usd_here + left_usd) / share + earlier
        raise BudgetError(
            f"narrate {self._shard}: all shards together need about ${money(needed * 1.1)} "
            f"(${money(self._journal.usd_here)} already billed in {self._journal.path}, about "
            f"${money(left_usd)} to come in this shard), but narrate.openai.max_usd is {limit:g}; raise it, "
            "or lower narrate.rephrase.texts_per_narration, raise narrations_per_request, or change the model"
        )

    def ask(self, open_texts: Sequence[str], client: Answering) -> None:
        """Ask until every text has an answer; each one is in the journal before the next is looked at."""
        settings = self._settings.openai
        self._budget = Budget(
            limit_usd=self._limit_usd,
            spent_usd=self._journal.usd_here,
            prices=self._prices,
            max_reply_tokens=settings.max_tokens_per_reply,
        )
        waiting = deque(self._requests(open_texts, settings.narrations_per_request))
        total = len(self._texts)
        with Progress(
            f"narrate {self._shard}", total, unit="narrations", done=total - len(open_texts)
        ) as progress:
            for request, outcome in client.answers(waiting, self):
                self._record(request, outcome)
                again = [text for text in request.texts if self._is_open(text)]
                waiting.extend(self._requests(again, 1))
                done = [text for text in request.texts if text not in again]
                self._finished += len(done)
                self._failed += sum(not self.sentences(text) for text in done)
                progress.advance(len(done), note=f"${money(self._budget.spent_usd)}")

    def check_usable(self) -> None:
        """ProviderError if most of the shard's texts got no sentence; else say how many did not."""
        failed = sum(not self.sentences(text) for text in self._texts)
        if failed * 2 > len(self._texts):
            self._unusable(failed, len(self._texts))
        if failed:
            print(
                f"narrate {self._shard}: {failed} of {len(self._texts)} narrations have no usable answer and "
                "stay as they are",
                file=sys.stderr,
                flush=True,
            )

    def _unusable(self, failed: int, of: int) -> None:
        raise ProviderError(
            f"narrate {self._shard}: the model '{self._settings.openai.model}' gave no usable sentence for "
            f"{failed} of {of} narrations; its replies are in {self._journal.path}. Choose another model, or "
            "change narrate.rephrase.instruction or narrate.openai.max_tokens_per_reply"
        )

    def _is_open(self, text: str) -> bool:
        return _is_open(text, self._settings, self._journal.answers(_key(text, self._settings)))

    def _requests(self, texts: Sequence[str], size: int) -> Iterator[Request]:
        rephrase = self._settings.rephrase
        for start in range(0, len(texts), size):
            group = tuple(texts[start : start + size])
            messages = rephrase_messages(
                group, instruction=rephrase.instruction, count=rephrase.texts_per_narration
            )
            schema = reply_schema(len(group), count=rephrase.texts_per_narration)
            yield Request(next(self._numbers), group, tuple(messages), schema)

    def begin(self, request: Request) -> int:
        """Set the price of a try aside, or end the run by an error."""
        if self._finished >= JUDGED_AFTER and self._failed * 2 > self._finished:
            self._unusable(self._failed, self._finished)
        number = next(self._numbers)
        if not self._budget.set_aside(number, request.messages):
            raise BudgetError(
                f"narrate {self._shard}: stopped at ${money(self._budget.spent_usd)}, before the next "
                f"request could pass this shard's part (${money(self._limit_usd)}) of narrate.openai.max_usd "
                f"({self._settings.openai.max_usd:g}); {len(self.open_texts())} of {len(self._texts)} "
                "narrations are not answered yet. Raise max_usd to go on; answers so far are kept"
            )
        return number

    def cancel(self, try_number: int) -> None:
        """Nothing was billed."""
        self._budget.settle(try_number, 0.0)

    def _record(self, request: Request, outcome: Answer | NoAnswer) -> None:
        if isinstance(outcome, NoAnswer):  # unusable, and not asked again in this run
            outcome = Answer(-1, "", outcome.reason, Usage(0, 0), 0.0)
        given = outcome.usage.input_tokens if outcome.usage else message_tokens(request.messages)
        written = outcome.usage.output_tokens if outcome.usage else tokens(outcome.content)
        usd = self._prices.usd(given, written)
        entry = Entry(
            keys=[_key(text, self._settings) for text in request.texts],
            texts=list(request.texts),
            reply=outcome.content,
            provider=self._settings.provider,
            model=self._settings.openai.model,
            input_tokens=given,
            output_tokens=written,
            measured=outcome.usage is not None,
            usd=usd,
            seconds=outcome.seconds,
            finish=outcome.finish,
        )
        self._journal.append(entry)
        if outcome.try_number >= 0:
            self._budget.settle(outcome.try_number, usd)


def _key(text: str, settings: NarrateSettings) -> str:
    return answer_key(
        text,
        provider=settings.provider,
        model=settings.openai.model,
        temperature=settings.openai.temperature,
        instruction=settings.rephrase.instruction,
        count=settings.rephrase.texts_per_narration,
    )


def _sentences(text: str, settings: NarrateSettings, entries: Sequence[Entry]) -> list[str]:
    """Of the first answer that has any: all replies are read anew, so a better parser costs nothing."""
    count = settings.rephrase.texts_per_narration
    for entry in entries:
        parsed = parse_replies(
            entry.reply,
            entry.texts,
            count=count,
            finish=entry.finish,
            instruction=settings.rephrase.instruction,
        )
        found = parsed[entry.texts.index(text)].sentences
        if found:
            return found
    return []


def _is_open(text: str, settings: NarrateSettings, entries: Sequence[Entry]) -> bool:
    """Whether a text must (still) be asked: unusable answers are asked again, `max_attempts` in all."""
    return len(entries) < settings.openai.max_attempts and not _sentences(text, settings, entries)
