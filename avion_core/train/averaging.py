"""Averages gradients over the processes while the backward pass computes them.

The weights are divided into buckets in reverse order, which is roughly the order in which a backward pass
completes their gradients. The all-reduce of a bucket starts once its gradients are complete and runs beside
the rest of the pass. NCCL requires that all processes start the same collectives in the same order: first
those of the loss's gathers (`World.gather`), then the buckets in their order, whichever is full first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from avion_core.train.distributed import World

BUCKET_BYTES = 25 * 2**20
"""A bucket is closed at this size: large enough for bandwidth, small enough to start early."""


@contextmanager
def averaged(weights: Iterable[nn.Parameter], world: World) -> Iterator[None]:
    """Replace the gradients of the trained `weights` by their means over the processes.

    The body is the last backward pass of a step; it adds to gradients that exist already. A process
    without a gradient that others have counts as zero and gets their mean; a gradient that no process has
    stays None. Every rank must call this with the same weights. Raises RuntimeError if the pass adds to a
    gradient that is being averaged, as reentrant checkpointing may.
    """
    if world.size == 1:
        yield
        return
    buckets = _buckets(weights)
    queue = _Queue(buckets, world)
    hooks = [
        weight.register_post_accumulate_grad_hook(queue.complete)
        for bucket in buckets
        for weight in bucket.weights
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    queue.start_all()
    for bucket in buckets:
        bucket.finish(world.size)


@dataclass
class _Bucket:
    """Weights of one type whose gradients are averaged in one message."""

    weights: list[nn.Parameter] = field(default_factory=list)
    complete: set[nn.Parameter] = field(default_factory=set)
    flat: Tensor | None = None
    """The gradients, and for each weight the number of processes that have one; None before the start."""
    work: dist.Work | None = None

    def start(self, world: World) -> None:
        present = self.weights[0].new_ones(len(self.weights))
        parts = []
        for index, weight in enumerate(self.weights):
            if weight.grad is None:
                present[index] = 0
            parts.append(weight.new_zeros(weight.numel()) if weight.grad is None else weight.grad.flatten())
        self.flat = torch.cat([*parts, present])
        self.work = world.start_sum(self.flat)

    def finish(self, processes: int) -> None:
        assert self.work is not None and self.flat is not None
        self.work.wait()
        self.flat /= processes
        *means, present = self.flat.split([*(weight.numel() for weight in self.weights), len(self.weights)])
        for index, (weight, mean) in enumerate(zip(self.weights, means, strict=True)):
            if weight.grad is not None:
                weight.grad.copy_(mean.view_as(weight.grad))
            elif present[index] > 0:  # a synchronisation, on processes without this gradient only
                weight.grad = mean.view_as(weight).clone()


class _Queue:
    """Starts buckets in their order."""

    def __init__(self, buckets: Iterable[_Bucket], world: World) -> None:
        self._world = world
        self._waiting = deque(buckets)
        self._bucket_of = {weight: bucket for bucket in self._waiting for weight in bucket.weights}

    def complete(self, weight: nn.Parameter) -> None:
        """Note that the gradient of `weight` is complete, and start the buckets that are due."""
        bucket = self._bucket_of[weight]
        if bucket.flat is not None:
            raise RuntimeError(
                "a backward pass added to a gradient twice; if the model checkpoints its layers, "
                "set use_reentrant=False"
            )
        bucket.complete.add(weight)
        while self._waiting and self._is_due(self._waiting[0]):
            self._waiting.popleft().start(self._world)

    def start_all(self) -> None:
        """Start the buckets that remain, although some gradients may be missing."""
        while self._waiting:
            self._waiting.popleft().start(self._world)

    def _is_due(self, bucket: _Bucket) -> bool:
        return len(bucket.complete) == len(bucket.weights) and self._world.traffic.open_gathers == 0


def _buckets(weights: Iterable[nn.Parameter]) -> list[_Bucket]:
    """Buckets of trained weights, of one type each, in reverse order."""
    buckets: list[_Bucket] = []
    size = 0
    for weight in reversed([weight for weight in weights if weight.requires_grad]):
        if not buckets or size >= BUCKET_BYTES or buckets[-1].weights[0].dtype != weight.dtype:
            buckets.append(_Bucket())
            size = 0
        buckets[-1].weights.append(weight)
        size += weight.nbytes
    return buckets
