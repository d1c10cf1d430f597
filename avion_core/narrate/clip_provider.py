"""What a provider that narrates clips does: check its settings, estimate the price, narrate a shard.

Its settings name the class (`config.ProviderSettings.work`) and, in `trained_stage`, a model of ours that it
needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avion_core.config import NarratorSettings
from avion_core.data.chunks import ChunkIndex
from avion_core.narrate.budget import Estimate
from avion_core.registry import load


@dataclass(frozen=True)
class ClipTexts:
    """The narrations of one clip."""

    texts: Sequence[str]
    scores: Sequence[float] | None = None
    """Of each text, if the provider gives any: LaViLa's, lower is surer."""
    reason: str | None = None
    """Why there are no texts, in words that can be counted."""
    tries: int = 0
    """Requests sent for a clip without texts."""


@dataclass(frozen=True)
class OtherClips:
    """The distinct clips of another data set that is narrated too."""

    clips: pa.Table
    keys: NDArray[np.uint64]
    chunks: ChunkIndex


@dataclass(frozen=True)
class ClipWork:
    """One shard of narrating clips."""

    clips: pa.Table
    """The distinct clips of all shards, `windows.PLACES`."""
    keys: NDArray[np.uint64]
    """The provider's `keys` of them."""
    places: NDArray[np.int64]
    """Rows of this shard's clips among them: every n-th."""
    shard: str
    """`k-of-n`."""
    chunks: ChunkIndex
    journal_dir: Path
    """Folder for paid answers."""
    others: Mapping[Path, OtherClips] = field(default_factory=dict)
    """For a provider whose answers data sets share: those of the other data sets, by the folder of their
    answers."""
    model: Path | None = None
    """Weights of the settings' `trained_stage`; its `model.json` is beside them."""


class ClipProvider:
    """Narrates clips. The defaults are those of a provider that sends no requests."""

    def __init__(self, settings: NarratorSettings) -> None:
        self.settings = settings

    def keys(self, clips: pa.Table, chunks: ChunkIndex) -> NDArray[np.uint64]:
        """A number for each clip; clips with the same number are narrated once."""
        return np.arange(len(clips), dtype=np.uint64)

    def places(self, chunks: ChunkIndex) -> pa.Table:
        """The clips that it narrates, `windows.PLACES` by video and time, if it `brings_clips`."""
        raise NotImplementedError

    def narrate(self, work: ClipWork) -> Iterator[ClipTexts]:
        """The narrations of each of the shard's clips, in order."""
        raise NotImplementedError

    def check(self) -> None:
        """Cheap checks of the settings; raises NarrateError with the way out."""

    def check_key(self) -> None:
        """Raise ProviderError if the key is missing. Only requests need it."""

    def estimate(
        self, clips: pa.Table, keys: NDArray[np.uint64], *, chunks: ChunkIndex, journal_dir: Path
    ) -> Estimate:
        """Size and price of narrating distinct clips with these keys that the journal does not answer yet."""
        return Estimate(len(clips), 0, 0, 0, 0.0, what="distinct clips")


def clip_provider_of(settings: NarratorSettings) -> ClipProvider:
    """The chosen provider, imported when used."""
    made: ClipProvider = load(settings.own.work, base=ClipProvider)(settings)
    return made
