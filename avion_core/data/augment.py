"""timm's RandAugment and random erasing on whole clips, with one draw for all frames.

timm draws from the global generators of Python, NumPy and torch. They are seeded from the sample's own
generator during the call and restored afterwards, so that runs repeat for any number of worker processes.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

FILL = 128
"""Grey level of areas that RandAugment uncovers, as in VideoMAE and AVION."""
NOISE_MEAN, NOISE_STD = 114.0, 58.0
"""Scale of the noise in erased boxes: unit noise on pixels normalised by ImageNet's statistics."""
TRANSLATE_SHARE = 0.45
"""Largest translation as a share of the frame's side, as in VideoMAE's fine-tuning."""


def rand_augment_clip(
    clip_THWC: NDArray[np.uint8], *, policy: str, rng: np.random.Generator, interpolation: str = "bilinear"
) -> NDArray[np.uint8]:
    """RandAugment (Cubuk et al. 2020) with timm's policy string; all frames share one draw.

    Takes and returns uint8 [T, H, W, 3]. Raises ValueError for a policy that timm does not know.
    """
    transform = rand_augment(policy, min(clip_THWC.shape[1:3]), interpolation)
    seed = int(rng.integers(2**32))
    augmented = np.empty_like(clip_THWC)
    for index, frame in enumerate(clip_THWC):
        with global_generators(seed):
            augmented[index] = np.asarray(transform(Image.fromarray(frame)))
    return augmented


def erase_clip(
    clip_THWC: NDArray[np.uint8], *, probability: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Random erasing (Zhong et al. 2020): with this probability, fill one box of all frames with noise.

    Takes and returns uint8 [T, H, W, C].
    """
    from timm.data.random_erasing import RandomErasing

    with global_generators(int(rng.integers(2**32))):
        if random.random() >= probability:
            return clip_THWC
        frames, height, width, channels = clip_THWC.shape
        noise = torch.full((frames * channels, height, width), torch.nan)
        RandomErasing(probability=1.0, mode="pixel", device="cpu")(noise)
    noise_THWC = noise.numpy().reshape(frames, channels, height, width).transpose(0, 2, 3, 1)
    box = ~np.isnan(noise_THWC)
    erased = clip_THWC.copy()
    erased[box] = np.clip(NOISE_MEAN + NOISE_STD * noise_THWC[box], 0, 255).astype(np.uint8)
    return erased


@functools.lru_cache(maxsize=8)
def rand_augment(
    policy: str, side_px: int, interpolation: str = "bilinear"
) -> Callable[[Image.Image], Image.Image]:
    """timm's transform for frames of this side. Raises ValueError for a policy that timm does not know."""
    from timm.data.auto_augment import rand_augment_transform

    options = {
        "translate_const": int(side_px * TRANSLATE_SHARE),
        "interpolation": Image.Resampling[interpolation.upper()],
        "img_mean": (FILL,) * 3,
    }
    try:
        transform: Callable[[Image.Image], Image.Image] = rand_augment_transform(policy, options)
    except (AssertionError, ValueError, KeyError):
        raise ValueError(
            f"rand_augment: '{policy}' is not a policy that timm knows, such as rand-m7-n4-mstd0.5-inc1"
        ) from None
    return transform


@contextmanager
def global_generators(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's generators for the body, and restore them afterwards."""
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.random.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(pytorch)
