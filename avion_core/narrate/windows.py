"""Which clips are narrated from their frames: those with human narrations, and windows between them.

Windows cover the stretches of a video without narrations, so that every frame is in a clip or a window. No
window has a frame of a clip that is held out for evaluation, and only videos with narrated clips get windows:
others may be of another split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import CLIPS, read_places
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
Seconds = tuple[float, float]
"""Start and end within a video."""
Range = tuple[int, int]
"""First frame and one past the last."""


def clips_and_windows(
    clips: Path,
    chunks: ChunkIndex,
    *,
    held_out: Sequence[Path] = (),
    window_seconds: float | None,
    step_seconds: float,
) -> pa.Table:
    """The clips of a clip table, and windows over the stretches between them: PLACES by video and time.

    Windows leave out the clips of the tables `held_out`. Without `window_seconds` there are no windows.
    """
    columns = [name for name in PLACES.names if name in (table := map_table(clips, CLIPS)).column_names]
    found = table.select(columns)
    if "narration_id" not in columns:
        found = found.append_column("narration_id", pa.nulls(len(found), pa.string()))
    if window_seconds is not None:
        spared = dict(_by_video(read_places(*held_out))) if held_out else {}
        made = pa.Table.from_batches(
            _windows(found, chunks, spared, window_seconds=window_seconds, step_seconds=step_seconds), PLACES
        )
        found = pa.concat_tables([found.cast(PLACES), made])
    order = [("video_id", "ascending"), ("start_s", "ascending"), ("end_s", "ascending")]
    return found.cast(PLACES).combine_chunks().sort_by([*order, ("narration_id", "ascending")])


def _windows(
    clips: pa.Table,
    chunks: ChunkIndex,
    spared: Mapping[str, Sequence[Seconds]],
    *,
    window_seconds: float,
    step_seconds: float,
) -> Iterator[pa.RecordBatch]:
    """The windows of each video that has clips and chunks, without the stretches to be `spared`."""
    for name, places in _by_video(clips):
        if not chunks.has(name):
            continue
        fps, frame_count = float(chunks.fps(name)), chunks.frame_count(name)
        ranges, held_out = (
            [frame_range(*place, fps=fps, frame_count=frame_count) for place in own]
            for own in (places, spared.get(name, ()))
        )
        window, step = (max(1, round(fps * s)) for s in (window_seconds, step_seconds))
        made = uncovered_windows(
            ranges, held_out=held_out, frame_count=frame_count, window=window, step=min(step, window)
        )
        frames = np.array(made, np.float64).reshape(-1, 2)
        yield pa.record_batch(
            [
                pa.array([name] * len(made), pa.string()),
                *(pa.array(side) for side in (frames / fps).T),
                pa.nulls(len(made), pa.string()),
            ],
            schema=PLACES,
        )


def _by_video(clips: pa.Table) -> Iterator[tuple[str, list[Seconds]]]:
    """Each video with its clips."""
    by_video = clips.group_by("video_id").aggregate([("start_s", "list"), ("end_s", "list")])
    for batch in by_video.to_batches():
        columns = [batch.column(name) for name in ("video_id", "start_s_list", "end_s_list")]
        for video_id, starts_s, ends_s in zip(*columns, strict=True):
            yield video_id.as_py(), list(zip(starts_s.as_py(), ends_s.as_py(), strict=True))


def uncovered_windows(
    clips: Sequence[Range], *, held_out: Sequence[Range] = (), frame_count: int, window: int, step: int
) -> list[Range]:
    """Windows of `window` frames, `step` apart, over the frames of a video that are in no clip.

    Ranges of frames are half-open. No window has a frame that is `held_out`: each part of the video between
    those is treated like a video of its own.
    """
    windows: list[Range] = []
    for first, end in _stretches(held_out, frame_count):
        inside = [(max(a, first) - first, min(b, end) - first) for a, b in clips if a < end and b > first]
        made = _windows_of_part(inside, frame_count=end - first, window=window, step=step)
        windows += [(a + first, b + first) for a, b in made]
    return windows


def _windows_of_part(clips: Sequence[Range], *, frame_count: int, window: int, step: int) -> list[Range]:
    """Windows of a part of a video, in frames from its start.

    A window that would extend beyond its stretch is moved back to end with it, if the stretch is long enough;
    otherwise it begins with it, or ends with the part. Windows are shorter than `window` only in a shorter
    part.
    """
    windows: list[Range] = []
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


def _stretches(clips: Sequence[Range], frame_count: int) -> Iterator[Range]:
    """Ranges of frames that are in no clip, in order."""
    reached = 0
    for start, end in [*sorted(clips), (frame_count, frame_count)]:
        if start > reached:
            yield reached, start
        reached = max(reached, end)


def are_windows(places: pa.Table) -> pa.ChunkedArray:
    """Whether each clip is a window rather than a narrated clip."""
    return pc.is_null(places["narration_id"])
