"""Losses of the tasks: their own settings, with published values as defaults.

Sources: AVION (arXiv 2309.16669), LaViLa (arXiv 2212.04501), EgoVLP (arXiv 2206.01670), SigLIP (arXiv
2303.15343), EPIC-KITCHENS-100 MIR, and symmetric multi-similarity (arXiv 2406.12256).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from avion_core.config.base import NotNegative, Positive, Section
from avion_core.registry import Registry


class LossSettings(Section):
    """Settings of one loss, written beside those of its stage; null: the published value."""

    title: ClassVar[str] = ""
    """Name in the report, if not its own."""
    function: ClassVar[str]
    """The loss function, `package.module:name`; `train/losses.py` documents its arguments."""
    of_the_model: ClassVar[tuple[str, ...]] = ()
    """Settings passed to the model."""
    of_the_batch: ClassVar[tuple[str, ...]] = ()
    """Settings that decide `entries`. All that are in neither list are passed to the function."""

    @property
    def entries(self) -> tuple[str, ...]:
        """What a contrastive loss is told about every clip of the batch: entries of `train/entries.py`, which
        the function gets by name."""
        return ()

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Raise ValueError for a name in `of_the_model` or `of_the_batch` that is no setting."""
        for listed in ("of_the_model", "of_the_batch"):
            for name in getattr(cls, listed):
                if name not in cls.model_fields:
                    raise ValueError(f"{cls.__name__}: `{listed}` names '{name}', which is no setting of it")


Losses = Registry[type[LossSettings]]


class InfoNCE(LossSettings):
    """Softmax over all clips and all texts of a batch, as in CLIP."""

    title: ClassVar[str] = "InfoNCE"
    function: ClassVar[str] = "avion_core.train.losses:info_nce"
    of_the_model: ClassVar[tuple[str, ...]] = ("temperature", "learn_temperature", "narrated_temperature")

    temperature: Positive = 0.07
    """Temperature of a model that begins fresh."""
    learn_temperature: bool = False
    """Whether the temperature is trained."""
    narrated_temperature: Positive | None = None
    """Temperature of pairs of two narrated clips, trained if `temperature` is; a narrated and another clip
    have the geometric mean (LaViLa's code, where both are 0.07 and frozen). null: one temperature for all."""

    @property
    def entries(self) -> tuple[str, ...]:
        """Which clips are narrated, if they have a temperature of their own."""
        return () if self.narrated_temperature is None else ("narrated",)


TAGS = {
    "verb_and_noun": ("verb_tags", "noun_tags"),
    "verb": ("verb_tags",),
    "noun": ("noun_tags",),
    "none": (),
}
"""Tags of the clips by `EgoNCE.tags`."""


class EgoNCE(LossSettings):
    """InfoNCE whose positives are also other clips with the same action, as in EgoVLP."""

    title: ClassVar[str] = "EgoNCE"
    function: ClassVar[str] = "avion_core.train.losses:ego_nce"
    of_the_model: ClassVar[tuple[str, ...]] = ("temperature", "learn_temperature")
    of_the_batch: ClassVar[tuple[str, ...]] = ("tags",)

    temperature: Positive = 0.05
    """Temperature of a model that begins fresh."""
    learn_temperature: bool = False
    """Whether the temperature is trained."""
    tags: Literal["verb_and_noun", "verb", "noun", "none"] = "verb_and_noun"
    """What two clips must share to be positives of each other: a verb and a noun, or one of the two; `none`:
    no other clip is a positive. Ego4D's tags are in EgoVLP's `egoclip.csv` (docs/ego4d.md)."""

    @property
    def entries(self) -> tuple[str, ...]:
        """The tags that positives share."""
        return TAGS[self.tags]


class Sigmoid(LossSettings):
    """A binary decision for every pair of clip and text (SigLIP)."""

    title: ClassVar[str] = "sigmoid"
    function: ClassVar[str] = "avion_core.train.losses:sigmoid"
    of_the_model: ClassVar[tuple[str, ...]] = ("temperature", "learn_temperature", "logit_bias")

    temperature: Positive = 0.1
    """Temperature of a model that begins fresh."""
    learn_temperature: bool = True
    """Whether the temperature is trained."""
    logit_bias: float = -10.0
    """Initial value of the trained bias."""


class SymmetricMultiSimilarity(LossSettings):
    """Gaps in similarity should equal those in relevancy, in both directions (SMS)."""

    title: ClassVar[str] = "symmetric multi-similarity"
    function: ClassVar[str] = "avion_core.train.losses:symmetric_multi_similarity"

    margin: NotNegative = 0.6
    """Target gap between two pairs whose relevancies are 1 apart."""
    relaxation: NotNegative = 0.1
    """Tau: allowed difference in similarity of equally relevant pairs."""


class MaxMargin(LossSettings):
    """One margin between a clip's own sentence and all others, as in AVION."""

    title: ClassVar[str] = "max margin"
    function: ClassVar[str] = "avion_core.train.losses:max_margin"

    margin: NotNegative = 0.2
    """Target gap between a clip's own sentence and any other."""


class AdaptiveMaxMargin(LossSettings):
    """Max margin, scaled by the relevancy of a clip to its own sentence."""

    title: ClassVar[str] = "adaptive max margin"
    function: ClassVar[str] = "avion_core.train.losses:adaptive_max_margin"

    margin: NotNegative = 0.4
    """Target gap at relevancy 1."""


CONTRASTIVE_LOSSES: Losses = Registry("loss", base=LossSettings, refers=("function",))
"""Losses of the contrastive task, its default first."""
CONTRASTIVE_LOSSES.register("info_nce", InfoNCE)
CONTRASTIVE_LOSSES.register("sigmoid", Sigmoid)
CONTRASTIVE_LOSSES.register("egonce", EgoNCE)

RELEVANCY_LOSSES: Losses = Registry("loss", base=LossSettings, refers=("function",))
"""Losses of the relevancy task, its default first."""
RELEVANCY_LOSSES.register("symmetric_multi_similarity", SymmetricMultiSimilarity)
RELEVANCY_LOSSES.register("max_margin", MaxMargin)
RELEVANCY_LOSSES.register("adaptive_max_margin", AdaptiveMaxMargin)
