"""Training clips of the layout `ego4d` as LaViLa or EgoVLP published them, times and texts unchanged."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avion_core.data.annotation import Annotation, one_text_each
from avion_core.data.clips import CLIPS
from avion_core.data.dropped import NOT_A_TIME
from avion_core.data.egoclip import EGOCLIP, read_egoclip_clips
from avion_core.data.published_text import EGO4D_TRAIN, read_rows
from avion_core.data.source_videos import SourceError


def published_clips(annotation: Annotation, name: str, held_out: Collection[str]) -> pa.Table:
    """Rows of the published file `name` in the raw folder, in its order, as a clip table of human texts.

    Rows whose times are not numbers are left out and listed. Rows of `held_out` videos are kept, as they were
    published, and counted in the log. Raises SourceError if the file cannot be read.
    """
    table = _READERS[name](annotation.raw_dir / name)
    finite = pa.array(np.isfinite(table["start_s"].to_numpy()) & np.isfinite(table["end_s"].to_numpy()))
    left_out = table.filter(pc.invert(finite))
    columns = {"annotation": left_out["narration_id"]} | {
        key: left_out[key] for key in ("video_id", "start_s", "end_s")
    }
    annotation.dropped.add("train", columns, NOT_A_TIME)
    table = table.filter(finite)
    theirs = pc.sum(pc.is_in(table["video_id"], pa.array(sorted(held_out), pa.string()))).as_py() or 0
    if theirs:
        print(
            f"{name}: {theirs} clips are of videos that a benchmark holds out; kept, as published",
            file=sys.stderr,
        )
    pieces = pc.list_flatten(table["texts"]).chunks  # one at a time: all as Python's would take a gigabyte
    texts = [one_text_each(annotation.plain("train", piece.to_pylist())) for piece in pieces]
    column = pa.chunked_array(texts, CLIPS.field("texts").type)
    table = table.set_column(table.column_names.index("texts"), "texts", column)
    return table.append_column("source", pa.repeat("human", len(table)))


def _of_lavila(path: Path) -> pa.Table:
    batches, first = [], 0
    for batch in read_rows(path, "human"):
        numbers = pa.array([f"row {row}" for row in range(first, first + len(batch))], pa.string())
        batches.append(batch.append_column("narration_id", numbers))
        first += len(batch)
    if not batches:
        raise SourceError(f"{path}: it has no rows; use the published file")
    return pa.Table.from_batches(batches)


def _of_egovlp(path: Path) -> pa.Table:
    clips, malformed = read_egoclip_clips(path)
    print(f"{path.name}: {malformed} malformed lines skipped of {len(clips) + malformed}", file=sys.stderr)
    return clips


_READERS: Mapping[str, Callable[[Path], pa.Table]] = {EGO4D_TRAIN: _of_lavila, EGOCLIP: _of_egovlp}
