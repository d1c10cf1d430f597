"""Reused memory that worker processes fill with batches and the main process reads.

Fresh shared memory costs a page fault for every 4 KiB that is written to it: a tenth of what it takes to
decode the frames that lie there. The memory is anonymous files (memfd_create, Linux) rather than files of
/dev/shm, which is 64 MB in a container that docker starts, whatever the machine has.
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


class Pool:
    """A worker's pieces of shared memory: one more than are being read at a time."""

    def __init__(self) -> None:
        self._pieces: list[_Piece] = []

    def room(self, shape: tuple[int, ...]) -> Room:
        """Room for uint8 of this shape in a released piece, or else in a new one."""
        size = math.prod(shape)
        for piece in self._pieces:
            if len(piece.memory) > size and not piece.memory[-1]:
                return Room(piece, shape)
        self._pieces.append(_Piece(size + 1))
        return Room(self._pieces[-1], shape)


class _Piece:
    """Memory whose last byte marks that it is being read. It lasts as long as its process."""

    def __init__(self, size: int) -> None:
        self.descriptor = os.memfd_create("clips")
        os.ftruncate(self.descriptor, size)
        self.memory = _mapped(self.descriptor)


class Room:
    """A tensor at the beginning of a piece.

    The process that unpickles it, while the one that pickled it lives, has a plain tensor on the same memory;
    with its last view the piece is released.
    """

    def __init__(self, piece: _Piece, shape: tuple[int, ...]) -> None:
        self._piece, self._shape = piece, shape

    @property
    def tensor(self) -> Tensor:
        """What there is room for."""
        return self._piece.memory[: math.prod(self._shape)].view(self._shape)

    def hand_over(self) -> Room:
        """The same, marked, to be pickled."""
        self._piece.memory[-1] = 1
        return self

    def __reduce__(self) -> tuple[Callable[..., Tensor], tuple[str, tuple[int, ...]]]:
        return _received, (f"/proc/{os.getpid()}/fd/{self._piece.descriptor}", self._shape)


def _received(path: str, shape: tuple[int, ...]) -> Tensor:
    descriptor = os.open(path, os.O_RDWR)
    try:
        memory = _mapped(descriptor)
    finally:
        os.close(descriptor)
    # A tensor made of an array keeps that very array for as long as any of its views lives.
    room = memory[: math.prod(shape)].numpy()
    weakref.finalize(room, memory[-1].zero_).atexit = False
    return torch.from_numpy(room).view(shape)


def _mapped(descriptor: int) -> Tensor:
    """All of a file as uint8."""
    return torch.from_numpy(np.frombuffer(mmap.mmap(descriptor, 0), np.uint8))
