"""Asks an OpenAI-compatible server, in parallel, and knows which failures to wait out.

The `openai` package speaks the protocol; its own retries are off, because ours have to slow down all
requests together, keep to `max_attempts`, and end in one line that says what to do. Whatever answers
requests as `ChatClient.answers` does can take its place, such as a batch interface.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol

import openai

from avion_core.config import OpenAISettings
from avion_core.narrate.prompts import Message

KEY_VARIABLE = "OPENAI_API_KEY"
OPENAI_URL = "https://api.openai.com/v1"
LONGEST_WAIT_SECONDS = 60.0
"""Bound on our own growing waits."""
LONGEST_ASKED_WAIT_SECONDS = 600.0
"""Bound on a wait that the server asks for."""


class ProviderError(ValueError):
    """A provider cannot be used, or gives nothing usable. The message says why and the way out."""


class _StoppedError(Exception):
    """Another request met a problem that ends the run."""


@dataclass(frozen=True)
class Request:
    """Narrations that are asked about together."""

    number: int
    texts: tuple[str, ...]
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Reply:
    """A server's answer to a request."""

    content: str
    finish: str
    input_tokens: int | None
    """None when the server counts no tokens."""
    output_tokens: int | None
    lost_tries: int
    """Tries without an answer that the server may have billed: time-outs and broken replies."""
    seconds: float


class Answering(Protocol):
    """What the rephraser needs of a client."""

    def answers(
        self, waiting: deque[Request], *, admit: Callable[[Request], None]
    ) -> Iterator[tuple[Request, Reply]]:
        """Answer requests until `waiting` is empty; the caller may add to it while iterating."""
        ...


