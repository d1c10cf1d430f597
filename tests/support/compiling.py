"""`torch.compile` without generating code: seconds instead of minutes on a CPU."""

from functools import partialmethod

import pytest
from torch import nn


def trace_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are traced with their backward pass, and run by eager kernels."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
