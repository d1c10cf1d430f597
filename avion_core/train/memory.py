"""Memory of the device: estimate of a step, choice of checkpointing, advice where a step does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from avion_core.config import StageSettings
from avion_core.models.layers import TransformerBlock
from avion_core.models.sizes import Size
from avion_core.progress import say
from avion_core.train.distributed import World

USABLE = 7 / 8
"""Share of a device's memory that estimates may fill; the rest is for frames, kernels and fragmentation."""


class DeviceMemoryError(ValueError):
    """A training step does not fit the device; the message says what to change."""


def step_bytes(stage: StageSettings, size: Size, *, checkpointing: bool) -> float:
    """Estimated memory of a step on one device: weights with all that goes with them, kept activations.

    `size` is that of the stage's model in its precision.
    """
    clip = size.checkpointed_bytes + size.block_bytes if checkpointing else size.activation_bytes
    clips = stage.process_batch_size * stage.clips_per_row / stage.accumulation_steps
    weight = 4.0
    weight += 0 if stage.precision == "fp32" else 2  # autocast's copy
    weight += 0 if stage.ema_decay is None else 4
    state = {"adamw": 8, "lion": 4, "sgd": 4 if stage.momentum else 0}[stage.optimizer]
    training = 4 + state / (stage.world_size if stage.shard_optimizer else 1)  # gradient and state
    trained = size.parameters - size.frozen_parameters
    return clips * clip + size.parameters * weight + trained * training


def choose_checkpointing(stage: StageSettings, size: Callable[[], Size], *, title: str, world: World) -> bool:
    """Whether to recompute blocks: as set, or with `auto` if a step would not fit the smallest GPU otherwise.

    Shows the estimates, and warns if it will not fit in any case. `size` takes seconds and is called only if
    needed. Every rank must call this.
    """
    if stage.gradient_checkpointing != "auto":
        return stage.gradient_checkpointing
    if (own := device_bytes(world.device)) is None:
        return False
    usable = USABLE * min(world.collect(own))
    return bool(world.from_leader(_chosen(stage, size(), usable, title) if world.leads else None))


def _chosen(stage: StageSettings, size: Size, usable: float, title: str) -> bool:
    plain, checkpointed = (step_bytes(stage, size, checkpointing=on) for on in (False, True))
    chosen = plain > usable
    say(
        f"{title}: gradient checkpointing is {'on' if chosen else 'off'}: a step needs an estimated "
        f"{plain / 1e9:.1f} GB without it, {checkpointed / 1e9:.1f} GB with it; usable on the smallest GPU: "
        f"{usable / 1e9:.1f} GB"
    )
    if checkpointed > usable:
        ways = _ways(batch_size=stage.batch_size, accumulation_steps=stage.accumulation_steps)
        say(f"{title}: warning: a step may not fit the GPU even so: {', '.join(ways)}")
    return chosen


def device_bytes(device: torch.device) -> int | None:
    """Memory of a GPU; None for the CPU."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


@contextmanager
def memory_advice(model: nn.Module, *, batch_size: int, accumulation_steps: int) -> Iterator[None]:
    """Raise DeviceMemoryError for torch's out-of-memory error in the body, a step of `model`.

    `batch_size` and `accumulation_steps` are the stage's settings.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        blocks = [layer for layer in model.modules() if isinstance(layer, TransformerBlock)]
        recompute = (
            [] if all(block.checkpointing for block in blocks) else ["set gradient_checkpointing: true"]
        )
        ways = [*recompute, *_ways(batch_size=batch_size, accumulation_steps=accumulation_steps)]
        said = str(error).partition(" Of the allocated memory")[0]
        raise DeviceMemoryError(
            f"a training step does not fit the device: {', '.join(ways)}. {said}"
        ) from None


def _ways(*, batch_size: int, accumulation_steps: int) -> list[str]:
    return [
        f"raise accumulation_steps, now {accumulation_steps}",
        f"or lower batch_size, now {batch_size}, or frames",
    ]
