"""timm's RandAugment and random erasing on whole clips, with one draw for all frames.

Drawing and applying are separate, so that the loader's workers can draw and the training device apply
(`device_augment.py`).

timm draws from the global generators of Python, NumPy and torch. They are seeded from the sample's own
generator during the call and restored afterwards, so that runs repeat for any number of worker processes.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class Operation:
    """One of timm's operations with the arguments that were drawn for it."""

    function: Callable[..., Any]
    """From timm.data.auto_augment: of a picture, the arguments and the options."""
    arguments: tuple[float, ...]
    options: Mapping[str, Any]
    """Fill and interpolation, the same for all operations of a policy."""

    def __call__(self, picture: Any) -> Any:
        """The changed picture."""
        return self.function(picture, *self.arguments, **self.options)


@dataclass(frozen=True)
class Erasure:
    """A box of all frames, and what is written into it."""

    top: int
    left: int
    noise: NDArray[np.uint8]
    """[T, C, height, width] of the box."""


@dataclass(frozen=True)
class Draws:
    """How one clip is augmented: its operations in order, then what is erased."""

    operations: tuple[Operation, ...] = ()
    erasure: Erasure | None = None


def rand_augment_clip(
    clip_THWC: NDArray[np.uint8], *, policy: str, rng: np.random.Generator, interpolation: str = "bilinear"
) -> NDArray[np.uint8]:
    """RandAugment (Cubuk et al. 2020) with timm's policy string; all frames share one draw.

    Takes and returns uint8 [T, H, W, 3]. Raises ValueError for a policy that timm does not know.
    """
    side_px = min(clip_THWC.shape[1:3])
    operations = draw_operations(policy, side_px=side_px, interpolation=interpolation, rng=rng)
    augmented = np.empty_like(clip_THWC)
    for index, frame in enumerate(clip_THWC):
        picture = Image.fromarray(frame)
        for operation in operations:
            picture = operation(picture)
        augmented[index] = np.asarray(picture)
    return augmented


def erase_clip(
    clip_THWC: NDArray[np.uint8], *, probability: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Random erasing (Zhong et al. 2020): with this probability, fill one box of all frames with noise.

    Takes and returns uint8 [T, H, W, C].
    """
    drawn = draw_erasure(clip_THWC.shape, probability=probability, rng=rng)
    if drawn is None:
        return clip_THWC
    erased = clip_THWC.copy()
    height, width = drawn.noise.shape[2:]
    box = erased[:, drawn.top : drawn.top + height, drawn.left : drawn.left + width]
    box[:] = drawn.noise.transpose(0, 2, 3, 1)
    return erased


def draw_operations(
    policy: str, *, side_px: int, interpolation: str, rng: np.random.Generator
) -> tuple[Operation, ...]:
    """RandAugment's operations for a clip of frames whose shorter side is `side_px`.

    Raises ValueError for a policy that timm does not know.
    """
    transform = rand_augment(policy, side_px, interpolation)
    with global_generators(int(rng.integers(2**32))):
        drawn: tuple[Operation, ...] = transform(())
    return drawn


def draw_erasure(
    shape_THWC: tuple[int, ...], *, probability: float, rng: np.random.Generator
) -> Erasure | None:
    """The box to erase and its noise, or None."""
    from timm.data.random_erasing import RandomErasing

    frames, height, width, channels = shape_THWC
    box = _Box((frames * channels, height, width))
    with global_generators(int(rng.integers(2**32))):
        if random.random() >= probability:
            return None
        RandomErasing(probability=1.0, mode="pixel", device="cpu")(box)
    if box.noise is None:
        return None
    grey = np.clip(NOISE_MEAN + NOISE_STD * box.noise.numpy(), 0, 255).astype(np.uint8)
    return Erasure(box.top, box.left, grey.reshape(frames, channels, *grey.shape[1:]))


class _Box:
    """Stand-in for a tensor [planes, H, W] in timm's RandomErasing that keeps what is written into it."""

    dtype = torch.float32
    top = left = 0
    noise: torch.Tensor | None = None

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._shape = shape

    def size(self) -> tuple[int, int, int]:
        """As a tensor's."""
        return self._shape

    def __setitem__(self, place: tuple[slice, slice, slice], noise: torch.Tensor) -> None:
        _, rows, columns = place
        self.top, self.left, self.noise = rows.start, columns.start, noise


@functools.lru_cache(maxsize=8)
def rand_augment(policy: str, side_px: int, interpolation: str = "bilinear") -> Callable[[Any], Any]:
    """timm's transform for frames of this side. Called with a tuple, it adds its operations to that.

    Raises ValueError for a policy that timm does not know.
    """
    from timm.data.auto_augment import rand_augment_transform

    options = {
        "translate_const": int(side_px * TRANSLATE_SHARE),
        "interpolation": Image.Resampling[interpolation.upper()],
        "img_mean": (FILL,) * 3,
    }
    try:
        transform: Any = rand_augment_transform(policy, options)
    except (AssertionError, ValueError, KeyError):
        raise ValueError(
            f"rand_augment: '{policy}' is not a policy that timm knows, such as rand-m7-n4-mstd0.5-inc1"
        ) from None
    for step in transform.ops:
        step.aug_fn = noting(step.aug_fn)
    return transform


def noting(function: Callable[..., Any]) -> Callable[..., tuple[Operation, ...]]:
    """A stand-in for timm's `function` that adds it, with its arguments, to a tuple of operations."""
    return functools.partial(_noted, posterize if function.__name__ == "posterize" else function)


def _noted(
    function: Callable[..., Any], drawn: tuple[Operation, ...], *arguments: float, **options: Any
) -> tuple[Operation, ...]:
    return (*drawn, Operation(function, arguments, options))


def posterize(picture: Image.Image, bits: int, **options: Any) -> Image.Image:
    """timm's, but black where no bits are left, which Pillow refuses."""
    from timm.data import auto_augment

    if bits <= 0:  # below 0 by magnitudes over 10 (mmax)
        return Image.new(picture.mode, picture.size)
    return auto_augment.posterize(picture, bits, **options)


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
