"""Tables of the cosines between clips and their texts, as measured for the filters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avion_core.data.tables import map_table
from avion_core.narrate.provider import NarrateError

COSINES = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("texts", pa.list_(pa.string()), nullable=False),
        pa.field("cosines", pa.list_(pa.float32())),
    ]
)
"""A clip with the texts that a provider wrote about it and their cosines; null for a clip that could not be
read. The shards' tables have the clips in order, each a range of them."""
LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of the distribution."""


class Cosines:
    """The cosines of a table, batch by batch from its first row on."""

    def __init__(self, shards: Sequence[Path]) -> None:
        self._table = pa.concat_tables([map_table(shard, COSINES) for shard in shards])
        self._shards, self._next = shards, 0

    def of(self, batch: pa.RecordBatch) -> list[list[float] | None]:
        """The cosines of each row of the next batch. Raises NarrateError if they are of other texts."""
        own = self._table.slice(self._next, len(batch))
        self._next += len(batch)
        texts = own.drop_columns(["cosines"]).combine_chunks()
        if not texts.equals(pa.Table.from_batches([batch]).select(texts.column_names).cast(texts.schema)):
            raise NarrateError(
                f"{self._shards[0].parent}: cosines of other texts; delete the folder to measure them again"
            )
        found: list[list[float] | None] = own["cosines"].to_pylist()
        return found

    def distribution(self) -> dict[str, float]:
        """Quantiles of all cosines by level; empty without any."""
        cosines = np.asarray(pc.list_flatten(self._table["cosines"]))
        if not len(cosines):
            return {}
        values = np.quantile(cosines, LEVELS).tolist()
        return {f"{level:g}": value for level, value in zip(LEVELS, values, strict=True)}
