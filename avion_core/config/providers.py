"""Who writes texts: settings of each narration provider, and sections that choose one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from avion_core.config.base import Fraction, Section, sections
from avion_core.registry import Registry, code_files


class ProviderSettings(Section):
    """Settings of one narration provider, in the section of its name."""

    work: ClassVar[str]
    """`package.module:Name` of its `avion_core.narrate.provider.Provider`; of a
    `avion_core.narrate.clip_provider.ClipProvider` if it `looks`."""
    looks: ClassVar[bool] = False
    """Whether it narrates clips from frames, as `narrator.provider`, instead of rephrasing narrations."""
    brings_clips: ClassVar[bool] = False
    """Whether it says which clips it narrates, instead of those of the clip table and windows."""
    prompted: ClassVar[bool] = False
    """Whether the section's instruction affects its texts."""
    shares_answers: ClassVar[bool] = False
    """Whether data sets share its answers, and a limit of what they cost."""
    reads_class_lists: ClassVar[bool] = False
    """Whether it reads the verb and noun classes of a data set's `class_lists`."""
    code: ClassVar[tuple[str, ...]] = ()
    """Files whose changes trigger a rerun, relative to `avion_core` or absolute."""
    called: ClassVar[str] = ""
    """What the report calls it in a sentence; empty for its name."""

    @property
    def recorded(self) -> str:
        """Its name in folders and recipes, where an earlier version had another; empty for its name."""
        return ""

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

    @property
    def job_threads(self) -> int:
        """CPU threads of a shard's job."""
        return 1

    @property
    def job_gpus(self) -> int:
        """GPUs of a shard's job."""
        return 0

    @property
    def job_memory_mb(self) -> int:
        """Memory of the job of a shard that narrates clips."""
        return 2500

    @property
    def job_minutes(self) -> int:
        """Time limit of a shard's job."""
        return 720

    def trained_stage(self) -> tuple[str, str] | None:
        """Run and stage of the model that it narrates clips with; None if it needs no model of ours."""
        return None


Own = TypeVar("Own", bound=ProviderSettings)

PROVIDERS: Registry[type[ProviderSettings]] = Registry(
    "narration provider", base=ProviderSettings, refers=("work",)
)
"""Settings of a provider by its name."""
RENAMED = {"openai": "language_model"}
"""Providers by their names in earlier versions, which folders and recipes keep: nothing is made anew."""


def provider_names(*, looks: bool) -> list[str]:
    """Providers that narrate clips, or those that rephrase narrations."""
    return [name for name, provider in PROVIDERS.items() if provider.looks == looks]


def chosen_provider(*, looks: bool) -> tuple[AfterValidator, Any]:
    """Annotations of a setting that names a registered provider of one sort."""
    return (
        AfterValidator(_check(looks=looks)),
        Field(json_schema_extra=lambda schema: schema.update(enum=[*provider_names(looks=looks)])),
    )


def _check(*, looks: bool) -> Callable[[str], str]:
    def check(name: str) -> str:
        if PROVIDERS[name].looks != looks:  # raises ValueError if unknown
            does, goes = ("narrates clips", "narrator") if not looks else ("rephrases narrations", "narrate")
            raise ValueError(
                f"'{name}' {does}: name it as {goes}.provider; here: {', '.join(provider_names(looks=looks))}"
            )
        return name

    return check


class ProvidedSection(Section):
    """A section that chooses a provider and holds the sections of all of one sort."""

    model_config = ConfigDict(extra="allow")  # only for the sections of providers

    looks: ClassVar[bool]
    """Which providers: those that look at clips, or the others."""

    max_failed_share: Fraction = 0.5
    """The run ends if more than this share of the narrations or clips get no usable sentence, after few
    requests if that is clear by then. Narrations that cannot be sent do not count."""

    @property
    def chosen(self) -> str:
        """Name of the chosen provider."""
        name = getattr(self, "provider", None)
        assert name, "no provider is chosen"
        return str(name)

    @property
    def own(self) -> ProviderSettings:
        """The chosen provider's settings."""
        own: ProviderSettings | None = (self.model_extra or {}).get(self.chosen)
        return PROVIDERS[self.chosen]() if own is None else own

    def of(self, settings: type[Own]) -> Own:
        """The chosen provider's settings, which are of this class."""
        assert isinstance(self.own, settings), f"{self.chosen} has no {settings.__name__}"
        return self.own

    @property
    def recorded(self) -> str:
        """The chosen provider's name in folders and recipes."""
        return self.own.recorded or self.chosen

    def recipe(self) -> dict[str, Any]:
        """Settings that affect the texts."""
        raise NotImplementedError

    def job_settings(self) -> dict[str, Any]:
        """The other settings: how the provider runs and when a run is given up."""
        own = self.own.model_dump(mode="json", exclude=set(self.own.recipe()))
        return {"max_failed_share": self.max_failed_share, **({self.recorded: own} if own else {})}

    def at(self, address: str | None) -> Self:
        """The same with the provider's server at this address and no key; None changes nothing."""
        if address is None:
            return self
        own = self.own.model_copy(update={"base_url": address, "key_variable": None})
        return self.model_validate({**dict(self), self.chosen: own})

    @classmethod
    def join(cls, recipe: Mapping[str, Any], job: Mapping[str, Any]) -> Self:
        """The settings from which `recipe` and `job` were made, without other providers' sections."""
        name = recipe["provider"]
        own, provider = {**recipe.get(name, {}), **job.get(name, {})}, RENAMED.get(name, name)
        common = {setting: value for setting, value in {**recipe, **job}.items() if setting != name}
        return cls.model_validate({**common, "provider": provider, provider: own})

    @classmethod
    def types(cls) -> dict[str, Any]:
        """Types of the settings by name, including the sections of providers."""
        return {**super().types(), **{name: PROVIDERS[name] for name in provider_names(looks=cls.looks)}}

    @model_validator(mode="before")
    @classmethod
    def _sections_of_providers(cls, raw: Any) -> Any:
        """Validate the sections of providers, refuse others, and fill in the chosen provider's."""
        if not isinstance(raw, Mapping):
            return raw
        for old, new in RENAMED.items() if not cls.looks else ():
            if old in raw or raw.get("provider") == old:
                raise ValueError(f"the provider '{old}', and its section, is now called '{new}'; rename it")
        given = {name: value for name, value in raw.items() if name not in cls.model_fields}
        chosen = raw.get("provider", cls.model_fields["provider"].default)
        shown = [
            name
            for name in provider_names(looks=cls.looks)
            if name in given or PROVIDERS[name].has_section(name == chosen)
        ]
        types = {name: PROVIDERS[name] for name in shown}
        made = sections(**types).model_validate({name: {} for name in shown} | given)
        common = {name: value for name, value in raw.items() if name in cls.model_fields}
        return common | {name: getattr(made, name) for name in shown}
