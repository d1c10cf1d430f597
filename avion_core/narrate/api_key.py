"""The API key of a language model's server: read from the environment, sent to the server, shown nowhere.

Servers repeat what they were sent in error messages and replies, whole or in another spelling. So everything
that a server says goes through `ApiKey.public` before it is shown or written.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator

from avion_core.config import ChatSettings
from avion_core.narrate.chat_reply import ChatReply
from avion_core.narrate.exchange import Answer, ProviderError
from avion_core.plain_text import plain

LONGEST_SHOWN = 300
"""Characters of a server's words that are shown."""
LONGEST_SEARCHED = 4000
"""Characters of a server's words that are searched for the key."""
SECRET_RUN = 8
"""This many letters and digits of the key in a row give it away; other text rarely has them by chance."""
SHORTEST_SECRET = 6
"""A key with fewer letters and digits is a placeholder for a local server, such as `none`."""

_OTHERS = bytes(byte for byte in range(256) if not chr(byte).isalnum() or byte > 127)
_MASKED = re.compile(r"\S*(?:\*{3}|\u2026)\S*")
"""A key that the server has masked, which still shows its first and last characters."""


class ApiKey:
    """A key whose repr does not show it."""

    def __init__(self, value: str) -> None:
        self.value = value
        spellings = [_letters_and_digits(spelling) for spelling in _spellings(value)]
        size = min(SECRET_RUN, len(spellings[0]))
        forms = spellings if size >= SHORTEST_SECRET else []
        self._size = size
        self._runs = {form[at : at + size] for form in forms for at in range(len(form) - size + 1)}

    def __repr__(self) -> str:
        return "ApiKey(***)"

    def is_in(self, text: str) -> bool:
        """Whether a text holds the key or part of it: plain, quoted, escaped, split, in base64 or in hex."""
        if not self._runs:
            return False
        found, size = _letters_and_digits(text), self._size
        return any(found[at : at + size] in self._runs for at in range(len(found) - size + 1))

    def public(self, said: object) -> str:
        """A server's words on one line that can be shown, cut to LONGEST_SHOWN."""
        words = str(said)[:LONGEST_SEARCHED]
        if self.is_in(words):
            return "its words repeat the key and are left out"
        return plain(_MASKED.sub("***", words))[:LONGEST_SHOWN]


def answer_of(reply: ChatReply, number: int, seconds: float, *, key: ApiKey) -> Answer:
    """The answer to try `number`, without a reply that repeats the key."""
    withheld = any(map(key.is_in, (reply.content, reply.finish, *reply.others)))
    return Answer(
        try_number=number,
        content="" if withheld else reply.content,
        finish="it repeats the key" if withheld else reply.finish,
        usage=reply.usage,
        seconds=round(seconds, 3),
        others=() if withheld else reply.others,
    )


def read_api_key(settings: ChatSettings) -> ApiKey:
    """The key from the environment; ProviderError if it is missing or cannot be sent to the server."""
    variable = settings.key_from
    key = os.environ.get(variable, "").strip()
    section, _, provider = settings.where.partition(".")
    if not key:
        other = "'lexicon'" if section == "narrate" else "null"
        raise ProviderError(
            f"{section}.provider is '{provider}', but the environment variable {variable} is not set; "
            f"set it (to any text for a local server that needs no key), or set {section}.provider to {other}"
        )
    if not re.fullmatch(r"[!-~]+", key):
        raise ProviderError(
            f"the environment variable {variable} holds a line break, a space or another character that "
            "no key has; copy the key again, without quotes and line breaks"
        )
    if ApiKey(key).is_in(settings.base_url or ""):
        raise ProviderError(
            f"{settings.where}.base_url holds the key; leave it out there: it is read from {variable}"
        )
    return ApiKey(key)


def _spellings(key: str) -> Iterator[str]:
    """The key first, then other ways of writing it."""
    yield key
    yield key[::-1]
    yield key.encode().hex()
    yield "".join(f"u{ord(letter):04x}" for letter in key)
    yield "".join(letter if letter.isalnum() else f"{ord(letter):02x}" for letter in key)
    for before, letters_of_others in ((0, 0), (1, 2), (2, 3)):  # where in a base64 text the key may begin
        coded = base64.b64encode(bytes(before) + key.encode()).decode().rstrip("=")
        yield coded[letters_of_others:-1]


def _letters_and_digits(text: str) -> bytes:
    return text.encode("ascii", "ignore").lower().translate(None, _OTHERS)
