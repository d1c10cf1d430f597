"""Narration: who rewrites the sentences of a data set, and how a language model's server is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from avion_core.config.base import Address, Count, Fraction, NotNegative, Positive, Section


class RephraseSettings(Section):
    """How a provider rewrites narrations."""

    texts_per_narration: Annotated[int, Field(ge=1, le=20)] = 4
    """New sentences kept for each distinct narration."""
    instruction: str = (
        "You rewrite short descriptions of what a person who wears a camera does with their hands. "
        "'#C C' stands for that person: where a sentence starts with it, start yours with it too, in the "
        "third person, such as '#C C picks up the red cup'. Say the same action with the same objects, "
        "colours, hands and places in other words: vary the verb, the name of the object and the form of "
        "the sentence, add nothing that is not there and turn nothing into its opposite. Make one version "
        "a plain instruction without '#C C', such as 'pick up the red cup'. No punctuation at the end."
    )
    """What a language model is told; how many sentences and in which format is added to it."""


class OpenAIServer(Section):
    """How a server is asked. Changing one of these settings repeats no request and retrains nothing."""

    base_url: Address | None = None
    """Address of the server, without a key or password; null for OpenAI's own."""
    max_tokens_per_reply: Count = 200
    """Bound on the text of one reply."""
    max_reasoning_tokens: Annotated[int, Field(ge=0)] = 2000
    """Room for reasoning on top of that, for models that reason."""
    schema_bound: bool = True
    """Bind replies to a JSON schema if the server can: about half the tokens, and nothing to misread."""
    narrations_per_request: Count = 1
    """Distinct narrations put into one request."""
    parallel_requests: Count = 4
    """Requests in flight at once, per shard."""
    timeout_seconds: Positive = 60.0
    """Bound on one try, to the last byte of the reply."""
    max_attempts: Count = 5
    """Tries of one narration before it is given up; waiting for a server that is away is none. Raise it to
    have those given up asked again."""
    outage_minutes: NotNegative = 10.0
    """How long a server may be away, busy or restarting before the run stops."""
    first_wait_seconds: Positive = 1.0
    """Wait after a failed try; each further one is twice as long, and at least what the server asks."""
    usd_per_million_input_tokens: NotNegative = 0.15
    """Price, for the estimate and the bill."""
    usd_per_million_output_tokens: NotNegative = 0.60
    """Price, for the estimate and the bill."""
    max_usd: NotNegative = 10.0
    """Narrating a data set stops before its requests, those of earlier runs among them, would cost more."""

    @property
    def longest_reply_tokens(self) -> int:
        """What a reply is limited to at most, its reasoning included."""
        return self.max_tokens_per_reply + self.max_reasoning_tokens


class OpenAISettings(OpenAIServer):
    """An OpenAI-compatible server and a model; its key comes from the environment variable OPENAI_API_KEY."""

    model: str = "gpt-4o-mini"
    """Model name as the server knows it."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Sampling temperature; null for the server's own. Some models take no other."""


class NarrateSettings(Section):
    """Language-model text for the pretraining clips."""

    provider: Literal["lexicon", "openai"] = "lexicon"
    """`lexicon`: synonyms from a small curated table and a data set's `class_lists`, without a network.
    `openai`: any compatible server."""
    max_failed_share: Fraction = 0.5
    """A language model that gives no usable sentence for more than this share of the narrations ends the run,
    after few requests where the share is clear by then. Narrations that cannot be sent do not count."""
    rephrase: RephraseSettings = RephraseSettings()
    openai: OpenAISettings = OpenAISettings()

    def recipe(self) -> dict[str, Any]:
        """The settings that decide the texts: the provider's own, and the prompt where there is one."""
        rephrase = self.rephrase.model_dump(mode="json")
        if self.provider == "lexicon":
            del rephrase["instruction"]
            return {"provider": "lexicon", "rephrase": rephrase}
        openai = self.openai.model_dump(mode="json", exclude=set(OpenAIServer.model_fields))
        return {"provider": "openai", "rephrase": rephrase, "openai": openai}

    def job_settings(self) -> dict[str, Any]:
        """The other settings, which say how a server is asked and when a run is given up."""
        openai = self.openai.model_dump(mode="json", include=set(OpenAIServer.model_fields))
        return {"max_failed_share": self.max_failed_share, "openai": openai}

    @classmethod
    def join(cls, recipe: Mapping[str, Any], job: Mapping[str, Any]) -> NarrateSettings:
        """The settings that `recipe` and `job` were made of, as far as they are needed."""
        openai = {**recipe.get("openai", {}), **job.get("openai", {})}
        return cls.model_validate({**recipe, **job, "openai": openai})
