"""One program per figure of the README; `make bench NAME=demo` runs one and writes results/demo.json."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from avion_core.files import code_revision, write_json

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Description of the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def median_seconds(work: Mapping[str, Callable[[], None]], *, rounds: int) -> dict[str, float]:
    """Median seconds of each piece of work, after one warm-up call.

    Every round runs all pieces, so that a slow minute of the machine affects all alike.
    """
    measured: dict[str, list[float]] = {name: [] for name in work}
    for call in work.values():
        call()
    for _ in range(rounds):
        for name, call in work.items():
            start = time.perf_counter()
            call()
            measured[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in measured.items()}


def write_result(name: str, *, figures: dict[str, Any], ratios: dict[str, float]) -> Path:
    """Publish `benchmarks/results/<name>.json`; `ratios` are within this one run."""
    path = RESULTS / f"{name}.json"
    entry = {"name": name, "machine": machine(), "revision": code_revision()}
    write_json(path, {**entry, "figures": figures, "ratios": ratios})
    print(path)
    return path
