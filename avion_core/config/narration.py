"""Rephrased narrations: who rewrites the sentences of a data set, and how."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from avion_core.config.base import Count, Section
from avion_core.config.filters import FilterSettings
from avion_core.config.language_model import FIRST_CLIENT, ChatSettings
from avion_core.config.providers import PROVIDERS, ProvidedSection, ProviderSettings, chosen_provider


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


class RephraserSettings(ChatSettings):
    """A language model that rephrases narrations."""

    work = "avion_core.narrate.language_model_provider:LanguageModelProvider"
    where = "narrate.language_model"
    called = "a language model"

    model: str = "gpt-4o-mini"
    """Name of the model on the server."""
    narrations_per_request: Count = 1
    """Distinct narrations in one request; does not affect the texts."""

    def recipe(self) -> dict[str, Any]:
        """The model and its temperature."""
        return {name: value for name, value in super().recipe().items() if name != "narrations_per_request"}

    @property
    def recorded(self) -> str:
        return "openai" if self.client == FIRST_CLIENT else ""


class PublishedRephrasings(ProviderSettings):
    """LaViLa's published rephrasings of Ego4D."""

    work = "avion_core.narrate.published_provider:PublishedRephrasingsProvider"
    called = "LaViLa's published rephrasings"
    code = ("narrate/published_provider.py", "data/published_text.py", "data/plain_pickle.py")

    file: str
    """Path of the rephraser's pickle. A file of another content needs another name to trigger a rerun."""


PROVIDERS.register("lexicon", LexiconSettings)
PROVIDERS.register("published_rephrasings", PublishedRephrasings)
PROVIDERS.register("language_model", RephraserSettings)


class NarrateSettings(ProvidedSection):
    """Rephrased narrations of the pretraining clips."""

    looks: ClassVar[bool] = False

    provider: Annotated[str, *chosen_provider(looks=False)] = "lexicon"
    """`lexicon`: synonyms from a small curated table and a data set's `class_lists`, without a network.
    `language_model`: a model on a server.
    `published_rephrasings`: LaViLa's file. The section of this name holds the provider's own settings."""
    rephrase: RephraseSettings = RephraseSettings()
    filters: FilterSettings = FilterSettings()
    """Which of the texts are kept. Changing them rephrases nothing again."""

    def recipe(self) -> dict[str, Any]:
        """Settings that affect the texts: the provider's own, and the prompt if there is one."""
        own, unused = self.own.recipe(), set() if self.own.prompted else {"instruction"}
        rephrase = self.rephrase.model_dump(mode="json", exclude=unused)
        return {"provider": self.recorded, "rephrase": rephrase, **({self.recorded: own} if own else {})}
