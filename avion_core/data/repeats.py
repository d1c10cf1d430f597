"""Clips that annotation files name more than once in ways that are rarely meant: they are kept, and told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

CLIP = ["video_id", "start_s", "end_s"]
"""Columns that say which clip a row is of."""


def repeats(tables: Mapping[str, pa.Table]) -> Iterator[str]:
    """What clip tables repeat, a sentence each: clips and videos of both splits, clips with two labels.

    `tables` are those of a data set by split. A video in both may be meant: a long one can be divided.
    """
    if len(tables) > 1:
        (train, other), names = tables.values(), " and ".join(tables)
        clips, videos = _shared(train, other, CLIP), _shared(train, other, CLIP[:1])
        if videos.num_rows:
            counts = f"{_count(videos, 'video')} and {_count(clips, 'clip')}"
            yield f"{counts} are in both {names}, {videos['video_id'][0]} for one"
    labelled = [table.select([*CLIP, "label"]) for table in tables.values() if "label" in table.column_names]
    if labelled:
        labels = pa.concat_tables(labelled).group_by(CLIP).aggregate([("label", "count_distinct")])
        several = labels.filter(pc.field("label_count_distinct") > 1)
        if several.num_rows:
            video, start_s, end_s = (several[name][0].as_py() for name in CLIP)
            example = f"{video} from {start_s:g} to {end_s:g} s"
            yield f"{_count(several, 'clip')} with more than one label, {example} for one"


def _shared(one: pa.Table, other: pa.Table, columns: list[str]) -> pa.Table:
    """Distinct values of `columns` that both tables have."""
    sides = [table.select(columns).group_by(columns).aggregate([]) for table in (one, other)]
    return sides[0].join(sides[1], keys=columns, join_type="inner").sort_by(columns[0])


def _count(rows: pa.Table, what: str) -> str:
    return f"{rows.num_rows:,} {what}{'' if rows.num_rows == 1 else 's'}"
