"""The client `openai`: one exchange with a server that speaks OpenAI's protocol.

The `openai` package speaks the protocol. Its retries are off, because every try must be recorded, and so is
its parsing of replies, which is slower and less strict than `chat_reply`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx2
import openai

from avion_core.config import ChatSettings
from avion_core.narrate.api_key import ApiKey
from avion_core.narrate.chat_reply import LARGEST_REPLY_BYTES, BrokenReplyError, ChatReply, read_reply
from avion_core.narrate.exchange import ProviderError, Request
from avion_core.narrate.failures import Failure, Fault, failure_of_exception, failure_of_status
from avion_core.narrate.request_form import RequestForm
from avion_core.narrate.transport import Hear, Transport

CONNECT_SECONDS = 10.0
"""Timeout for opening a connection."""
IDLE_SECONDS = 3.0
"""Connections idle for longer are not reused: servers close theirs after five seconds or more."""


class _StatusError(Exception):
    """The server answered with a status that is not a success."""

    def __init__(self, status: int, body: bytes, headers: httpx2.Headers) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers


class OpenAITransport(Transport):
    """Chat completions. Redirects are not followed: the key stays here."""

    def __init__(self, settings: ChatSettings, key: ApiKey, *, hear: Hear) -> None:
        super().__init__(settings, key, hear=hear)
        self._certificates = httpx2.create_ssl_context()
        self._clients: list[openai.AsyncOpenAI] = []
        try:
            self._idle = [self._new_client()]
        except (ValueError, ImportError, httpx2.InvalidURL) as error:
            raise unusable_proxy(error, key) from None

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            await client.close()

    def _new_client(self) -> openai.AsyncOpenAI:
        """A client with one connection, for one request at a time: a pool checks all of its connections on
        every request."""
        patience = openai.Timeout(None, connect=min(CONNECT_SECONDS, self._settings.timeout_seconds))
        http = openai.DefaultAsyncHttpxClient(
            verify=self._certificates,
            timeout=patience,
            limits=httpx2.Limits(max_connections=1, keepalive_expiry=IDLE_SECONDS),
            follow_redirects=False,
            event_hooks={"response": [_raise_for_status]},
        )
        client = openai.AsyncOpenAI(
            api_key=self._key.value,
            base_url=self._settings.address,
            max_retries=0,
            timeout=patience,
            http_client=http,
        )
        self._clients.append(client)
        return client

    async def exchange(self, request: Request, form: RequestForm, *, answered: bool) -> ChatReply | Failure:
        """Make one try. `answered`: the server has answered others with these settings."""
        arguments = form.arguments(request, self._settings)
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                body, headers = await self._post(arguments)
            self._hear(request, headers)
            return read_reply(
                body,
                sent_bytes=request.most_input_tokens,
                token_limit=form.token_limit(self._settings) * request.choices,
            )
        except TimeoutError:
            return Failure(Fault.FAILED, f"no answer within {self._settings.timeout_seconds:g} s", True)
        except _StatusError as error:
            self._hear(request, error.headers)
            return failure_of_status(error.status, error.body, error.headers, answered=answered)
        except BrokenReplyError as error:
            return Failure(Fault.FAILED, f"broken reply: {error}", True)
        except Exception as error:  # whatever a server's bytes make the HTTP packages raise
            return failure_of_exception(error, answered=answered)

    async def _post(self, arguments: dict[str, Any]) -> tuple[bytes, Mapping[str, str]]:
        client = self._idle.pop() if self._idle else self._new_client()
        try:
            post: Any = client.post  # its types do not cover that `stream` leaves the body unread
            response = await post("/chat/completions", body=arguments, cast_to=httpx2.Response, stream=True)
            try:
                return await _read_bounded(response), response.headers
            finally:
                await response.aclose()
        finally:
            self._idle.append(client)


def unusable_proxy(error: Exception, key: ApiKey) -> ProviderError:
    """The error for a proxy that the HTTP packages do not accept."""
    return ProviderError(
        "the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names cannot be used "
        f"({key.public(error)}); unset it, or add the server to NO_PROXY"
    )


async def _raise_for_status(response: httpx2.Response) -> None:
    """Raise _StatusError unless the response is a success; its body may be truncated."""
    if not response.is_success:
        try:
            body = await _read_bounded(response)
        except httpx2.HTTPError:
            body = b""
        raise _StatusError(response.status_code, body, response.headers)


async def _read_bounded(response: httpx2.Response) -> bytes:
    """The body, up to a little more than LARGEST_REPLY_BYTES."""
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > LARGEST_REPLY_BYTES:
            break
    return bytes(body)
