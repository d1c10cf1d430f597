"""Tables that map our names of weights to other projects', read by both import and export.

There is a table for each part of a model, such as a tower, and each format, such as AVION's checkpoints.
Export reads the rows of one format from left to right, import those of all formats from right to left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

WRAPPERS: tuple[tuple[str, str], ...] = (
    (r"\b_(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.", ""),
    (r"^(?:(?:module|model)\.)+", ""),
)
"""Prefixes that training wrappers add to names of weights."""


class Same(NamedTuple):
    """A name, or a fragment of names, in our form and in another project's.

    A fragment is a prefix (`blocks.`, or the empty one for all names) or an infix (`.norm1.`). The first
    matching infix row and the first matching other row apply to a name.
    """

    ours: str
    """Without the prefix of the part."""
    theirs: str | tuple[str | None, ...]
    """From the start of the whole name, unless it is an infix. Several names: one weight of ours is split
    there along its first dimension; None stands for zeros that are not stored."""
    shape: tuple[int, ...] | None = None
    """Their shape, for `reshape`; None for ours. Import needs none."""
    transposed: bool = False
    """Whether their matrices are transposed, as in GPT-2's `Conv1D`."""


Names = tuple[Same, ...]


class Part(NamedTuple):
    """Weights with a common prefix, such as a tower's, and their names in each format."""

    prefix: str
    formats: Mapping[str, Names]


class Place(NamedTuple):
    """Target of a foreign weight: our name, and the index of its piece."""

    name: str
    piece: int = 0
    pieces: tuple[str | None, ...] = ("",)
    transposed: bool = False


def formats(parts: Sequence[Part]) -> set[str]:
    """Formats that have names for every part."""
    return set.intersection(*(set(part.formats) for part in parts))


def to_theirs(tensors: Mapping[str, Tensor], parts: Sequence[Part], form: str) -> dict[str, Tensor]:
    """Our weights under the names and in the shapes of a format; names without a row stay unchanged.

    A weight belongs to the first part whose prefix its name has.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        part = next((part for part in parts if name.startswith(part.prefix)), Part("", {form: ()}))
        rows, local = part.formats[form], name.removeprefix(part.prefix)
        first = _first(local, [row for row in rows if not row.ours.startswith(".")])
        middle = _first(local, [row for row in rows if row.ours.startswith(".")])
        names: list[str | None] = [local if first else name]
        for row in filter(None, (first, middle)):
            names = [
                None if old is None or new is None else _swap(old, row.ours, new)
                for old in names
                for new in _pieces(row)
            ]
            tensor = tensor if row.shape is None else tensor.reshape(row.shape)
            tensor = tensor.T if row.transposed and tensor.ndim == 2 else tensor
        values = tensor.chunk(len(names)) if len(names) > 1 else (tensor,)
        found |= {new: value for new, value in zip(names, values, strict=True) if new is not None}
    return found


def to_ours(
    tensors: Mapping[str, Tensor], parts: Iterable[Part], *, like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Foreign weights under our names, with as many dimensions as those of `like`.

    Convolution kernels are flattened, and leading dimensions of length 1 dropped. Weights without a row, and
    incomplete pieces, keep their names. Raises ValueError if two map to the same weight.
    """
    reader, named = Reader(parts), dict[str, Tensor]()
    groups: dict[Place, dict[int, tuple[str, Tensor]]] = {}
    for foreign_name, tensor in tensors.items():
        place = reader.place(foreign_name)
        group = groups.setdefault(place._replace(piece=0), {})
        if place.piece in group:
            raise ValueError(f"two of the given weights mean {place.name}; the second is {foreign_name}")
        group[place.piece] = foreign_name, tensor
    for place, group in groups.items():
        whole = _joined(place, {number: tensor for number, (_, tensor) in group.items()})
        if whole is None:
            named |= dict(group.values())
            continue
        if place.name in named:
            second = next(iter(group.values()))[0]
            raise ValueError(f"two of the given weights mean {place.name}; the second is {second}")
        whole = whole.T if place.transposed and whole.ndim == 2 else whole
        named[place.name] = _with_dimensions(whole, like[place.name]) if place.name in like else whole
    return named


class Reader:
    """Maps foreign weights to a model of these parts."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self._first: list[tuple[str, str, Names]] = []
        self._middle: Names = ()
        """Rows of the parts without a prefix, for names that match no prefix."""
        for part in parts:
            rows = tuple(dict.fromkeys(row for names in part.formats.values() for row in names))
            middle = tuple(row for row in rows if row.ours.startswith("."))
            self._middle += () if part.prefix else middle
            for row in rows:
                if isinstance(row.theirs, str) and row not in middle:
                    self._first.append((row.theirs, part.prefix + row.ours, middle))
        self._first.sort(key=lambda first: len(first[0]), reverse=True)

    def place(self, foreign_name: str) -> Place:
        """Target of a name; for a name without a row, the name without wrapper prefixes."""
        name, middle = foreign_name, self._middle
        for pattern, replacement in WRAPPERS:
            name = re.sub(pattern, replacement, name)
        for beginning, ours, rows in self._first:
            if _fits(name, beginning):
                name, middle = _swap(name, beginning, ours), rows
                break
        for row in middle:
            pieces = _pieces(row)
            for number, theirs in enumerate(pieces):
                if theirs is not None and _fits(name, theirs):
                    name = _swap(name, theirs, row.ours)
                    split = (number, pieces) if len(pieces) > 1 else ()
                    return Place(name, *split)._replace(transposed=row.transposed)
        return Place(name)


def _joined(place: Place, given: Mapping[int, Tensor]) -> Tensor | None:
    """The whole weight from its numbered pieces; None if some are missing or do not fit together."""
    if len(place.pieces) == 1:
        return given[0]
    kept = [number for number, piece in enumerate(place.pieces) if piece is not None]
    one = next(iter(given.values()))
    if sorted(given) != kept or any(x.ndim == 0 or x.shape[1:] != one.shape[1:] for x in given.values()):
        return None
    return torch.cat([given.get(number, torch.zeros_like(one)) for number in range(len(place.pieces))])


def _first(name: str, rows: Iterable[Same]) -> Same | None:
    return next((row for row in rows if _fits(name, row.ours)), None)


def _pieces(row: Same) -> tuple[str | None, ...]:
    return (row.theirs,) if isinstance(row.theirs, str) else row.theirs


def _fits(name: str, piece: str) -> bool:
    """Whether a name equals `piece`, begins with it, or contains it as an infix."""
    whole = not piece.endswith((".", "_")) and piece != ""
    if piece.startswith("."):
        return name.endswith(piece) if whole else piece in name
    return name == piece if whole else name.startswith(piece)


def _swap(name: str, old: str, new: str) -> str:
    """`name` with the matching `old` replaced."""
    before, _, after = name.partition(old) if old else ("", "", name)
    return before + new + after


def _with_dimensions(tensor: Tensor, like: Tensor) -> Tensor:
    while tensor.ndim > like.ndim and tensor.shape[0] == 1:
        tensor = tensor[0]
    return tensor.flatten(1) if tensor.ndim > like.ndim == 2 else tensor
