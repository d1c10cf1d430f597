"""What a client of language models does: one exchange with a server, in the server's own protocol.

Everything else is the same for all clients: parallel requests, limits per minute, waiting, journal, budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from avion_core.config import CLIENTS, ChatSettings
from avion_core.narrate.api_key import ApiKey
from avion_core.narrate.chat_reply import ChatReply
from avion_core.narrate.exchange import Request
from avion_core.narrate.failures import Failure
from avion_core.narrate.request_form import RequestForm
from avion_core.registry import load

Hear = Callable[[Request, Mapping[str, str]], None]
"""Told each request's response headers."""


class Transport:
    """Connections to the server `settings.address`, for one event loop."""

    def __init__(self, settings: ChatSettings, key: ApiKey, *, hear: Hear) -> None:
        """Raises ProviderError if no connection can be made with what the environment sets."""
        self._settings, self._key, self._hear = settings, key, hear

    async def exchange(self, request: Request, form: RequestForm, *, answered: bool) -> ChatReply | Failure:
        """Make one try. `answered`: the server has answered others with these settings.

        `form` holds what is known of the server; its `token_limit` is the limit of each of the request's
        `choices`. Never raises.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Close all connections."""


def transport_of(settings: ChatSettings, key: ApiKey, *, hear: Hear) -> Transport:
    """The client of the settings, imported when used."""
    made: Transport = load(CLIENTS[settings.client].transport, base=Transport)(settings, key, hear=hear)
    return made
