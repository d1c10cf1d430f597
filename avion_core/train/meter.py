"""Machine readings for the log: memory, utilisation, and the expected end of training."""

from __future__ import annotations

import resource
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import torch

from avion_core.devices import DEVICES, device_named
from avion_core.models.layers import plain_attention
from avion_core.models.sizes import training_operations
from avion_core.train.protocols import Batch, PairwiseTask, Task

CLIPS_COUNTED = 2
"""Clips to count operations on: the smallest batch that mixup can take, or one clip if there is one."""


def peak_tflops(device: torch.device, precision: str) -> float | None:
    """The device's peak, if known: GPUs of DEVICES in half precision."""
    if device.type != "cuda" or precision == "fp32":
        return None
    name = device_named(torch.cuda.get_device_name(device))
    return DEVICES[name].tflops if name else None


class Meter:
    """Reads memory and time; counts the model's operations per clip on the first batch."""

    def __init__(self, *, device: torch.device, processes: int, peak_tflops: float | None) -> None:
        """`peak_tflops` is of one device; None: no utilisation and no counting."""
        self._device, self._processes, self._peak_tflops = device, processes, peak_tflops
        self._flops_per_clip: float | None = None

    def see(self, task: Task, batch: Batch, autocast: Callable[[], AbstractContextManager[object]]) -> None:
        """Count the operations of a clip, the first time only; every rank must call this."""
        if self._peak_tflops is not None and self._flops_per_clip is None:
            self._flops_per_clip = flops_per_clip(task, batch, autocast)

    def readings(self, *, clips_per_s: float, seconds_left: float) -> dict[str, Any]:
        """`memory_mb` and `gpu_memory_mb` (peaks of this process), `model_flops_utilisation`, `finish`."""
        on_gpu = self._device.type == "cuda"
        utilisation = None
        if self._peak_tflops is not None and self._flops_per_clip is not None:
            peak = 1e12 * self._peak_tflops * self._processes
            utilisation = round(self._flops_per_clip * clips_per_s / peak, 4)
        finish = datetime.now(UTC) + timedelta(seconds=seconds_left)
        return {
            "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "gpu_memory_mb": torch.cuda.max_memory_allocated(self._device) // 2**20 if on_gpu else None,
            "model_flops_utilisation": utilisation,
            "finish": finish.isoformat(timespec="seconds"),
        }


def flops_per_clip(task: Task, batch: Batch, autocast: Callable[[], AbstractContextManager[object]]) -> float:
    """Operations of a clip's forward and backward pass: three times those of the forward pass.

    What is computed without gradients counts once; recomputation for gradient checkpointing and accumulation
    does not count (PaLM, arXiv 2204.02311, appendix B).
    """
    some = {name: value[:CLIPS_COUNTED] if value.ndim else value for name, value in batch.items()}
    clips = len(some["rows"])
    with plain_attention(task.model), autocast():
        prepared = task.prepare(some)
        forward = task.embed if isinstance(task, PairwiseTask) else task.loss
        return training_operations(lambda: forward(prepared)) / clips
