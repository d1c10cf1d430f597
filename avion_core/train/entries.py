"""Entries of a batch that some losses need besides the embeddings: facts about each clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from avion_core.data.clips import ClipTable
from avion_core.registry import Registry

Entry = Callable[[int], NDArray[np.bool_]]
"""From a row of the clip table to an array, of the same shape for all rows."""


class Tags:
    """A row's verb or noun tags, bool[classes]."""

    def __init__(self, clips: ClipTable, *, word: str) -> None:
        """`word` is `verb` or `noun`. Raises ValueError if no clip has such a tag."""
        self._clips, self._word = clips, word
        self._classes = clips.tag_classes(word)
        if not self._classes:
            raise ValueError(
                f"no clip has {word} tags, which this loss needs; give the data set EgoVLP's egoclip.csv "
                "(docs/ego4d.md), or set tags: none"
            )

    def __call__(self, row: int) -> NDArray[np.bool_]:
        held = np.zeros(self._classes, np.bool_)
        held[self._clips.tags(row, self._word)] = True
        return held


class Narrated:
    """Whether a row's texts are a narrator's, 0-d."""

    def __init__(self, clips: ClipTable) -> None:
        self._clips = clips

    def __call__(self, row: int) -> NDArray[np.bool_]:
        return np.array(self._clips.is_narrated(row))


ENTRIES: Registry[Callable[[ClipTable], Entry]] = Registry("entry of a batch")
"""By the name that loss settings list (`LossSettings.entries`) and the loss function takes."""
ENTRIES.register("verb_tags", partial(Tags, word="verb"))
ENTRIES.register("noun_tags", partial(Tags, word="noun"))
ENTRIES.register("narrated", Narrated)


class RowEntries:
    """Entries of a row's sample, by name."""

    def __init__(self, clips: ClipTable, names: Sequence[str]) -> None:
        """Raises ValueError for clips that lack one."""
        self._entries = {name: ENTRIES[name](clips) for name in names}

    def __call__(self, row: int) -> dict[str, NDArray[np.bool_]]:
        return {name: entry(row) for name, entry in self._entries.items()}
