"""Schema of the chunk index, which transcoding writes and the loader reads.

One row per chunk, sorted by (video_id, chunk). Frame k of a video is shown at k * fps_den / fps_num
seconds; `start_frame` is the number of the chunk's first frame within its video. The packets of all
chunks (`avion_core.media.packets`) are in `packets.npy` beside the table, one per frame from `first_packet`
on. A chunk without a codec has none there; its file is opened instead.
Paths (`avion_core.media.file_table`) are relative to the table's folder on disk and absolute in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from avion_core.media.file_table import is_relocatable, read_file_table, write_file_table

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
        ("codec", pa.string()),
        ("extradata", pa.binary()),
        ("first_packet", pa.int64()),
    ]
)


def write_chunk_table(path: str | Path, rows: pa.Table | Sequence[Mapping[str, Any]]) -> None:
    """Publish rows (a table, or mappings with the schema's columns) as sorted Parquet."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=CHUNK_SCHEMA)
    write_file_table(path, table.sort_by([("video_id", "ascending"), ("chunk", "ascending")]))


def read_chunk_table(path: str | Path) -> pa.Table:
    """Read the table of a chunk index. Raises ValueError, naming the file, if it is not one."""
    try:
        table = read_file_table(path, memory_map=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such chunk index; run the stage `transcode` first") from None
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a Parquet file ({error})") from None
    if not table.schema.equals(CHUNK_SCHEMA):
        raise ValueError(f"{path}: not a chunk index; its columns are {', '.join(table.column_names)}")
    if table.num_rows and not is_relocatable(table) and not Path(table["path"][0].as_py()).exists():
        raise ValueError(
            f"{path}: an earlier version wrote this index with paths relative to the directory it ran in; "
            f"there is no {table['path'][0]}. Start from that directory, or index the chunks again with "
            "`snakemake --cores 2 transcode --forcerun transcode_videos`"
        )
    return table