def api_key() -> str:
    """The key of the environment; ProviderError if there is none."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise ProviderError(
            f"narrate.provider is 'openai', but the environment variable {KEY_VARIABLE} is not set; set it "
            "(to any text for a local server that asks for no key), or set narrate.provider to 'lexicon'"
        )
    return key


class ChatClient:
    """Chat completions with growing waits. Thread-safe."""

    def __init__(self, settings: OpenAISettings) -> None:
        self._settings = settings
        self.server = settings.base_url or OPENAI_URL
        self._key = api_key()
        self._client = openai.OpenAI(
            api_key=self._key, base_url=self.server, timeout=settings.timeout_seconds, max_retries=0
        )
        self._limit_name = "max_tokens"
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._resume_at = 0.0

    def answers(
        self, waiting: deque[Request], *, admit: Callable[[Request], None]
    ) -> Iterator[tuple[Request, Reply]]:
        """Yield (request, reply) in the order of arrival, `parallel_requests` at a time.

        `admit` is called before a request is sent and may raise to end the run. Whatever ends it, replies
        to requests on their way are still yielded (they are billed), then the first problem is raised:
        ProviderError for a refused key, an unknown model, or no answer after `max_attempts`.
        """
        problem: Exception | None = None
        flying: dict[Future[Reply], Request] = {}
        with ThreadPoolExecutor(self._settings.parallel_requests) as pool:
            try:
                while flying or (waiting and problem is None):
                    problem = problem or self._launch(pool, waiting, flying, admit)
                    done, _ = wait(flying, return_when=FIRST_COMPLETED)
                    for future in done:
                        request, error = flying.pop(future), future.exception()
                        if error is None:
                            yield request, future.result()
                        elif not isinstance(error, _StoppedError):
                            problem = problem or _as_exception(error)
                            self._stop.set()
            finally:
                self._stop.set()
        if problem is not None:
            raise problem
        self._stop.clear()

    def _launch(
        self,
        pool: ThreadPoolExecutor,
        waiting: deque[Request],
        flying: dict[Future[Reply], Request],
        admit: Callable[[Request], None],
    ) -> Exception | None:
        """Send requests up to the parallel limit; returns the reason if `admit` refuses one."""
        while waiting and len(flying) < self._settings.parallel_requests:
            try:
                admit(waiting[0])
            except ValueError as refusal:
                return refusal
            request = waiting.popleft()
            flying[pool.submit(self._ask, request)] = request
        return None

    def _ask(self, request: Request) -> Reply:
        """One request, tried until it is answered, refused or out of attempts."""
        started, lost, attempt = time.monotonic(), 0, 0
        while True:
            self._pause_until(self._resume_at)
            try:
                return self._try(request, lost, started)
            except openai.APIStatusError as error:
                if self._other_limit_name(error):
                    continue
                self._raise_if_final(error)
                problem, asked = f"{error.status_code}: {self._public(error)}", _asked_wait(error)
            except openai.APITimeoutError:
                lost += 1
                problem, asked = f"no answer within {self._settings.timeout_seconds:g} s", 0.0
            except openai.APIConnectionError as error:
                problem, asked = f"connection failed: {error.__cause__ or error}", 0.0
            except (openai.APIError, BrokenReplyError, ValueError) as error:
                lost += 1
                problem, asked = f"broken reply: {self._public(error)}", 0.0
            attempt += 1
            if attempt >= self._settings.max_attempts:
                raise ProviderError(
                    f"{self.server}: no answer after {attempt} tries, the last one: {problem}. Answers so "
                    "far are kept: the same command goes on from here once the server is healthy again "
                    "(narrate.openai.max_attempts, parallel_requests and timeout_seconds bound the tries)"
                )
            self._wait_after(attempt, asked)

    def _try(self, request: Request, lost: int, started: float) -> Reply:
        try:
            create: Any = self._client.chat.completions.create
            answer = create(
                model=self._settings.model,
                messages=list(request.messages),
                temperature=self._settings.temperature,
                **{self._limit_name: self._settings.max_tokens_per_reply},
            )
        except openai.BadRequestError as error:
            if error.code != "content_filter":
                raise
            return Reply("", "content_filter", 0, 0, lost, time.monotonic() - started)
        choices = getattr(answer, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            raise BrokenReplyError("it holds no message")
        usage = getattr(answer, "usage", None)
        return Reply(
            content=choices[0].message.content or "",
            finish=str(choices[0].finish_reason),
            input_tokens=getattr(usage, "prompt_tokens", None),
            output_tokens=getattr(usage, "completion_tokens", None),
            lost_tries=lost,
            seconds=round(time.monotonic() - started, 3),
        )

    def _raise_if_final(self, error: openai.APIStatusError) -> None:
        """ProviderError for what waiting does not cure."""
        status, said = error.status_code, self._public(error)
        if status in (401, 403):
            raise ProviderError(f"{self.server} refuses the key in {KEY_VARIABLE} ({status}: {said})")
        if status == 429 and error.code == "insufficient_quota":
            raise ProviderError(f"{self.server}: the account has no credit left ({said})")
        if status == 404:
            raise ProviderError(
                f"{self.server} does not know the model '{self._settings.model}', or is not the address of "
                f"an OpenAI-compatible server ({said}); see narrate.openai.model and base_url"
            )
        if status < 500 and status not in (408, 409, 429):
            raise ProviderError(f"{self.server} does not accept the request ({status}: {said})")

    def _other_limit_name(self, error: openai.APIStatusError) -> bool:
        """OpenAI's newer models want `max_completion_tokens`, which many local servers do not know."""
        refused = error.status_code == 400 and "max_completion_tokens" in str(error)
        if refused and self._limit_name == "max_tokens":
            self._limit_name = "max_completion_tokens"
            return True
        return False

    def _wait_after(self, attempt: int, asked: float) -> None:
        """Wait twice as long as the last time, with some jitter; others wait too if the server asked."""
        growing = min(self._settings.first_wait_seconds * 2 ** (attempt - 1), LONGEST_WAIT_SECONDS)
        seconds = max(growing, min(asked, LONGEST_ASKED_WAIT_SECONDS)) * random.uniform(1.0, 1.25)
        until = time.monotonic() + seconds
        if asked:
            with self._lock:
                self._resume_at = max(self._resume_at, until)
        self._pause_until(until)

    def _pause_until(self, until: float) -> None:
        if self._stop.wait(max(0.0, until - time.monotonic())):
            raise _StoppedError

    def _public(self, error: Exception) -> str:
        """An error's words on one line, without the key."""
        said = getattr(error, "body", None) or str(error)
        if isinstance(said, dict):
            said = said.get("message") or said
        return " ".join(str(said).replace(self._key, "***").split())[:300]


class BrokenReplyError(Exception):
    """The server's reply is not a chat completion."""


def _asked_wait(error: openai.APIStatusError) -> float:
    """Seconds of the header Retry-After, else 0."""
    headers = error.response.headers
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    return 0.0


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(str(error))
