"""Narration: who rewrites the sentences of a data set, and how requests are sent to a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from avion_core.config.base import Address, Count, Fraction, NotNegative, Positive, Section, sections
from avion_core.registry import Registry, code_files


class ProviderSettings(Section):
    """Settings of one narration provider, in the section of its name."""

    work: ClassVar[str]
    """`package.module:Name` of its `avion_core.narrate.provider.Provider`."""
    prompted: ClassVar[bool] = False
    """Whether `rephrase.instruction` affects its texts."""
    reads_class_lists: ClassVar[bool] = False
    """Whether it reads the verb and noun classes of a data set's `class_lists`."""
    code: ClassVar[tuple[str, ...]] = ()
    """Files whose changes trigger a rerun, relative to `avion_core` or absolute."""
    called: ClassVar[str] = ""
    """What the report calls it in a sentence; empty for its name."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Raise ValueError for a file of `code` that does not exist."""
        code_files(cls.code)

    @classmethod
    def has_section(cls, chosen: bool) -> bool:
        """Whether there is a section even if the configuration has none: defaults, or an error."""
        required = any(field.is_required() for field in cls.model_fields.values())
        return bool(cls.model_fields) and (chosen or not required)

    def recipe(self) -> dict[str, Any]:
        """Settings that affect the texts. Changing others triggers no rerun."""
        return self.model_dump(mode="json")


Own = TypeVar("Own", bound=ProviderSettings)

PROVIDERS: Registry[type[ProviderSettings]] = Registry(
    "narration provider", base=ProviderSettings, refers=("work",)
)
"""Settings of a provider by its name."""


class LexiconSettings(ProviderSettings):
    """Synonyms and other sentence patterns from a curated table, offline; no settings of its own."""

    work = "avion_core.narrate.lexicon_provider:LexiconProvider"
    reads_class_lists = True
    code = (
        "narrate/lexicon.py",
        "narrate/analysis.py",
        "narrate/grammar.py",
        "narrate/words.py",
        "narrate/words.yaml",
        "narrate/synonyms.yaml",
        "narrate/class_lists.py",
        "narrate/sentences.py",
        "data/ek100.py",
    )
    called = "the lexicon"


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
    """Instruction for a language model; the number of sentences and the format are added to it."""


class OpenAIServer(Section):
    """How requests are sent. Changing one of these settings repeats no request and retrains nothing."""

    base_url: Address | None = None
    """Address of the server, without a key or password; null for OpenAI's own."""
    max_tokens_per_reply: Count = 200
    """Most tokens of text in one reply."""
    max_reasoning_tokens: Annotated[int, Field(ge=0)] = 2000
    """Additional tokens for models that reason."""
    schema_bound: bool = True
    """Bind replies to a JSON schema if the server supports it: about half the tokens, and easier to parse."""
    narrations_per_request: Count = 1
    """Distinct narrations in one request."""
    parallel_requests: Count = 4
    """Requests in flight at once, per shard."""
    requests_per_minute: Positive | None = None
    """Most requests a minute of a data set's shards together; null for the server's own limits alone."""
    tokens_per_minute: Positive | None = None
    """Most tokens a minute, prompts and replies, of a data set's shards together; null as above."""
    timeout_seconds: Positive = 60.0
    """Time limit of one try, up to the last byte of the reply."""
    max_attempts: Count = 5
    """Tries of one narration before it is given up, not counting those while the server is away. Raise it to
    retry narrations that were given up."""
    outage_minutes: NotNegative = 10.0
    """How long a server may be away, busy or restarting before the run stops."""
    first_wait_seconds: Positive = 1.0
    """Wait after a failed try, doubled after each further one, and at least as long as the server asks."""
    usd_per_million_input_tokens: NotNegative = 0.15
    """Price, for the estimate and the bill."""
    usd_per_million_output_tokens: NotNegative = 0.60
    """Price, for the estimate and the bill."""
    max_usd: NotNegative = 10.0
    """Most that a data set's requests may cost, including those of earlier runs; narration stops before."""

    @property
    def longest_reply_tokens(self) -> int:
        """Highest token limit of a reply, including reasoning."""
        return self.max_tokens_per_reply + self.max_reasoning_tokens


