"""Which narrations of what clips show are kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from avion_core.config.base import Count, Positive, Section


class FilterSettings(Section):
    """Filters of the texts of a narrator. The report counts what each leaves out, with examples."""

    tagged: bool = True
    """Keep only texts that begin with the tag of who acts: `#C`, `#O` and the like."""
    least_words: Count = 2
    """Fewest words, without the tag."""
    most_words: Count = 30
    """Most words, without the tag."""
    alike: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    """Share of common words from which a text repeats an earlier one of its clip; null keeps repetitions."""
    unlike_human: tuple[Literal["subject", "opposite", "things"], ...] = ("subject", "opposite")
    """What a text may not say differently from the clip's human narration: who acts, the action's opposite,
    most of the things. Windows have none to compare with."""
    worst_score: Positive | None = None
    """Highest score of a text, for providers that give scores (LaViLa's: lower is surer)."""
