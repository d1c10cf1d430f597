"""Shared-memory buffers that worker processes fill with batches and the main process reads.

Buffers are reused: fresh shared memory costs a page fault for every 4 KiB written, a tenth of the time that
decoding the frames takes. They are anonymous files (memfd_create, Linux) rather than files in /dev/shm, which
is 64 MB in a docker container by default.
"""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


class BufferPool:
    """A worker's buffers: one more than are being read at a time."""

    def __init__(self) -> None:
        self._buffers: list[_Buffer] = []

    def get(self, shape: tuple[int, ...]) -> SharedTensor:
        """A uint8 tensor of this shape in a released buffer, or else in a new one."""
        size = math.prod(shape)
        for buffer in self._buffers:
            if len(buffer.memory) > size and not buffer.memory[-1]:
                return SharedTensor(buffer, shape)
        self._buffers.append(_Buffer(size + 1))
        return SharedTensor(self._buffers[-1], shape)


class _Buffer:
    """Memory whose last byte marks it as being read. It lasts as long as its process."""

    def __init__(self, size: int) -> None:
        self.descriptor = os.memfd_create("clips")
        os.ftruncate(self.descriptor, size)
        self.memory = _mapped(self.descriptor)


class SharedTensor:
    """A tensor at the start of a buffer.

    A process that unpickles it, while the one that pickled it lives, gets a plain tensor on the same memory.
    The buffer is released with the last view of that tensor.
    """

    def __init__(self, buffer: _Buffer, shape: tuple[int, ...]) -> None:
        self._buffer, self._shape = buffer, shape

    @property
    def tensor(self) -> Tensor:
        """The memory as a tensor of the shape."""
        return self._buffer.memory[: math.prod(self._shape)].view(self._shape)

    def hand_over(self) -> SharedTensor:
        """Mark the buffer as being read; returns the tensor, to be pickled."""
        self._buffer.memory[-1] = 1
        return self

    def __reduce__(self) -> tuple[Callable[..., Tensor], tuple[str, tuple[int, ...]]]:
        return _received, (f"/proc/{os.getpid()}/fd/{self._buffer.descriptor}", self._shape)


def _received(path: str, shape: tuple[int, ...]) -> Tensor:
    descriptor = os.open(path, os.O_RDWR)
    try:
        memory = _mapped(descriptor)
    finally:
        os.close(descriptor)
    # A tensor made from an array keeps that array alive as long as any of its views.
    array = memory[: math.prod(shape)].numpy()
    weakref.finalize(array, memory[-1].zero_).atexit = False
    return torch.from_numpy(array).view(shape)


def _mapped(descriptor: int) -> Tensor:
    """A whole file as uint8."""
    return torch.from_numpy(np.frombuffer(mmap.mmap(descriptor, 0), np.uint8))
