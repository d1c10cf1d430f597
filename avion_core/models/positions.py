"""Resize position tables to another number of frames, image size or text length."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def interpolate_frames(table_TD: Tensor, target_TD: Tensor) -> Tensor:
    """A temporal embedding for another number of frames: linear, ends not aligned (AVION's 4 → 16)."""
    frames = target_TD.shape[0]
    return F.interpolate(table_TD.float().T[None], size=frames, mode="linear", align_corners=False)[0].T


def lengthen_linearly(table_TD: Tensor, target_TD: Tensor) -> Tensor:
    """A temporal embedding for more frames as `interpolate_frames`, for fewer its first rows (LaViLa)."""
    frames = len(target_TD)
    return table_TD[:frames] if frames < len(table_TD) else interpolate_frames(table_TD, target_TD)


def lengthen_with_zeros(table_TD: Tensor, target_TD: Tensor) -> Tensor:
    """A temporal embedding for more frames with zeros, for fewer its first rows (EgoVLP)."""
    further = max(0, len(target_TD) - len(table_TD))
    return F.pad(table_TD[: len(target_TD)], (0, 0, 0, further))


def interpolate_places(table_ND: Tensor, target_ND: Tensor) -> Tensor:
    """A spatial table (class token, then a square grid) for another image size: bicubic, antialiased."""
    side, wanted = (round((len(table) - 1) ** 0.5) for table in (table_ND, target_ND))
    if side**2 + 1 != len(table_ND) or wanted**2 + 1 != len(target_ND):
        return table_ND
    grid = table_ND[1:].float().T.unflatten(1, (side, side))[None]
    grid = F.interpolate(grid, size=(wanted, wanted), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table_ND[:1].float(), grid[0].flatten(1).T])


def fit_context(table_LD: Tensor, target_LD: Tensor) -> Tensor:
    """The first rows of a text position table, exact as attention is causal; further rows stay fresh."""
    return torch.cat([table_LD[: len(target_LD)], target_LD[len(table_LD) :].to(table_LD.dtype)])
