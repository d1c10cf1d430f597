"""Crop boxes as plain geometry; the decoder takes one as an argument.

Boxes are in pixels of the stored frame and may be fractional; the decoder scales the box to the model's
square input and mirrors it on request. All frames of a clip share one box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)
"""Sides of VideoMAE's multi-scale crop as shares of the frame's shorter side."""
ASPECTS = (3 / 4, 4 / 3)
"""Range of width over height of a random resized crop (Szegedy et al. 2015)."""
_GRID = (
    *((x, y) for x in (0.0, 0.5, 1.0) for y in (0.0, 0.5, 1.0)),
    *((x, y) for x in (0.25, 0.75) for y in (0.25, 0.75)),
)
"""The 13 places of the multi-scale crop as shares of the slack: corners, edges, centre, and between."""


@dataclass(frozen=True)
class Crop:
    """A box in pixels of the stored frame; `flip` mirrors left and right after scaling."""

    left: float
    top: float
    width: float
    height: float
    flip: bool = False

    def check(self, width: int, height: int) -> None:
        """Raise ValueError unless the box is non-empty and lies within a frame of `width` × `height`."""
        inside = self.left >= 0 and self.top >= 0 and self.width > 0 and self.height > 0
        slack = 1e-6
        if not (
            inside and self.left + self.width <= width + slack and self.top + self.height <= height + slack
        ):
            raise ValueError(f"{self} does not lie within the frame of {width}x{height} pixels")

    def on_whole_pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(left, top, width, height), rounded; errors as `check`."""
        self.check(width, height)
        left, top = round(self.left), round(self.top)
        box_width = max(min(round(self.width), width - left), 1)
        box_height = max(min(round(self.height), height - top), 1)
        return min(left, width - box_width), min(top, height - box_height), box_width, box_height


def center_crop(width: int, height: int) -> Crop:
    """The largest centred square of the frame."""
    side = min(width, height)
    return Crop((width - side) / 2, (height - side) / 2, side, side)


def three_crops(width: int, height: int) -> tuple[Crop, Crop, Crop]:
    """The largest squares at the two ends and in the middle of the longer side."""
    side = min(width, height)
    first, middle, last = (
        Crop((width - side) * place, (height - side) * place, side, side) for place in (0.0, 0.5, 1.0)
    )
    return first, middle, last


def random_resized_crop(
    width: int, height: int, *, scale: tuple[float, float], rng: np.random.Generator
) -> Crop:
    """A box of random area (a share in `scale`) and aspect, anywhere in the frame (whole pixels).

    If ten draws do not fit, takes the centred box with the nearest allowed aspect, as torchvision does.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return Crop(left, top, w, h)
    aspect = min(max(width / height, ASPECTS[0]), ASPECTS[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    return Crop((width - w) / 2, (height - h) / 2, w, h)


def multi_scale_crop(width: int, height: int, *, rng: np.random.Generator) -> Crop:
    """VideoMAE's pretraining crop: sides from MULTI_SCALES at most one step apart, at one of 13 places."""
    last = len(MULTI_SCALES) - 1
    pairs = [(i, j) for i in range(last + 1) for j in range(max(i - 1, 0), min(i + 1, last) + 1)]
    i, j = pairs[int(rng.integers(len(pairs)))]
    x, y = _GRID[int(rng.integers(len(_GRID)))]
    side = min(width, height)
    w, h = int(side * MULTI_SCALES[i]), int(side * MULTI_SCALES[j])
    return Crop(float(int((width - w) * x)), float(int((height - h) * y)), w, h)
