"""Which clips are narrated from their frames: those with human narrations, and windows between them.

Windows cover the stretches of a video without narrations, so that every frame is in a clip or a window. Only
videos with narrated clips get any: others may be of another split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import CLIPS
from avion_core.data.tables import map_table
from avion_core.media.sample import frame_range

PLACES = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("narration_id", pa.string()),
    ]
)
"""A clip to narrate; a window has no `narration_id`."""


def clips_and_windows(
    clips: Path, chunks: ChunkIndex, *, window_seconds: float | None, step_seconds: float
) -> pa.Table:
    """The clips of a clip table, and windows over the stretches between them: PLACES by video and time.

    Without `window_seconds` there are no windows.
    """
    columns = [name for name in PLACES.names if name in (table := map_table(clips, CLIPS)).column_names]
    found = table.select(columns)
    if "narration_id" not in columns:
        found = found.append_column("narration_id", pa.nulls(len(found), pa.string()))
    if window_seconds is not None:
        made = pa.Table.from_batches(
            _windows(found, chunks, window_seconds=window_seconds, step_seconds=step_seconds), PLACES
        )
        found = pa.concat_tables([found.cast(PLACES), made])
    order = [("video_id", "ascending"), ("start_s", "ascending"), ("end_s", "ascending")]
    return found.cast(PLACES).combine_chunks().sort_by([*order, ("narration_id", "ascending")])


def _windows(
    clips: pa.Table, chunks: ChunkIndex, *, window_seconds: float, step_seconds: float
) -> Iterator[pa.RecordBatch]:
    """The windows of each video that has clips and chunks."""
    by_video = clips.group_by("video_id").aggregate([("start_s", "list"), ("end_s", "list")])
    for row in by_video.to_batches():
        for video_id, starts_s, ends_s in zip(*(row.column(name) for name in row.schema.names), strict=True):
            name = video_id.as_py()
            if not chunks.has(name):
                continue
            fps, frame_count = chunks.fps(name), chunks.frame_count(name)
            ranges = [
                frame_range(start_s, end_s, fps=float(fps), frame_count=frame_count)
                for start_s, end_s in zip(starts_s.as_py(), ends_s.as_py(), strict=True)
            ]
            window, step = (max(1, round(float(fps) * s)) for s in (window_seconds, step_seconds))
            made = uncovered_windows(ranges, frame_count=frame_count, window=window, step=min(step, window))
            frames = np.array(made, np.float64).reshape(-1, 2)
            yield pa.record_batch(
                [
                    pa.array([name] * len(made), pa.string()),
                    *(pa.array(side) for side in (frames / float(fps)).T),
                    pa.nulls(len(made), pa.string()),
                ],
                schema=PLACES,
            )


def uncovered_windows(
    clips: Sequence[tuple[int, int]], *, frame_count: int, window: int, step: int
) -> list[tuple[int, int]]:
    """Windows of `window` frames, `step` apart, over the frames of a video that no clip covers.

    `clips` and the result are half-open ranges of frames. A window that would extend beyond its stretch is
    moved back to end with it, if the stretch is long enough; otherwise it begins with it, or ends with the
    video. Windows are shorter than `window` only in a shorter video.
    """
    windows: list[tuple[int, int]] = []
    covered = 0
    for start, end in _stretches(clips, frame_count):
        place = max(start, covered)
        while covered < end:
            if place + window > end:
                place = max(start, end - window)
            place = max(0, min(place, frame_count - window))
            covered = min(place + window, frame_count)
            windows.append((place, covered))
            place = min(place + step, covered)
    return windows


def _stretches(clips: Sequence[tuple[int, int]], frame_count: int) -> Iterator[tuple[int, int]]:
    """Ranges of frames that are in no clip, in order."""
    reached = 0
    for start, end in [*sorted(clips), (frame_count, frame_count)]:
        if start > reached:
            yield reached, start
        reached = max(reached, end)


def are_windows(places: pa.Table) -> pa.ChunkedArray:
    """Whether each clip is a window rather than a narrated clip."""
    return pc.is_null(places["narration_id"])
