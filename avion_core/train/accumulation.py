"""The gradient of one step, computed in micro-batches and equal to that of the whole batch.

A loss that is a mean over clips is a mean over micro-batches. One that compares clips (`PairwiseTask`)
needs all embeddings first: they are computed without a graph, the loss gives each its gradient, and a
second pass with the same randomness carries those into the weights (GradCache, arXiv 2101.06983). Memory
is that of one micro-batch, at the cost of a second forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from avion_core.train.protocols import Batch, PairwiseTask, StepLoss, Task


@dataclass(frozen=True)
class Accumulation:
    """How the gradient of a step is computed."""

    parts: int
    """Micro-batches of equal size."""
    reseed: Callable[[int], None]
    """Seeds torch's generators for part i, so that its second pass repeats the randomness of the first."""
    autocast: Callable[[], AbstractContextManager[object]]
    """Precision of the forward pass; a new context each time, so that casts without a graph are not kept."""
    scale: Callable[[Tensor], Tensor]
    """The gradient scaler's factor on the loss, or the identity."""
    averaging: Callable[[], AbstractContextManager[object]] = nullcontext
    """Averages the gradients over the processes, around the backward pass that completes them."""

    def backward(self, task: Task, batch: Batch) -> StepLoss:
        """Add the gradient of the batch's loss to the weights' gradients; return the detached loss."""
        with self.autocast():
            prepared = task.prepare(batch)
        if self.parts > 1 and isinstance(task, PairwiseTask):
            return self._cached(task, prepared)
        return self._summed(task, prepared)

    def _summed(self, task: Task, batch: Batch) -> StepLoss:
        found = []
        for index, part in enumerate(split(batch, self.parts)):
            if self.parts > 1:
                self.reseed(index)
            with self.autocast():
                result = task.loss(part)
            with self._averaging_the_last(index):
                self.scale(result.loss / self.parts).backward()
            found.append(result)
        return StepLoss(
            torch.stack([result.loss.detach() for result in found]).mean(),
            {
                name: torch.stack([result.metrics[name].detach() for result in found]).mean()
                for name in found[0].metrics
            },
        )

    def _cached(self, task: PairwiseTask, batch: Batch) -> StepLoss:
        parts = split(batch, self.parts)
        with torch.no_grad():
            found = [self._embed(task, part, index) for index, part in enumerate(parts)]
        whole = tuple(torch.cat(column).requires_grad_() for column in zip(*found, strict=True))
        with self.autocast():
            result = task.loss_of(whole, batch)
        self.scale(result.loss).backward()
        gradients = [embedding.grad for embedding in whole]
        for index, part in enumerate(parts):
            embeddings = self._embed(task, part, index)
            pairs = [
                (embedding, gradient.chunk(self.parts)[index])
                for embedding, gradient in zip(embeddings, gradients, strict=True)
                if embedding.requires_grad and gradient is not None
            ]
            with self._averaging_the_last(index):
                torch.autograd.backward([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        return StepLoss(result.loss.detach(), result.metrics)

    def _averaging_the_last(self, index: int) -> AbstractContextManager[object]:
        return self.averaging() if index == self.parts - 1 else nullcontext()

    def _embed(self, task: PairwiseTask, part: Batch, index: int) -> tuple[Tensor, ...]:
        self.reseed(index)
        with self.autocast():
            return task.embed(part)


def split(batch: Batch, parts: int) -> list[Batch]:
    """The batch's rows in `parts` equal runs; 0-d tensors go to each.

    Raises ValueError if the rows do not divide evenly.
    """
    rows = {len(value) for value in batch.values() if value.ndim}
    if any(count % parts for count in rows):
        raise ValueError(
            f"{rows.pop()} clips do not divide into {parts} micro-batches; set accumulation_steps"
        )
    chunks = {name: value.chunk(parts) if value.ndim else [value] * parts for name, value in batch.items()}
    return [{name: values[index] for name, values in chunks.items()} for index in range(parts)]