class OpenAISettings(OpenAIServer, ProviderSettings):
    """An OpenAI-compatible server and a model; its key comes from the environment variable OPENAI_API_KEY."""

    work = "avion_core.narrate.openai_provider:OpenAIProvider"
    prompted = True

    model: str = "gpt-4o-mini"
    """Name of the model on the server."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Sampling temperature; null for the server's default, the only one that some models accept."""

    def recipe(self) -> dict[str, Any]:
        """The model and its temperature."""
        return self.model_dump(mode="json", exclude=set(OpenAIServer.model_fields))


PROVIDERS.register("lexicon", LexiconSettings)
PROVIDERS.register("openai", OpenAISettings)


def _provider(name: str) -> str:
    """A registered provider."""
    PROVIDERS[name]  # raises ValueError if unknown
    return name


class NarrateSettings(Section):
    """Language-model text for the pretraining clips."""

    model_config = ConfigDict(extra="allow")  # only for the sections of providers

    provider: Annotated[
        str,
        AfterValidator(_provider),
        Field(json_schema_extra=lambda schema: schema.update(enum=list(PROVIDERS))),
    ] = "lexicon"
    """`lexicon`: synonyms from a small curated table and a data set's `class_lists`, without a network.
    `openai`: any compatible server. The section of this name holds the provider's own settings."""
    max_failed_share: Fraction = 0.5
    """The run ends if a language model gives no usable sentence for more than this share of the narrations,
    after few requests if that is clear by then. Narrations that cannot be sent do not count."""
    rephrase: RephraseSettings = RephraseSettings()

    @property
    def own(self) -> ProviderSettings:
        """The chosen provider's settings."""
        own: ProviderSettings | None = (self.model_extra or {}).get(self.provider)
        return PROVIDERS[self.provider]() if own is None else own

    def of(self, settings: type[Own]) -> Own:
        """The chosen provider's settings, which are of this class."""
        assert isinstance(self.own, settings), f"{self.provider} has no {settings.__name__}"
        return self.own

    def recipe(self) -> dict[str, Any]:
        """Settings that affect the texts: the provider's own, and the prompt if there is one."""
        own, unused = self.own.recipe(), set() if self.own.prompted else {"instruction"}
        rephrase = self.rephrase.model_dump(mode="json", exclude=unused)
        return {"provider": self.provider, "rephrase": rephrase, **({self.provider: own} if own else {})}

    def job_settings(self) -> dict[str, Any]:
        """The other settings: how a provider runs and when a run is given up."""
        own = self.own.model_dump(mode="json", exclude=set(self.own.recipe()))
        return {"max_failed_share": self.max_failed_share, **({self.provider: own} if own else {})}

    @classmethod
    def join(cls, recipe: Mapping[str, Any], job: Mapping[str, Any]) -> NarrateSettings:
        """The settings from which `recipe` and `job` were made, without other providers' sections."""
        name = recipe["provider"]
        own = {**recipe.get(name, {}), **job.get(name, {})}
        return cls.model_validate({**recipe, **job, name: own})

    @classmethod
    def types(cls) -> dict[str, Any]:
        """Types of the settings by name, including the sections of providers."""
        return {**super().types(), **dict(PROVIDERS.items())}

    @model_validator(mode="before")
    @classmethod
    def _sections_of_providers(cls, raw: Any) -> Any:
        """Validate the sections of providers, refuse others, and fill in the chosen provider's."""
        if not isinstance(raw, Mapping):
            return raw
        given = {name: value for name, value in raw.items() if name not in cls.model_fields}
        chosen = raw.get("provider", cls.model_fields["provider"].default)
        shown = [name for name, own in PROVIDERS.items() if name in given or own.has_section(name == chosen)]
        types = {name: PROVIDERS[name] for name in shown}
        made = sections(**types).model_validate({name: {} for name in shown} | given)
        common = {name: value for name, value in raw.items() if name in cls.model_fields}
        return common | {name: getattr(made, name) for name in shown}


PROVIDERS.reserved = frozenset({*NarrateSettings.model_fields, *dir(NarrateSettings)})
