"""Language models behind a server: the registered clients, how requests are sent, and what they cost."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from avion_core.config.base import Address, Count, Fraction, NotNegative, Positive, Section
from avion_core.config.providers import ProviderSettings
from avion_core.registry import Registry

FIRST_CLIENT = "openai"
"""Client of earlier versions, which recorded answers and recipes without a client's name."""


@dataclass(frozen=True)
class Client:
    """A protocol of language-model servers."""

    transport: str
    """`package.module:Name` of its `avion_core.narrate.transport.Transport`."""
    address: str
    """Server if `base_url` is not set."""
    key_variable: str
    """Environment variable with the key if `key_variable` is not set."""
    batches: bool = False
    """Whether its servers have OpenAI's Files and Batch API."""


CLIENTS: Registry[Client] = Registry("client", record=Client, refers=("transport",))
"""Clients by their name in the configuration."""
CLIENTS.register(
    FIRST_CLIENT,
    Client(
        transport="avion_core.narrate.openai_transport:OpenAITransport",
        address="https://api.openai.com/v1",
        key_variable="OPENAI_API_KEY",
        batches=True,
    ),
)


def _client(name: str) -> str:
    """A registered client."""
    CLIENTS[name]  # raises ValueError if unknown
    return name


def _variable(name: str) -> str:
    """The name of an environment variable; the message does not repeat what may be a key."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("give the name of the environment variable that holds the key, not the key itself")
    return name


ClientName = Annotated[
    str,
    AfterValidator(_client),
    Field(json_schema_extra=lambda schema: schema.update(enum=list(CLIENTS))),
]
Variable = Annotated[str, AfterValidator(_variable)]


class LanguageModelSettings(Section):
    """How requests to language models are sent. A provider's own section overrides these. Changing one
    repeats no request and retrains nothing, except for `client`."""

    client: ClientName = FIRST_CLIENT
    """Protocol of the server. `openai`: OpenAI's, which most servers speak."""
    base_url: Address | None = None
    """Address of the server, without a key or password; null for the client's own, such as OpenAI's."""
    key_variable: Variable | None = None
    """Environment variable that holds the key; null for the client's own: OPENAI_API_KEY."""
    max_tokens_per_reply: Count = 200
    """Most tokens of text in one reply."""
    max_reasoning_tokens: Annotated[int, Field(ge=0)] = 2000
    """Additional tokens for models that reason."""
    schema_bound: bool = True
    """Bind replies to a JSON schema if the server supports it: about half the tokens, and easier to parse."""
    parallel_requests: Count = 4
    """Requests in flight at once, per shard."""
    requests_per_minute: Positive | None = None
    """Most requests a minute of all shards together; null for the server's own limits alone. Requests within
    batches do not count."""
    tokens_per_minute: Positive | None = None
    """Most tokens a minute, prompts and replies, of all shards together; null as above."""
    timeout_seconds: Positive = 60.0
    """Time limit of one try, up to the last byte of the reply."""
    max_attempts: Count = 5
    """Tries of one narration or clip before it is given up, not counting those while the server is away.
    Raise it to retry those that were given up."""
    outage_minutes: NotNegative = 10.0
    """How long a server may be away, busy or restarting before the run stops."""
    first_wait_seconds: Positive = 1.0
    """Wait after a failed try, doubled after each further one, and at least as long as the server asks."""
    usd_per_million_input_tokens: NotNegative | None = None
    """Price, for the estimate and the bill; null for the model's list price, where one is known."""
    usd_per_million_cached_input_tokens: NotNegative | None = None
    """Price of input that the server had in its cache; null for the list price, or that of other input."""
    usd_per_million_output_tokens: NotNegative | None = None
    """Price of output, set together with that of input."""
    max_usd: NotNegative = 10.0
    """Most that a provider's requests may cost for all data sets together, including those of earlier runs;
    narration stops before."""

    batch: bool = False
    """Send requests through the server's Files and Batch API: usually half the price, within a day."""
    batch_requests: Count = 50_000
    """Most requests in one batch."""
    batch_megabytes: Positive = 200.0
    """Largest file of one batch."""
    batch_price_share: Fraction = 0.5
    """Price of a request in a batch, relative to the prices above."""
    batch_poll_seconds: Positive = 60.0
    """Interval at which the state of batches is requested."""
    batch_hours: Positive = 30.0
    """A batch that takes longer is cancelled: its answers so far are kept, the rest is requested again."""

    @property
    def address(self) -> str:
        """Address of the server."""
        return self.base_url or CLIENTS[self.client].address

    @property
    def key_from(self) -> str:
        """Environment variable that holds the key."""
        return self.key_variable or CLIENTS[self.client].key_variable

    @property
    def price_share(self) -> float:
        """Price of a request relative to the normal price."""
        return self.batch_price_share if self.batch else 1.0

    @property
    def longest_reply_tokens(self) -> int:
        """Highest token limit of a reply, including reasoning."""
        return self.max_tokens_per_reply + self.max_reasoning_tokens

    @model_validator(mode="after")
    def _batches_need_an_interface(self) -> Self:
        if self.batch and not CLIENTS[self.client].batches:
            raise ValueError(f"batch: the client '{self.client}' has no batches; set it to false")
        return self


class ChatSettings(LanguageModelSettings, ProviderSettings):
    """A model on a server, for one provider."""

    where: ClassVar[str]
    """The section in the configuration, for messages."""
    prompted = True
    shares_answers = True

    @property
    def job_minutes(self) -> int:
        """Time limit of a shard's job: half a day, or the day that a batch may take and two hours more."""
        return 1560 if self.batch else 720

    model: str
    """Name of the model on the server."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Sampling temperature; null for the server's default, the only one that some models accept."""

    def recipe(self) -> dict[str, Any]:
        """The model, its temperature and whatever else affects its texts; the client if it is another one."""
        counts = {"client"} if self.client != FIRST_CLIENT else set()
        return self.model_dump(mode="json", exclude=set(LanguageModelSettings.model_fields) - counts)
