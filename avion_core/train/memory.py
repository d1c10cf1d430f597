"""Out of memory on the device: one error that names the settings to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from avion_core.models.layers import Block


class DeviceMemoryError(ValueError):
    """A training step does not fit the device; the message says what to change."""


@contextmanager
def memory_advice(model: nn.Module, *, batch_size: int, accumulation_steps: int) -> Iterator[None]:
    """Raise DeviceMemoryError for torch's out-of-memory error in the body, a step of `model`.

    `batch_size` and `accumulation_steps` are the stage's settings.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        blocks = [layer for layer in model.modules() if isinstance(layer, Block)]
        recompute = (
            [] if all(block.checkpointing for block in blocks) else ["set gradient_checkpointing: true"]
        )
        ways = [
            *recompute,
            f"raise accumulation_steps, now {accumulation_steps}",
            f"or lower batch_size, now {batch_size}, or frames",
        ]
        said = str(error).partition(" Of the allocated memory")[0]
        raise DeviceMemoryError(
            f"a training step does not fit the device: {', '.join(ways)}. {said}"
        ) from None
