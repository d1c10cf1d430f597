"""Memory that worker processes fill with batches and the main process reads, used again and again.

Fresh shared memory costs a page fault for every 4 KiB that is written to it: a tenth of what it takes to
decode the frames that lie there.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Pool:
    """A worker's pieces of shared memory."""

    LARGEST = 4
    """Pieces that are kept: two batches on their way, one in use, one being filled."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    def room(self, shape: tuple[int, ...]) -> Room:
        """Room for uint8 of this shape in a piece that nobody reads any more, or else in a new one."""
        size = math.prod(shape)
        for memory in self._kept:
            if len(memory) > size and not memory[-1]:
                return Room(memory, shape)
        memory = torch.zeros(size + 1, dtype=torch.uint8).share_memory_()
        if len(self._kept) < self.LARGEST:
            self._kept.append(memory)
        return Room(memory, shape)


class Room:
    """A tensor at the beginning of a piece, whose last byte marks that it is read by somebody.

    The process that unpickles it has a plain tensor on the same memory; with its last view the mark goes.
    """

    def __init__(self, memory: Tensor, shape: tuple[int, ...]) -> None:
        self._memory, self._shape = memory, shape

    @property
    def tensor(self) -> Tensor:
        """What there is room for."""
        return self._memory[: math.prod(self._shape)].view(self._shape)

    def hand_over(self) -> Room:
        """The same, marked, to be pickled."""
        self._memory[-1] = 1
        return self

    def __reduce__(self) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
        return _received, (self._memory, self._shape)


def _received(memory: Tensor, shape: tuple[int, ...]) -> Tensor:
    # A tensor made of an array keeps that very array for as long as any of its views lives.
    room = memory[: math.prod(shape)].numpy()
    weakref.finalize(room, memory[-1].zero_).atexit = False
    return torch.from_numpy(room).view(shape)
