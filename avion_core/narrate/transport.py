"""One exchange with a server: a request goes out, a reply or a failure comes back."""

from __future__ import annotations

import asyncio
from typing import Any

import openai

from avion_core.config import OpenAISettings
from avion_core.narrate.api_key import ApiKey
from avion_core.narrate.chat_reply import LARGEST_REPLY_BYTES, BrokenReplyError, ChatReply, read_reply
from avion_core.narrate.exchange import Request
from avion_core.narrate.failures import Failure, Fault, failure_of_exception, failure_of_status
from avion_core.narrate.request_form import RequestForm

CONNECT_SECONDS = 10.0
"""Bound on opening a connection."""


class Transport:
    """Connections to one server, for one event loop. Redirects are not followed: the key stays here."""

    def __init__(self, settings: OpenAISettings, server: str, key: ApiKey) -> None:
        self._settings = settings
        patience = openai.Timeout(None, connect=min(CONNECT_SECONDS, settings.timeout_seconds))
        self._client = openai.AsyncOpenAI(
            api_key=key.value,
            base_url=server,
            max_retries=0,
            timeout=patience,
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, timeout=patience),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def exchange(self, request: Request, form: RequestForm, *, answered: bool) -> ChatReply | Failure:
        """One try. `answered` says that the server has answered others with these settings."""
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                body = await self._body(form.arguments(request, self._settings))
            return read_reply(
                body,
                sent_bytes=sum(len(message["content"].encode()) for message in request.messages),
                token_limit=form.token_limit(self._settings),
            )
        except TimeoutError:
            return Failure(Fault.FAILED, f"no answer within {self._settings.timeout_seconds:g} s", True)
        except openai.APIStatusError as error:
            response = error.response
            return failure_of_status(error.status_code, response.content, response.headers, answered=answered)
        except BrokenReplyError as error:
            return Failure(Fault.FAILED, f"broken reply: {error}", True)
        except Exception as error:  # whatever a server's bytes make the HTTP packages raise
            return failure_of_exception(error, answered=answered)

    async def _body(self, arguments: dict[str, Any]) -> bytes:
        create: Any = self._client.chat.completions.with_streaming_response.create
        body = bytearray()
        async with create(**arguments) as response:
            async for piece in response.iter_bytes():
                body += piece
                if len(body) > LARGEST_REPLY_BYTES:
                    raise BrokenReplyError(f"it is longer than {LARGEST_REPLY_BYTES} bytes")
        return bytes(body)
