"""Augmentation on the training device: the loader's workers draw, the device applies.

A batch brings its draws in three tensors (`packed`):

- `operations`, float64 [O, 9], sorted, a row for each drawn operation: its place in the clip's order, its
  place in KINDS, the clip, and six numbers (an affine matrix, or one argument and zeros);
- `boxes`, int64 [E, 5], a row for each erased clip: clip, top, left, height, width;
- `noise`, uint8, of all boxes, one after another.

Every operation repeats Pillow's arithmetic in Pillow's precision (libImaging's Geometry.c, Blend.c and
Filter.c, ImageOps.py, ImageEnhance.py), so the pictures are those of `augment.rand_augment_clip`, bit for
bit where the processor rounds each product and each sum.

Shapes: K clips that share an operation, T frames, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from avion_core.data.augment import FILL, Draws, Operation, rand_augment

VALUES_AT_ONCE = 2**22
"""Grey levels that one operation works on at a time, or one clip's if it has more; it needs several tensors
of 8 bytes a level."""
LUMA = (19595, 38470, 7471)
"""Pillow's weights of red, green and blue, in 1/65536."""
GEOMETRIC = frozenset(
    (
        "rotate",
        "shear_x",
        "shear_y",
        "translate_x_abs",
        "translate_y_abs",
        "translate_x_rel",
        "translate_y_rel",
    )
)
"""timm's functions that are affine transforms."""


def lacking(policy: str) -> list[str]:
    """timm's names of the policy's operations that the device cannot apply.

    Raises ValueError for a policy that timm does not know.
    """
    from timm.data.auto_augment import NAME_TO_OP

    names = [step.name for step in rand_augment(policy, 0).ops]  # type: ignore[attr-defined]
    return [name for name in names if NAME_TO_OP[name].__name__ not in GEOMETRIC | OPERATIONS.keys()]


def packed(draws: Sequence[Draws], *, height: int, width: int) -> dict[str, NDArray[Any]]:
    """The draws of a batch's clips as arrays (see the module docstring)."""
    steps = [
        (layer, KINDS.index(kind), clip, *numbers)
        for clip, drawn in enumerate(draws)
        for layer, operation in enumerate(drawn.operations)
        for kind, numbers in [_step(operation, height, width)]
    ]
    erased = [(clip, drawn.erasure) for clip, drawn in enumerate(draws) if drawn.erasure is not None]
    boxes = [(clip, box.top, box.left, *box.noise.shape[2:]) for clip, box in erased]
    return {
        "operations": np.array(sorted(steps), np.float64).reshape(-1, 9),
        "boxes": np.array(boxes, np.int64).reshape(-1, 5),
        "noise": np.concatenate([np.empty(0, np.uint8), *(box.noise.ravel() for _, box in erased)]),
    }


def _step(operation: Operation, height: int, width: int) -> tuple[str, tuple[float, ...]]:
    """Name in OPERATIONS, and the six numbers."""
    name = operation.function.__name__
    if name not in GEOMETRIC:
        return name, (*operation.arguments, *[0.0] * (6 - len(operation.arguments)))
    matrix = tuple(operation(_Canvas(width, height)))
    moved = [
        axis for axis, row, still in zip("xy", (matrix[:3], matrix[3:]), STILL, strict=True) if row != still
    ]
    kind = Image.Resampling(operation.options["resample"]).name.lower()
    return f"{kind}_{''.join(moved) or 'x'}", matrix


class _Canvas:
    """Stand-in for a picture, of which timm's and Pillow's functions return their matrix."""

    def __init__(self, width: int, height: int) -> None:
        self.size = self.width, self.height = width, height

    def rotate(self, angle: float, **options: Any) -> Any:
        """Pillow's rotation, with a centre: without one it transposes at right angles."""
        centre = (self.width / 2, self.height / 2)
        return Image.Image.rotate(self, angle, center=centre, **options)  # type: ignore[arg-type]

    def transform(self, size: object, method: object, matrix: Sequence[float], *_: Any, **__: Any) -> Any:
        """The matrix."""
        return matrix


STILL = ((1, 0, 0), (0, 1, 0))
"""Rows of a matrix that leave x, and y, as they are."""


