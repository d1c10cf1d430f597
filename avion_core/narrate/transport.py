"""One exchange with a server: a request goes out, a reply or a failure comes back.

It speaks HTTP by `httpx2`, on which OpenAI's own package rests. That package takes twice the time for a
request, and trusts a reply more than `chat_reply` does.
"""

from __future__ import annotations

import asyncio
import os

import httpx2

from avion_core.config import OpenAISettings
from avion_core.narrate.api_key import ApiKey
from avion_core.narrate.chat_reply import LARGEST_REPLY_BYTES, BrokenReplyError, ChatReply, read_reply
from avion_core.narrate.exchange import Request
from avion_core.narrate.failures import Failure, Fault, failure_of_exception, failure_of_status
from avion_core.narrate.request_form import RequestForm

CONNECT_SECONDS = 10.0
"""Bound on opening a connection."""
IDLE_SECONDS = 3.0
"""A connection that was idle for longer is not used again: servers close theirs after five or more."""
ACCOUNT_HEADERS = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
"""Headers that OpenAI's own package takes from these environment variables."""


class Transport:
    """Connections to one server, for one event loop. Redirects are not followed: the key stays here."""

    def __init__(self, settings: OpenAISettings, server: str, key: ApiKey) -> None:
        self._settings = settings
        self._url = server.rstrip("/") + "/chat/completions"
        account = {name: os.environ.get(variable, "") for name, variable in ACCOUNT_HEADERS.items()}
        self._headers = {"Authorization": f"Bearer {key.value}"}
        self._headers |= {name: value for name, value in account.items() if value}
        self._certificates = httpx2.create_ssl_context()
        self._clients: list[httpx2.AsyncClient] = []
        self._idle: list[httpx2.AsyncClient] = []

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            await client.aclose()

    def _client(self) -> httpx2.AsyncClient:
        """One with one connection, for one request at a time: a pool checks all it has for every request."""
        if self._idle:
            return self._idle.pop()
        client = httpx2.AsyncClient(
            headers=self._headers,
            verify=self._certificates,
            timeout=httpx2.Timeout(None, connect=min(CONNECT_SECONDS, self._settings.timeout_seconds)),
            limits=httpx2.Limits(max_connections=1, keepalive_expiry=IDLE_SECONDS),
            follow_redirects=False,
        )
        self._clients.append(client)
        return client

    async def exchange(self, request: Request, form: RequestForm, *, answered: bool) -> ChatReply | Failure:
        """One try. `answered` says that the server has answered others with these settings."""
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                response, body = await self._post(request, form)
        except TimeoutError:
            return Failure(Fault.FAILED, f"no answer within {self._settings.timeout_seconds:g} s", True)
        except Exception as error:  # whatever a server's bytes make the HTTP packages raise
            return failure_of_exception(error, answered=answered)
        if not response.is_success:
            return failure_of_status(response.status_code, body, response.headers, answered=answered)
        sent_bytes = sum(len(message["content"].encode()) for message in request.messages)
        try:
            return read_reply(body, sent_bytes=sent_bytes, token_limit=form.token_limit(self._settings))
        except BrokenReplyError as error:
            return Failure(Fault.FAILED, f"broken reply: {error}", True)

    async def _post(self, request: Request, form: RequestForm) -> tuple[httpx2.Response, bytes]:
        """The response's head, and its body up to a little more than LARGEST_REPLY_BYTES."""
        client, body = self._client(), bytearray()
        arguments = form.arguments(request, self._settings)
        try:
            async with client.stream("POST", self._url, json=arguments) as response:
                try:
                    async for piece in response.aiter_bytes():
                        body += piece
                        if len(body) > LARGEST_REPLY_BYTES:
                            break
                except httpx2.HTTPError:
                    if response.is_success:
                        raise
        finally:
            self._idle.append(client)
        return response, bytes(body)
