"""Clips left out by annotation: listed with their reasons, and counted by table and reason.

`clips/dropped.csv` has one row per clip: `table`, `annotation` (the `narration_id` of clip tables: the
owner's own, or the line of the file), `video_id`, `start_s`, `end_s`, `reason`. `clips/dropped.json` holds
the counts: `{"clips": n, "reasons": {reason: n}, "tables": {table: {reason: n}}}`, and, where there are any,
`"cleaned_texts": {table: n}`: texts from which line breaks and invisible characters were removed.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from avion_core.files import publish, write_json

COUNTS, LIST = "dropped.json", "dropped.csv"
"""Files in the folder of the clip tables."""

NO_CHUNKS = "the video has no chunks"
OUTSIDE = "the clip lies outside its video"
NO_LENGTH = "the clip does not end after its start"
NO_TEXT = "the narration has no text"
NOT_A_TIME = "the narration's time is not a number"
HELD_OUT = "the video belongs to a benchmark"
QUESTION = "a choice of the question has no chunks"
QUESTION_OUTSIDE = "a choice of the question lies outside its video"

ROWS = pa.schema(
    [
        ("table", pa.string()),
        ("annotation", pa.string()),
        ("video_id", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("reason", pa.string()),
    ]
)
"""Columns of the list."""


class DroppedClips:
    """Clips of a data set left out so far."""

    def __init__(self) -> None:
        self._rows: list[pa.Table] = []
        self.cleaned: Counter[str] = Counter()
        """Texts with line breaks or invisible characters, by table."""

    def add(self, table: str, columns: Mapping[str, pa.Array], reason: pa.Array | str) -> None:
        """Record clips of one table: columns of ROWS (absent ones stay empty), one reason or one each."""
        count = len(columns["annotation"])
        if not count:
            return
        given = {**columns, "table": pa.repeat(table, count)}
        given["reason"] = pa.repeat(reason, count) if isinstance(reason, str) else reason
        arrays = [given[field.name] if field.name in given else pa.nulls(count, field.type) for field in ROWS]
        self._rows.append(pa.table(arrays, names=ROWS.names).cast(ROWS))

    def reasons(self) -> Counter[str]:
        """Number of clips left out for each reason, over all tables."""
        return sum(self._by_table().values(), Counter())

    def publish(self, folder: Path) -> None:
        """Write the list and the counts into the folder of the clip tables."""
        with publish(folder / LIST) as draft:
            pa.csv.write_csv(pa.concat_tables([ROWS.empty_table(), *self._rows]), draft)
        reasons = self.reasons()
        counts = {"clips": reasons.total(), "reasons": dict(reasons)}
        by_table = {table: dict(counter) for table, counter in self._by_table().items()}
        cleaned = {table: count for table, count in self.cleaned.items() if count}
        told = {"cleaned_texts": cleaned} if cleaned else {}
        write_json(folder / COUNTS, {**counts, "tables": by_table, **told})
        if cleaned:
            listed = "; ".join(f"{table}: {count:,}" for table, count in cleaned.items())
            print(f"line breaks and invisible characters removed from texts ({listed})", file=sys.stderr)
        if reasons:
            listed = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common())
            print(f"clips left out, listed in {folder / LIST}: {listed}", file=sys.stderr)

    def _by_table(self) -> dict[str, Counter[str]]:
        counts: dict[str, Counter[str]] = {}
        for rows in self._rows:
            for entry in pc.value_counts(rows["reason"]).to_pylist():
                counts.setdefault(rows["table"][0].as_py(), Counter())[entry["values"]] += entry["counts"]
        return counts


def dropped_videos(folder: Path) -> dict[str, set[str]]:
    """Videos that lost clips, by table, from the list in `folder`; empty if an older version wrote none."""
    if not (folder / LIST).is_file():
        return {}
    rows = pa.csv.read_csv(folder / LIST, convert_options=pa.csv.ConvertOptions(column_types=ROWS))
    found: dict[str, set[str]] = {}
    for entry in rows.select(["table", "video_id"]).group_by(["table", "video_id"]).aggregate([]).to_pylist():
        found.setdefault(entry["table"], set()).add(entry["video_id"])
    return found