def augmented(batch: Mapping[str, Tensor], moved: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """`moved`, the batch on its device, with its draws applied to the frames and left out.

    `batch` is on the host, whose copy of the draws is read without waiting for the device.
    """
    if "operations" not in batch:
        return moved
    planes_BTCHW = moved["frames"].movedim(-1, -3).clone(memory_format=torch.contiguous_format)
    at_once = max(1, VALUES_AT_ONCE // planes_BTCHW[0].numel())
    table, start = moved["operations"], 0
    for (_, kind), group in groupby(batch["operations"][:, :2].tolist()):
        count = sum(1 for _ in group)
        for part in table[start : start + count].split(at_once):
            clips, numbers = part[:, 2].long(), part[:, 3:]
            planes_BTCHW[clips] = OPERATIONS[KINDS[int(kind)]](planes_BTCHW[clips], numbers)
        start += count
    start = 0
    for clip, top, left, height, width in batch["boxes"].tolist():
        box = planes_BTCHW[clip, :, :, top : top + height, left : left + width]
        box.copy_(moved["noise"][start : start + box.numel()].view(box.shape))
        start += box.numel()
    rest = {name: value for name, value in moved.items() if name not in ("operations", "boxes", "noise")}
    return {**rest, "frames": planes_BTCHW.movedim(-3, -1)}


def resampled(
    planes_KTCHW: Tensor,
    matrix_K6: Tensor,
    *,
    spline: Callable[[Sequence[Tensor], Tensor], Tensor],
    taps: Sequence[int],
    axes: str,
) -> Tensor:
    """Affine transform in float64, as Geometry.c's; `axes` are those that move, so need interpolation."""
    height, width = planes_KTCHW.shape[-2:]
    x_KHW, y_KHW = _sources(matrix_K6, height, width)
    inside_KHW = (x_KHW >= 0) & (x_KHW < width) & (y_KHW >= 0) & (y_KHW < height)
    columns, dx_KHW = _taps(x_KHW - 0.5, taps if "x" in axes else (0,), width)
    rows, dy_KHW = _taps(y_KHW - 0.5, taps if "y" in axes else (0,), height)

    def mixed(values: Sequence[Tensor], share_KHW: Tensor) -> Tensor:
        return spline(values, share_KHW[:, None, None]) if len(values) > 1 else values[0]

    lines = [mixed([_pick(planes_KTCHW, row, one).double() for one in columns], dx_KHW) for row in rows]
    values = mixed(lines, dy_KHW).clamp(0, 255).to(torch.uint8)
    return torch.where(inside_KHW[:, None, None], values, FILL)


def _sources(matrix_K6: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The source coordinates x and y [K, H, W] of each pixel's centre."""
    y_H1 = torch.arange(height, dtype=torch.float64, device=matrix_K6.device)[:, None] + 0.5
    x_W = torch.arange(width, dtype=torch.float64, device=matrix_K6.device) + 0.5
    a, b, c, d, e, f = matrix_K6[:, :, None, None].unbind(1)
    return a * x_W + b * y_H1 + c, d * x_W + e * y_H1 + f


def _taps(place: Tensor, offsets: Iterable[int], size: int) -> tuple[list[Tensor], Tensor]:
    """Indices of the neighbours at these offsets, clamped to the border, and the share of the next."""
    whole = place.floor()
    return [(whole.long() + offset).clamp(0, size - 1) for offset in offsets], place - whole


def _pick(planes_KTCHW: Tensor, rows_KHW: Tensor, columns_KHW: Tensor) -> Tensor:
    """The pixels at these places, in every frame and channel."""
    flat = planes_KTCHW.flatten(-2)
    index = (rows_KHW * planes_KTCHW.shape[-1] + columns_KHW).flatten(-2)[:, None, None]
    return flat.gather(-1, index.expand(flat.shape)).view(planes_KTCHW.shape)


def linear(values: Sequence[Tensor], share: Tensor) -> Tensor:
    """Geometry.c's BILINEAR of two neighbours."""
    first, second = values
    return first + (second - first) * share


def cubic(values: Sequence[Tensor], share: Tensor) -> Tensor:
    """Geometry.c's BICUBIC of four neighbours."""
    before, first, second, after = values
    slope = second - before
    bend = 2 * (before - first) + second - after
    twist = first - before - second + after
    return first + share * (slope + share * (bend + share * twist))


def nearest(planes_KTCHW: Tensor, matrix_K6: Tensor) -> Tensor:
    """Affine transform without interpolation: translations in float64, others in 16.16 fixed point."""
    height, width = planes_KTCHW.shape[-2:]
    y_H1 = torch.arange(height, device=matrix_K6.device)[:, None]
    x_W = torch.arange(width, device=matrix_K6.device)
    a, b, c, d, e, f = matrix_K6[:, :, None, None].unbind(1)

    def fixed(value: Tensor) -> Tensor:
        return (value * 65536.0 + 0.5).floor().long()

    x_fixed = (fixed(c + a * 0.5 + b * 0.5) + x_W * fixed(a) + y_H1 * fixed(b)) >> 16
    y_fixed = (fixed(f + d * 0.5 + e * 0.5) + x_W * fixed(d) + y_H1 * fixed(e)) >> 16
    straight = (b == 0) & (d == 0)
    x_KHW = torch.where(straight, (c + a * 0.5 + x_W * a).floor().long(), x_fixed)
    y_KHW = torch.where(straight, (f + e * 0.5 + y_H1 * e).floor().long(), y_fixed)
    inside_KHW = (x_KHW >= 0) & (x_KHW < width) & (y_KHW >= 0) & (y_KHW < height)
    values = _pick(planes_KTCHW, y_KHW.clamp(0, height - 1), x_KHW.clamp(0, width - 1))
    return torch.where(inside_KHW[:, None, None], values, FILL)


def color(planes_KTCHW: Tensor, numbers_K6: Tensor) -> Tensor:
    """ImageEnhance.Color."""
    return _blend(_grey(planes_KTCHW), planes_KTCHW, numbers_K6[:, 0, None, None, None, None])


def sharpness(planes_KTCHW: Tensor, numbers_K6: Tensor) -> Tensor:
    """ImageEnhance.Sharpness: a blend with a smoothed picture, whose border is that of the picture."""
    values = planes_KTCHW.short()
    sums = values[..., :-2, :] + values[..., 1:-1, :] + values[..., 2:, :]
    sums = sums[..., :-2] + sums[..., 1:-1] + sums[..., 2:] + 4 * values[..., 1:-1, 1:-1]
    values[..., 1:-1, 1:-1] = (2 * sums + 13) // 26  # over 13, to the nearest
    return _blend(values, planes_KTCHW, numbers_K6[:, 0, None, None, None, None])


def _grey(planes_KTCHW: Tensor) -> Tensor:
    """Brightness [K, T, 1, H, W], as Pillow's conversion to L."""
    red, green, blue = (
        weight * plane for weight, plane in zip(LUMA, planes_KTCHW.int().unbind(2), strict=True)
    )
    return ((red + green + blue + 0x8000) >> 16)[:, :, None]


def _blend(first: Tensor, second: Tensor, factor: Tensor) -> Tensor:
    """Blend.c, in float32."""
    start = first.float()
    return (start + factor.float() * (second.float() - start)).clamp(0, 255).to(torch.uint8)


def looked_up(
    planes_KTCHW: Tensor, numbers_K6: Tensor, *, table: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Replace grey levels; `table` of levels [256], planes and argument [K, 1, 1, 1] gives the new ones.

    They are [K, T, C, 256], or fewer where clips share them.
    """
    levels = torch.arange(256, device=planes_KTCHW.device)
    levels_KTC256 = table(levels, planes_KTCHW, numbers_K6[:, 0, None, None, None]).to(torch.uint8)
    flat = planes_KTCHW.flatten(-2)
    whole = levels_KTC256.expand(*flat.shape[:-1], 256)
    return whole.gather(-1, flat.long()).view(planes_KTCHW.shape)


def _auto_contrast(levels: Tensor, planes_KTCHW: Tensor, _: Tensor) -> Tensor:
    flat = planes_KTCHW.flatten(-2)
    low, high = flat.amin(-1, keepdim=True).double(), flat.amax(-1, keepdim=True).double()
    # 255 / tensor would multiply by its reciprocal, which rounds twice
    scale = torch.full_like(low, 255) / (high - low).clamp(min=1)
    return torch.where(high > low, (levels * scale + -low * scale).clamp(0, 255), levels)


def _equalize(levels: Tensor, planes_KTCHW: Tensor, _: Tensor) -> Tensor:
    flat = planes_KTCHW.flatten(-2)
    counts = flat.new_zeros((*flat.shape[:-1], 256), dtype=torch.int64)
    counts.scatter_add_(-1, flat.long(), counts.new_ones(()).expand(flat.shape))
    highest = counts.gather(-1, flat.amax(-1, keepdim=True).long())
    step = (flat.shape[-1] - highest) // 255
    below = counts.cumsum(-1) - counts
    return torch.where(step > 0, ((step // 2 + below) // step.clamp(min=1)).clamp(max=255), levels)


def _posterize(levels: Tensor, _: Tensor, bits: Tensor) -> Tensor:
    dropped = 2 ** (8 - bits.long()).clamp(min=0)
    return levels // dropped * dropped


def _contrast(levels: Tensor, planes_KTCHW: Tensor, factor: Tensor) -> Tensor:
    grey = _grey(planes_KTCHW).flatten(-2)
    mean = (grey.sum(-1, keepdim=True).double() / grey.shape[-1] + 0.5).floor()
    return _blend(mean, levels, factor)


TABLES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "invert": lambda levels, _, __: 255 - levels,
    "posterize": _posterize,
    "solarize": lambda levels, _, threshold: torch.where(levels < threshold, levels, 255 - levels),
    "solarize_add": lambda levels, _, add: torch.where(levels < 128, (levels + add).clamp(max=255), levels),
    "brightness": lambda levels, _, factor: _blend(torch.zeros_like(levels), levels, factor),
    "contrast": _contrast,
}
"""timm's functions that change each grey level by itself."""
OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **{f"nearest_{axes}": nearest for axes in ("x", "y", "xy")},
    **{
        f"{name}_{axes}": partial(resampled, spline=spline, taps=taps, axes=axes)
        for name, spline, taps in (("bilinear", linear, (0, 1)), ("bicubic", cubic, (-1, 0, 1, 2)))
        for axes in ("x", "y", "xy")
    },
    **{name: partial(looked_up, table=table) for name, table in TABLES.items()},
    "color": color,
    "sharpness": sharpness,
}
"""Functions of planes [K, T, C, H, W] and each clip's six numbers [K, 6]."""
KINDS = list(OPERATIONS)
"""Their order in the column of `operations`."""
