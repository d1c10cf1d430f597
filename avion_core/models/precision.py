"""Arithmetic of a model's forward pass: float32, or half precision where autocast allows it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Autocast's dtype by the setting `precision`; None for no autocast."""


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Context of a forward pass on `device` in one of PRECISIONS."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def products(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right` in the tensors' own precision, also under autocast.

    Half precision has too few numbers for cosines: close ones would be equal.
    """
    with torch.autocast(left.device.type, enabled=False):
        return left @ right
