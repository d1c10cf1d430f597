"""Clips to augment, and timm's operations with chosen magnitudes."""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from timm.data.auto_augment import LEVEL_TO_ARG, AugmentOp

from avion_core.data.augment import FILL, Operation, noting

NAMES = [name for name in LEVEL_TO_ARG if name not in ("Desaturate", "GaussianBlur", "GaussianBlurRand")]
"""timm's operations, without those of its three-augment policies."""
MIXED = ("rand-m7-n4-mstd0.5-inc1", "rand-m9-mstd0.5")
"""Policies: of the recipe, and timm's usual one."""


def textured_clip(frames: int = 3, height: int = 48, width: int = 40, seed: int = 1) -> NDArray[np.uint8]:
    """Coarse shapes and noise, [T, H, W, 3]; sides divide by 8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (frames, height // 8, width // 8, 3)).astype(np.float64)
    shapes = np.kron(coarse, np.ones((1, 8, 8, 1)))
    return np.clip(shapes + rng.normal(scale=20, size=shapes.shape), 0, 255).astype(np.uint8)


def difficult_clip(height: int = 48, width: int = 40) -> NDArray[np.uint8]:
    """Frames: textured, noise, one colour, two levels, few levels of low contrast, and dark with a dot."""
    rng = np.random.default_rng(2)
    shape = (height, width, 3)
    dot = np.zeros(shape)
    dot[3, 4] = 255
    frames = [
        textured_clip(1, height, width)[0],
        rng.integers(0, 256, shape),
        np.broadcast_to([7, 130, 255], shape),
        rng.integers(0, 2, shape) * 255,
        rng.integers(100, 104, shape),
        dot,
    ]
    return np.stack(frames).astype(np.uint8)


def operation(name: str, magnitude: float, *, interpolation: str = "bilinear", seed: int = 0) -> Operation:
    """timm's operation of this magnitude; the seed decides its direction."""
    options = {
        "img_mean": (FILL,) * 3,
        "translate_const": 18,
        "interpolation": Image.Resampling[interpolation.upper()],
    }
    step = AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=options)
    step.aug_fn = noting(step.aug_fn)
    random.seed(seed)
    [drawn] = step(())
    return drawn
