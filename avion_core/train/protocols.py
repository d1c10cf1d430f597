"""Batches, and the interfaces between the engine, a task's loss and the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from avion_core.data.device_augment import augmented

Batch = Mapping[str, Tensor]


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`, augmented there if the loader only drew how.

    Copies to a GPU are from pinned memory, and nothing waits for them.
    """
    if device.type == "cpu":
        return augmented(batch, batch)
    return augmented(batch, {name: _copied(value, device) for name, value in batch.items()})


def _copied(value: Tensor, device: torch.device) -> Tensor:
    # `pin_memory` returns a tensor that is pinned already, and refuses one on a GPU
    return value if value.is_cuda else value.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class StepLoss:
    """A task's loss for a batch."""

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
        """The batch for `loss`, with draws for the whole batch applied, such as mixup."""

    def loss(self, batch: Batch) -> StepLoss:
        """Loss of a prepared batch or a part of it, on the model's device."""

    def after_update(self) -> None:
        """Called after the optimiser's step, for bounds on parameters."""


@runtime_checkable
class PairwiseTask(Task, Protocol):
    """A task whose loss compares the clips of a batch, so that it needs all embeddings at once.

    `loss(batch)` is `loss_of(embed(batch), batch)`.
    """

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """Embeddings, one row per clip, each independent of other clips."""

    def loss_of(self, embeddings: tuple[Tensor, ...], batch: Batch) -> StepLoss:
        """Loss of the whole batch from its embeddings."""


class BatchSource(Protocol):
    """Source of batches: `avion_core.data.loader.BatchLoader`."""

    bad: list[Any]
    """Clips that could not be decoded, in order of occurrence: dataclasses of JSON-able fields."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one pass over the clips."""

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        """Batches of an epoch from `first_step` on."""
