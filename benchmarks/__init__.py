"""One program per figure of the README; `make bench NAME=demo` runs one and writes results/demo.json."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from avion_core.files import code_revision, write_json

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def write_result(name: str, *, figures: dict[str, Any], ratios: dict[str, float]) -> Path:
    """Publish `benchmarks/results/<name>.json`; `ratios` are those within this one run."""
    path = RESULTS / f"{name}.json"
    entry = {"name": name, "machine": machine(), "revision": code_revision()}
    write_json(path, {**entry, "figures": figures, "ratios": ratios})
    print(path)
    return path
