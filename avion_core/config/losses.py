"""Losses of the tasks: their own settings, with published values as defaults.

Sources: AVION (arXiv 2309.16669), SigLIP (arXiv 2303.15343), EPIC-KITCHENS-100 MIR, and symmetric
multi-similarity (arXiv 2406.12256).
"""

from __future__ import annotations

from typing import Any, ClassVar

from avion_core.config.base import NotNegative, Positive, Section
from avion_core.registry import Registry


class LossSettings(Section):
    """Settings of one loss, written beside those of its stage; null: the published value."""

    title: ClassVar[str] = ""
    """Name in the report, if not its own."""
    function: ClassVar[str]
    """The loss function, `package.module:name`; `train/losses.py` documents its arguments."""
    of_the_model: ClassVar[tuple[str, ...]] = ()
    """Settings passed to the model; the others are passed to the function."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Raise ValueError for a name in `of_the_model` that is no setting."""
        for name in cls.of_the_model:
            if name not in cls.model_fields:
                raise ValueError(f"{cls.__name__}: `of_the_model` names '{name}', which is no setting of it")


Losses = Registry[type[LossSettings]]


class InfoNCE(LossSettings):
    """Softmax over all clips and all texts of a batch, as in CLIP."""

    title: ClassVar[str] = "InfoNCE"
    function: ClassVar[str] = "avion_core.train.losses:info_nce"
    of_the_model: ClassVar[tuple[str, ...]] = ("temperature", "learn_temperature")

    temperature: Positive = 0.07
    """Temperature of a model that begins fresh."""
    learn_temperature: bool = False
    """Whether the temperature is trained."""


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

RELEVANCY_LOSSES: Losses = Registry("loss", base=LossSettings, refers=("function",))
"""Losses of the relevancy task, its default first."""
RELEVANCY_LOSSES.register("symmetric_multi_similarity", SymmetricMultiSimilarity)
RELEVANCY_LOSSES.register("max_margin", MaxMargin)
RELEVANCY_LOSSES.register("adaptive_max_margin", AdaptiveMaxMargin)
