"""GPUs and their peak speeds, for the logged utilisation and for predicted hours."""

from __future__ import annotations

import re
from dataclasses import dataclass

from avion_core.registry import Registry


@dataclass(frozen=True)
class Device:
    """One model of GPU."""

    in_name: str
    """Words of the name that its driver reports."""
    tflops: float
    """Peak TFLOPS of dense matrix products in bf16 and fp16."""
    source: str
    """Where the peak is from."""


DEVICES: Registry[Device] = Registry("GPU", record=Device)
DEVICES.register("A5000", Device("RTX A5000", 111.1, "NVIDIA RTX A5000 data sheet: 222.2 with sparsity"))
DEVICES.register("A100", Device("A100", 312.0, "NVIDIA A100 data sheet: 312, or 624 with sparsity"))
DEVICES.register("L40S", Device("L40S", 362.0, "NVIDIA L40S data sheet: 362.05, or 733 with sparsity"))
DEVICES.register("H100-PCIe", Device("H100 PCIe", 756.0, "NVIDIA H100 data sheet: 1,513 with sparsity"))
DEVICES.register("H100-NVL", Device("H100 NVL", 835.5, "NVIDIA H100 data sheet: 1,671 with sparsity"))
DEVICES.register("H100", Device("H100", 989.0, "NVIDIA H100 data sheet, SXM: 1,979 with sparsity"))
DEVICES.register("H200-NVL", Device("H200 NVL", 835.5, "NVIDIA H200 data sheet: 1,671 with sparsity"))
DEVICES.register("H200", Device("H200", 989.0, "NVIDIA H200 data sheet, SXM: 1,979 with sparsity"))


def device_named(reported: str) -> str | None:
    """Name in DEVICES of the GPU that a driver reports, the most specific one; None for an unknown GPU."""
    found = [
        name for name, device in DEVICES.items() if re.search(rf"\b{re.escape(device.in_name)}\b", reported)
    ]
    return max(found, key=lambda name: len(DEVICES[name].in_name), default=None)
