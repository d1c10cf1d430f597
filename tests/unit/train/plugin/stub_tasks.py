"""A plug-in with a task, a contrastive loss and a ranking loss. What they compute is in `stub_objectives`."""

from typing import ClassVar, Literal

from avion_core.config import (
    CONTRASTIVE_LOSSES,
    RELEVANCY_LOSSES,
    STAGE_TASKS,
    LossSettings,
    StageSettings,
)


class AgreementStage(StageSettings):
    """Clips moved towards their own narrations, without negatives."""

    setup: ClassVar[str] = "stub_objectives:AgreementSetup"
    trains: ClassVar[str] = "embeddings"
    pretrains: ClassVar[bool] = True
    compares_texts: ClassVar[bool] = True
    reads_narrations: ClassVar[bool] = True

    task: Literal["agreement"]
    """What is learned."""
    strength: float = 1.0
    """Factor on the loss."""


class Weighted(LossSettings):
    """InfoNCE, multiplied."""

    title: ClassVar[str] = "InfoNCE, weighted"
    function: ClassVar[str] = "stub_objectives:weighted"
    of_the_model: ClassVar[tuple[str, ...]] = ("temperature",)

    temperature: float = 0.07
    """Temperature of a model that begins fresh."""
    weight: float = 2.0
    """Factor on the loss."""


class Scaled(LossSettings):
    """Max margin whose margin is given in hundredths."""

    function: ClassVar[str] = "stub_objectives:scaled"

    hundredths: int = 20
    """Gap between a clip's own sentence and any other."""


STAGE_TASKS.register("agreement", AgreementStage)
CONTRASTIVE_LOSSES.register("weighted", Weighted)
RELEVANCY_LOSSES.register("scaled", Scaled)
