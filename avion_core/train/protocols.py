"""What the engine asks of a task and of the batches: the seams between time, loss and data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class StepLoss:
    """What a task makes of a batch."""

    loss: Tensor
    """0-d, with a gradient; a mean over the clips, or over pairs of them."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """0-d tensors to log, averaged over steps and processes."""


class Task(Protocol):
    """Joins a model and a loss."""

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""

    def prepare(self, batch: Batch) -> Batch:
        """The batch that `loss` takes: what is drawn for all its clips together, such as mixup, is in it."""

    def loss(self, batch: Batch) -> StepLoss:
        """Loss of a prepared batch, or of a part of it, on the model's device."""

    def after_update(self) -> None:
        """Called after the optimiser's step, for bounds on parameters."""


@runtime_checkable
class PairwiseTask(Task, Protocol):
    """A task whose loss compares the clips of a batch, so that it needs all embeddings at once.

    `loss(batch)` is `loss_of(embed(batch), batch)`.
    """

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Embeddings, one row a clip, that depend on each clip alone."""

    def loss_of(self, embeddings: tuple[Tensor, ...], batch: Batch) -> StepLoss:
        """Loss of the whole batch from its embeddings."""


class Batches(Protocol):
    """Where batches come from: `avion_core.data.loader.BatchLoader`."""

    bad: list[Any]
    """Clips that could not be decoded, in the order they were met: dataclasses of JSON-able fields."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one pass over the clips."""

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        """Batches of an epoch from `first_step` on."""
