"""Figures in metrics.json: numbers in nested objects."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any


def numbers(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers by dotted name, such as `mAP.mean`; null (not measurable) becomes NaN."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{name}.")
        elif value is None or is_number(value):
            yield f"{prefix}{name}", math.nan if value is None else float(value)


def is_number(value: object) -> bool:
    """Whether it is a number; booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
