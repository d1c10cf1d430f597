"""Which parameters a request has, and which to leave out after a server refuses them.

This depends on what the refused request itself had, since several are in flight when the first is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from avion_core.config import ChatSettings
from avion_core.narrate.chat_reply import ChatReply
from avion_core.narrate.exchange import ProviderError, Request
from avion_core.narrate.failures import Failure

_REFUSING = re.compile(
    r"not support|unsupported|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed|extra|invalid"
    r"|unavailable|cannot|failed|instead",
    re.IGNORECASE,
)
_SCHEMA_WORDS = re.compile(r"response_format|json_schema|\bschema\b|grammar|guided|structured", re.IGNORECASE)


@dataclass(frozen=True)
class RequestForm:
    """The parameters of a request besides model and messages."""

    schema: bool
    """Whether the reply is bound to the request's JSON schema, if it has one."""
    limit_name: str = "max_tokens"
    """`max_completion_tokens` for OpenAI's newer models; many local servers know only `max_tokens`."""
    reasons: bool = False
    """Whether the limit has room for reasoning."""

    def token_limit(self, settings: ChatSettings) -> int:
        """Token limit of a reply."""
        return settings.max_tokens_per_reply + (settings.max_reasoning_tokens if self.reasons else 0)

    def arguments(self, request: Request, settings: ChatSettings) -> dict[str, Any]:
        """The body of the request."""
        given: dict[str, Any] = {
            "model": settings.model,
            "messages": list(request.messages),
            self.limit_name: self.token_limit(settings),
        }
        if settings.temperature is not None:
            given["temperature"] = settings.temperature
        if request.choices > 1:
            given["n"] = request.choices
        if self.binds(request):
            schema = {"name": "sentences", "strict": True, "schema": request.schema}
            given["response_format"] = {"type": "json_schema", "json_schema": schema}
        return given

    def binds(self, request: Request) -> bool:
        """Whether the reply to `request` is bound to a schema."""
        return self.schema and request.schema is not None

    def learnt_from(self, reply: ChatReply) -> RequestForm:
        """The form after a reply: with room for reasoning if the model reasons."""
        return replace(self, reasons=self.reasons or reply.reasons or reply.is_cut_off)

    def joined(self, other: RequestForm) -> RequestForm:
        """The form that respects what both have learnt about the server."""
        switched = "max_completion_tokens" in (self.limit_name, other.limit_name)
        return RequestForm(
            schema=self.schema and other.schema,
            limit_name="max_completion_tokens" if switched else "max_tokens",
            reasons=self.reasons or other.reasons,
        )

    def without_refused(self, failure: Failure, request: Request, settings: ChatSettings) -> RequestForm:
        """The form without the parameter that a server's error names; unchanged if it names none.

        Raises ProviderError if the user set the parameter.
        """
        if failure.status is None or failure.status < 400:
            return self
        said, named = failure.said, failure.parameter
        refusing = failure.status in (400, 422) and _REFUSING.search(said) is not None
        if self.binds(request) and (
            named.startswith("response_format") or (_SCHEMA_WORDS.search(said) and _REFUSING.search(said))
        ):
            return replace(self, schema=False)
        if self.limit_name == "max_tokens" and refusing and "max_completion_tokens" in said:
            return replace(self, limit_name="max_completion_tokens", reasons=True)
        echoed = any("temperature" in text for text in request.texts)  # servers repeat what they refuse
        about = "temperature" in (named or ("" if echoed else said))
        if settings.temperature is not None and refusing and about:
            raise ProviderError(
                f"the model '{settings.model}' does not take {settings.where}.temperature: "
                f"{settings.temperature:g}; leave it out, or set it to null"
            )
        return self
