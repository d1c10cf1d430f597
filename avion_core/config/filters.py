"""Which texts of a provider are kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from avion_core.config.base import Count, Fraction, Name, Positive, Precision, Section
from avion_core.config.jobs import EvaluationJob

Unlike = Literal["subject", "opposite", "things"]


class CosineFilter(EvaluationJob):
    """A filter by the cosine between the embeddings of a clip and a text, by a stage that one of the runs
    trains. The cosines are measured once, in jobs of their own."""

    job = EvaluationJob

    run: Name
    """Run of the stage."""
    stage: Name
    """Stage that trains a dual encoder, on other texts than those that it filters."""
    least: Annotated[float, Field(ge=-1, le=1)] = 0.1
    """Lowest cosine of a text that is kept. What fits depends on the model: the report shows how the cosines
    are distributed. Changing it measures nothing again."""
    batch_size: Count = 64
    """Clips per batch."""
    precision: Precision = "fp32"
    """Arithmetic of the model."""

    def recipe(self) -> dict[str, Any]:
        """The settings that affect the cosines."""
        return {"run": self.run, "stage": self.stage, "precision": self.precision}


class FilterSettings(Section):
    """Filters of rephrased texts. The report counts what each leaves out, with examples. A text that several
    filters would leave out counts for the first of them, in the order of the settings."""

    tagged: bool = False
    """Keep only texts that begin with the tag of who acts: `#C`, `#O` and the like."""
    least_words: Count = 1
    """Fewest words, without the tag."""
    most_words: Count = 77
    """Most words, without the tag."""
    worst_score: Positive | None = None
    """Highest score of a text, for providers that give scores (LaViLa's: lower is surer)."""
    least_known: Fraction | None = 0.5
    """Smallest share of words that an English dictionary or the human narration has; null for none. Texts
    beside a narration that is not English by this measure are kept."""
    unlike_human: tuple[Unlike, ...] = ("subject", "opposite", "things")
    """What a text may not say differently from the human narration: who acts, the action's opposite, the
    thing acted on. Synonyms and words of one class are not different. Windows have no narration to compare
    with."""
    cosine: CosineFilter | None = None
    """Filter by the cosine between clip and text; null for none."""
    alike: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of common words from which a text repeats an earlier one of its clip; null keeps repetitions."""

    @model_validator(mode="after")
    def _some_length_is_kept(self) -> Self:
        if self.least_words > self.most_words:
            raise ValueError(
                f"least_words ({self.least_words}) is above most_words ({self.most_words}), which leaves out "
                "every text; lower it"
            )
        return self

    def recipe(self) -> dict[str, Any]:
        """The settings that affect which texts are kept."""
        own = self.model_dump(mode="json")
        return own | ({"cosine": self.cosine.recipe() | {"least": self.cosine.least}} if self.cosine else {})


class NarratorFilters(FilterSettings):
    """Filters of the texts of a narrator: those of rephrased texts, stricter by default."""

    tagged: bool = True
    """Keep only texts that begin with the tag of who acts: `#C`, `#O` and the like."""
    least_words: Count = 2
    """Fewest words, without the tag."""
    most_words: Count = 30
    """Most words, without the tag."""
    unlike_human: tuple[Unlike, ...] = ("subject", "opposite")
    """What a text may not say differently from the clip's human narration. `things` is not among them, as a
    narrator may tell of another thing that the clip shows. Windows have no narration to compare with."""
    alike: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    """Share of common words from which a text repeats an earlier one of its clip; null keeps repetitions."""
