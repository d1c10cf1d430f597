"""Sends requests to a language model's server in parallel, and waits out failures that pass.

One event loop does all the work; it runs while the caller waits for the next answer. Every try is recorded in
the books before it is sent. Anything with the method `answers` can replace `ChatClient`, such as a batch
interface.

A request that fails while others are answered is given up (`NoAnswer`), and the run goes on. If none is
answered, the server may be at fault: the failed request is held until a request sent later is answered, and
another one is sent in its place. When no other request is left to compare with, a harmless one is sent.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple, Protocol

from avion_core.config import ChatSettings
from avion_core.narrate.api_key import ApiKey, answer_of, read_api_key
from avion_core.narrate.budget import message_tokens
from avion_core.narrate.chat_reply import ChatReply
from avion_core.narrate.exchange import HARMLESS, Answer, BatchBooks, Books, NoAnswer, Request
from avion_core.narrate.failures import Failure, Fault
from avion_core.narrate.pace import Pace
from avion_core.narrate.patience import Outage, Tries, asked_wait, setup_problem
from avion_core.narrate.request_form import RequestForm
from avion_core.narrate.transport import transport_of
from avion_core.processes import finishing_when_stopped

FIRST_REQUESTS = 4
"""Parallel requests until the first answer, so that a wrong setting shows after few requests."""
DOUBTFUL_REQUESTS = 10
"""No request starts while this many are held."""

Outcome = tuple[Request, Answer | NoAnswer]


class Answering(Protocol):
    """What is needed of a client."""

    def answers(self, waiting: deque[Request], books: BatchBooks) -> Iterator[Outcome]:
        """Answer requests until `waiting` is empty; the caller may add to it while iterating."""
        ...


class ChatClient:
    """Replies of one server. Raises ProviderError if there is no usable key.

    One of `shards` that may run at once, and so with that part of the limits per minute.
    """

    def __init__(self, settings: ChatSettings, *, shards: int = 1) -> None:
        self._settings, self._shards = settings, shards
        self.server = settings.address
        self.key = read_api_key(settings)
        self.form = RequestForm(schema=settings.schema_bound)
        """What is known of the server; learnt from its refusals."""

    def answers(self, waiting: deque[Request], books: Books) -> Iterator[Outcome]:
        """Yield (request, outcome) in order of arrival, with `parallel_requests` in flight.

        However the run ends, pending replies are still yielded, since they are billed. Then the first problem
        is raised: the error of `books.begin`, or ProviderError for a refused key, an unknown model, or a
        server that accepts no request or is away for more than `outage_minutes`. A stop signal ends the
        process in the same way.
        """
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            run = _Run(
                self._settings,
                self.form,
                self._shards,
                server=self.server,
                key=self.key,
                books=books,
                loop=loop,
            )
            with finishing_when_stopped(lambda: loop.call_soon_threadsafe(run.stop_by_signal)):
                try:
                    while run.launch(waiting):
                        yield from runner.run(run.outcomes())
                finally:
                    runner.run(run.close())
                    self.form = run.form
        if run.problem is not None:
            raise run.problem


class _StoppedError(Exception):
    """The run is ending; nothing more is sent."""


class _Held(NamedTuple):
    """A request that failed, held until another one is answered."""

    request: Request
    failed_at: float


class _Run:
    """State shared by the requests of one call of `answers`."""

    def __init__(
        self,
        settings: ChatSettings,
        form: RequestForm,
        shards: int,
        *,
        server: str,
        key: ApiKey,
        books: Books,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._settings, self._server, self._key, self._books, self._loop = settings, server, key, books, loop
        self._transport = transport_of(settings, key, hear=self._hear)
        self._pace = Pace(
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
            shards=shards,
        )
        self._reply_tokens = settings.max_tokens_per_reply
        """Expected of the next reply: those of the latest one."""
        self.form = form
        self._outage = Outage(settings, server, say)
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: dict[asyncio.Future[None], _Held] = {}
        """Held requests, by the future that releases each."""
        self._arrived: list[Outcome] = []
        self._news, self._stopping = asyncio.Event(), asyncio.Event()
        self._answered = self._bound = 0
        """Answers so far, and how many of them were bound to a schema."""
        self._healthy_at = -math.inf
        """When the latest answered request was sent; an outage may have begun before its answer came."""
        self._resume_at = 0.0
        self._said: set[str] = set()
        self.problem: Exception | None = None

    # Called between two runs of the event loop.

    def launch(self, waiting: deque[Request]) -> bool:
        """Start as many requests as allowed; False when all is done."""
        limit = self._settings.parallel_requests
        if not self._answered:
            limit = min(limit, FIRST_REQUESTS)
        while waiting and not self._stopping.is_set() and len(self._held) < DOUBTFUL_REQUESTS:
            if len(self._tasks) - len(self._held) >= limit:
                break
            # Neighbours in the alphabet often share a fault: take one from far away.
            request = waiting.pop() if self._held else waiting.popleft()
            self._start(self._ask(request))
        if self._held and len(self._held) == len(self._tasks):
            self._start(self._compare())
        return bool(self._tasks or self._arrived)

    async def outcomes(self) -> list[Outcome]:
        """Run the loop until something happens; returns the outcomes that arrived, possibly none."""
        await self._news.wait()
        self._news.clear()
        arrived, self._arrived = self._arrived, []
        return arrived

    async def close(self) -> None:
        """Cancel all pending requests."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._transport.close()

    def stop_by_signal(self) -> None:
        """Send nothing more, and tell the user what the run still waits for."""
        say(
            "stopping; waiting for replies to requests already sent, for "
            f"{self._settings.timeout_seconds:g} s at most (a second signal stops immediately)"
        )
        self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        for release in self._held:
            release.set_exception(_StoppedError())
        self._held.clear()
        self._news.set()

    def _end(self, problem: Exception) -> None:
        self.problem = self.problem or problem
        self._stop()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(self._until_stopped(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _until_stopped(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except _StoppedError:
            pass
        except Exception as error:
            self._end(error)
        self._news.set()

    def _note_health(self, sent_at: float) -> None:
        """A request sent at `sent_at` was answered: try again what had failed before that."""
        self._answered += 1
        self._healthy_at = max(self._healthy_at, sent_at)
        self._outage.over()
        for release in [release for release, held in self._held.items() if held.failed_at < sent_at]:
            del self._held[release]
            release.set_result(None)

    # One request.

    async def _ask(self, request: Request) -> None:
        outcome = await self._outcome(request)
        self._arrived.append((request, outcome))

    async def _outcome(self, request: Request) -> Answer | NoAnswer:
        """Try until the request is answered or given up. Raises what ends the run."""
        started = failed_at = time.monotonic()
        tries, plain = Tries(self._settings), False
        while True:
            await self._admit(request)
            form, sent = self.form, replace(request, schema=None) if plain else request
            others_are_answered, sent_at = self._healthy_at > failed_at, time.monotonic()
            number, result = await self._try(sent, form)
            if isinstance(result, ChatReply):
                self._note_health(sent_at)
                self._note_answer(result, sent, form, fell_back=plain)
                return answer_of(result, number, time.monotonic() - started, key=self._key)
            if self._adapt(form, result, sent):
                continue
            if result.fault is Fault.REFUSED and form.binds(sent) and not self._bound:
                plain = True  # it may be the schema
                continue
            tries.note(result)
            self._check_server(result, tries)
            failed_at = time.monotonic()
            doubtful = self._outage.is_long() and not others_are_answered
            if not tries.are_over() and not doubtful:
                await self._wait(tries.wait_seconds(result), everyone=asked_wait(result))
                continue
            if not others_are_answered:
                await self._hold(request, failed_at)
            if result.fault is Fault.REFUSED or (others_are_answered and tries.are_over()):
                return NoAnswer(self._key.public(result.said))

    async def _compare(self) -> None:
        """Send a harmless request to learn whether the server or the held requests are at fault.

        Raises ProviderError if it is refused too, or gets no answer for `outage_minutes`.
        """
        held = next(iter(self._held.values())).request
        messages = (*held.messages[:-1], {"role": "user", "content": held.harmless})
        request = Request(-1, (HARMLESS,), messages, image_tokens=held.image_tokens)
        tries = Tries(self._settings)
        while self._held:
            await self._admit(request)
            form, sent_at = self.form, time.monotonic()
            _, result = await self._try(request, form)
            if isinstance(result, ChatReply):
                self._note_health(sent_at)
                return
            if self._adapt(form, result, request):
                continue
            tries.note(result)
            self._check_server(result, tries)
            said = self._key.public(result.said)
            if result.fault is Fault.REFUSED:
                raise setup_problem(result, self._settings, self._server, self._key)
            if result.fault is Fault.FAILED:
                self._outage.note(said)
            self._outage.check(said)
            await self._wait(tries.wait_seconds(result))

    def _expected_tokens(self, request: Request) -> int:
        return message_tokens(request.messages) + request.image_tokens + self._reply_tokens

    async def _admit(self, request: Request) -> None:
        """Wait until the limits per minute and the server allow a request."""
        await self._pause_until(self._pace.admit(time.monotonic(), self._expected_tokens(request)))
        await self._pause_until(self._resume_at)

    def _hear(self, request: Request, headers: Mapping[str, str]) -> None:
        self._pace.hear(headers, time.monotonic(), tokens=self._expected_tokens(request))

    async def _try(self, request: Request, form: RequestForm) -> tuple[int, ChatReply | Failure]:
        """Make one try; returns its number in the books, and the result."""
        number = self._books.begin(request, form.token_limit(self._settings))
        expected = self._expected_tokens(request)
        result = await self._transport.exchange(request, form, answered=self._answered > 0)
        if isinstance(result, ChatReply) and result.usage:
            self._pace.settle(expected=expected, used=result.usage.input_tokens + result.usage.output_tokens)
            self._reply_tokens = result.usage.output_tokens
        if isinstance(result, Failure) and not result.billed:
            self._books.cancel(number)
        return number, result

    def _note_answer(self, reply: ChatReply, request: Request, form: RequestForm, *, fell_back: bool) -> None:
        self._bound += form.binds(request)
        if fell_back and not self._bound:
            self._learn(replace(form, schema=False))
        self._learn(form.learnt_from(reply))
        if reply.is_cut_off:
            more = "raise" if form.reasons else "the next replies have more:"
            self._say_once(
                f"the model '{self._settings.model}' used all {form.token_limit(self._settings)} tokens of "
                f"a reply for reasoning and wrote nothing; {more} "
                f"{self._settings.where}.max_reasoning_tokens ({self._settings.max_reasoning_tokens})"
            )

    def _adapt(self, form: RequestForm, failure: Failure, request: Request) -> bool:
        """Drop the parameter that the failure was about; False if it was about none."""
        better = form.without_refused(failure, request, self._settings)
        self._learn(better)
        return better != form

    def _learn(self, form: RequestForm) -> None:
        before, self.form = self.form, self.form.joined(form)
        if before.schema and not self.form.schema:
            say(f"{self._server} does not bind replies to a JSON schema; they are read as they come")

    def _check_server(self, failure: Failure, tries: Tries) -> None:
        """Raise ProviderError if it is not this request that fails, and waiting does not help either."""
        if failure.fault is Fault.AWAY:
            self._outage.note(self._key.public(failure.said))
        if failure.fault is Fault.SETUP and not (self._answered and tries.of(Fault.SETUP) == 1):
            raise setup_problem(failure, self._settings, self._server, self._key)

    async def _hold(self, request: Request, failed_at: float) -> None:
        """Wait until another request, sent after this one failed, is answered."""
        if self._stopping.is_set():
            raise _StoppedError
        release: asyncio.Future[None] = self._loop.create_future()
        self._held[release] = _Held(request, failed_at)
        self._news.set()
        await release

    async def _wait(self, seconds: float, *, everyone: float = 0.0) -> None:
        """Wait, and hold up all other requests for at least `everyone` seconds."""
        now = time.monotonic()
        self._resume_at = max(self._resume_at, now + everyone)
        await self._pause_until(now + seconds)

    async def _pause_until(self, moment: float) -> None:
        """Sleep until `moment`; raises _StoppedError if the run ends first."""
        seconds = moment - time.monotonic()
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)
        if self._stopping.is_set():
            raise _StoppedError

    def _say_once(self, words: str) -> None:
        if words not in self._said:
            self._said.add(words)
            say(words)


def say(words: str) -> None:
    """Print a line on standard error."""
    with suppress(BrokenPipeError):  # the signal that stops us may have ended what reads this
        print(f"narrate: {words}", file=sys.stderr, flush=True)
