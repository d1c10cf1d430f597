"""The schema of the chunk index, its one home: transcoding writes the table, the loader reads it.

One row a chunk, sorted by (video_id, chunk). Frame k of a video is shown at k * fps_den / fps_num
seconds; `start_frame` is the number of the chunk's first frame within its video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from avion_core.files import publish

CHUNK_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("chunk", pa.int32()),  # 0, 1, …
        ("start_frame", pa.int64()),
        ("frames", pa.int32()),
        ("fps_num", pa.int32()),
        ("fps_den", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("path", pa.string()),
    ]
)


def write_chunk_table(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Publish rows (a mapping each, with the schema's columns) as Parquet, sorted."""
    ordered = sorted(rows, key=lambda row: (row["video_id"], row["chunk"]))
    with publish(path) as draft:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in ordered], schema=CHUNK_SCHEMA), draft)


def read_chunk_table(path: str | Path) -> pa.Table:
    """The table of a chunk index. Raises ValueError, naming the file, if it is not one."""
    try:
        table = pq.read_table(path, memory_map=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such chunk index; run the stage `transcode` first") from None
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a Parquet file ({error})") from None
    if not table.schema.equals(CHUNK_SCHEMA):
        raise ValueError(f"{path}: not a chunk index; its columns are {', '.join(table.column_names)}")
    return table
