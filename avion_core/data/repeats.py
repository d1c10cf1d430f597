"""Find clips that annotation files repeat, probably by mistake; they are kept and reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

CLIP = ["video_id", "start_s", "end_s"]
"""Columns that identify a row's clip."""


def repeats(tables: Mapping[str, pa.Table]) -> Iterator[str]:
    """Repeats in clip tables, one sentence each: clips and videos in both splits, clips with two labels.

    `tables` are a data set's, by split. A video in both may be intended: a long one can be divided.
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
    """Distinct values of `columns` present in both tables."""
    sides = [table.select(columns).group_by(columns).aggregate([]) for table in (one, other)]
    return sides[0].join(sides[1], keys=columns, join_type="inner").sort_by(columns[0])


def _count(rows: pa.Table, what: str) -> str:
    return f"{rows.num_rows:,} {what}{'' if rows.num_rows == 1 else 's'}"
