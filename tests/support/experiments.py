"""The files of `configs/`, laid over what their commands name before them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from avion_core.configfile import lay_over, read_config

ROOT = Path(__file__).parents[2]
DEMO = read_config(ROOT / "config.yaml")
EXPERIMENTS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
OVER = {"records": "avion", "avion_published_text": "avion"}
"""Experiments that are laid over another."""


def experiment(name: str, *, demo: Mapping[str, Any] = DEMO) -> dict[str, Any]:
    """The values of `configs/<name>.yaml`, with what lies below it."""
    files = [*([OVER[name]] if name in OVER else []), name]
    values = (read_config(ROOT / "configs" / f"{file}.yaml") for file in files)
    return reduce(lay_over, values, dict(demo))
