"""Weights load completely or not at all.

Missing, unexpected and mis-shaped weights are listed and fail the load, unless waived by name in the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from avion_core.models.base import VideoModel

LISTED = 8
"""Weights named in an error before 'and n more'."""
WAIVERS = {
    "missing": "waive_missing",
    "unexpected": "waive_unexpected",
    "of another shape": "waive_missing",
}
"""A stage's settings that waive differences from its start weights."""


class ModelError(ValueError):
    """A model folder cannot be read or does not fit. The message names the file and the reason."""


@dataclass(frozen=True)
class LoadReport:
    """Exceptions that `load_weights` made beyond copying equal names and shapes."""

    missing: tuple[str, ...]
    """Waived weights of the model that were missing and stay fresh."""
    unexpected: tuple[str, ...]
    """Waived weights that were given but not used."""
    adapted: tuple[str, ...]
    """Position tables that were interpolated, cut or lengthened."""

    def __str__(self) -> str:
        parts = {"fresh": self.missing, "not used": self.unexpected, "fitted in length": self.adapted}
        return "; ".join(f"{what}: {', '.join(names) or 'none'}" for what, names in parts.items())


def load_weights(
    model: VideoModel,
    tensors: Mapping[str, Tensor],
    *,
    fresh: Sequence[str] = (),
    waive_missing: Sequence[str] = (),
    waive_unexpected: Sequence[str] = (),
    source: str = "weights",
    is_start: bool = False,
) -> LoadReport:
    """Copy `tensors` into `model` by name, all or nothing.

    Position tables of another length or image size are adapted (`model.adapters`). By name (fnmatch):
    `waive_missing` weights may be absent or of another shape and stay fresh, `fresh` ones always stay fresh,
    `waive_unexpected` ones are ignored. Raises ModelError listing every other difference; for a stage's start
    weights (`is_start`) the message also names the settings that waive them.
    """
    own = model.state_dict()
    tensors, waive_missing = without(tensors, fresh), (*waive_missing, *fresh)
    fitted = {name: tensors[name] for name in own if name in tensors}
    for name, adapt in model.adapters.items():
        if name in fitted and fitted[name].ndim == 2 and len(fitted[name]) not in (0, len(own[name])):
            fitted[name] = adapt(fitted[name], own[name])
    missing = [name for name in own if name not in fitted]
    unexpected = [name for name in tensors if name not in own]
    misshapen = [name for name in fitted if fitted[name].shape != own[name].shape]
    kept = {name for name in (*missing, *misshapen) if _matches(name, waive_missing)}
    used = [name for name in fitted if name not in kept]
    problems = {
        "missing": [name for name in missing if name not in kept],
        "unexpected": [name for name in unexpected if not _matches(name, waive_unexpected)],
        "of another shape": [
            f"{name} ({_shape(tensors[name])} for {_shape(own[name])})"
            for name in misshapen
            if name not in kept
        ],
        "not floating-point": [name for name in used if not tensors[name].is_floating_point()],
        "with nan or inf in them": [name for name in used if not _is_finite(tensors[name])],
    }
    if any(problems.values()):
        raise ModelError(_explain(source, model.kind, problems, foreign=not fitted, is_start=is_start))
    with torch.no_grad():
        for name in used:
            own[name].copy_(fitted[name])
    adapted = [name for name in used if fitted[name] is not tensors[name]]
    return LoadReport(tuple(sorted(kept)), tuple(unexpected), tuple(adapted))


def without(tensors: Mapping[str, Tensor], patterns: Sequence[str]) -> dict[str, Tensor]:
    """`tensors` without names that match any of the fnmatch patterns."""
    return {name: tensor for name, tensor in tensors.items() if not _matches(name, patterns)}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite as 32-bit floats; True without contents (on the device "meta")."""
    values = tensor.float() if tensor.is_floating_point() else tensor
    return tensor.is_meta or bool(torch.isfinite(values).all())


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"


def _explain(
    source: str, kind: str, problems: Mapping[str, Sequence[str]], *, foreign: bool, is_start: bool
) -> str:
    if foreign:
        return f"{source}: none of its weights belongs to a {kind}; is it a checkpoint of another model?"
    parts = []
    for what, names in problems.items():
        if names:
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            parts.append(f"{len(names)} {what}: {', '.join(names[:LISTED])}{more}")
    waivers = dict.fromkeys(WAIVERS[what] for what, names in problems.items() if names and what in WAIVERS)
    way_out = f"; if this is intended, name them in {' and '.join(waivers)}" if waivers and is_start else ""
    return f"{source}: its weights do not fit this {kind}: {'; '.join(parts)}{way_out}"
