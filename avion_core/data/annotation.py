"""State of annotating one data set, and the helpers with which layout readers write clip tables."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from avion_core.data.chunks import VideoLengths, durations_s
from avion_core.data.clips import write_clips
from avion_core.data.dropped import NO_CHUNKS, NO_LENGTH, NO_TEXT, OUTSIDE, DroppedClips
from avion_core.data.tables import SUFFIX
from avion_core.plain_text import plain

SHORTEST_S = 1 / 120
"""Clips that end up shorter after cutting are left out."""


Seconds = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True)
class Annotation:
    """Annotation of one layout: inputs, output folder, and the clips left out so far."""

    recipe: Mapping[str, Any]
    """Settings that affect the tables: `DatasetSettings.annotation_recipe`."""
    raw_dir: Path
    clips_dir: Path
    index: VideoLengths
    dropped: DroppedClips
    clips: dict[str, pa.Table] = field(default_factory=dict)
    """Clip tables written so far, by split."""

    def plain(self, table: str, texts: Iterable[str]) -> list[str]:
        """Texts on one line and without invisible characters; counts those it had to clean."""
        given = list(texts)
        shown = [text if text.isprintable() else plain(text) for text in given]
        self.dropped.cleaned[table] += sum(map(operator.ne, given, shown))
        return shown

    def write_trimmed_clips(
        self, split: str, video_ids: Sequence[str], labels: Sequence[int], lines: Sequence[int]
    ) -> None:
        """Publish a split whose clips are whole videos of one class each, read from these lines of a list."""
        length_s = [self.index.duration_s(name) if self.index.has(name) else 0.0 for name in video_ids]
        columns = whole_videos(video_ids, length_s, [f"line {line}" for line in lines])
        self.write_clips(split, pa.table(columns | {"label": pa.array(labels, pa.int32())}))

    def write_clips(self, split: str, table: pa.Table) -> None:
        """Publish a split's clips, except those without a text or without video."""
        kept, left_out, reasons = sound_clips(table, self.index)
        columns = {name: left_out[name] for name in ("video_id", "start_s", "end_s")}
        self.dropped.add(split, columns | {"annotation": left_out["narration_id"]}, reasons)
        write_clips(self.clips_dir / f"{split}{SUFFIX}", kept)
        self.clips[split] = kept


def sound_clips(table: pa.Table, index: VideoLengths) -> tuple[pa.Table, pa.Table, pa.Array]:
    """Clips to keep, cut to their video; clips left out, and the reason for each."""
    length_s = durations_s(table.column("video_id"), index)
    given_start_s, given_end_s = (table.column(name).to_numpy() for name in ("start_s", "end_s"))
    start_s, end_s = np.maximum(given_start_s, 0.0), np.minimum(given_end_s, length_s)
    problems = {
        NO_CHUNKS: np.isnan(length_s),
        NO_TEXT: _without_text(table),
        NO_LENGTH: given_end_s <= given_start_s,
        OUTSIDE: end_s - start_s < SHORTEST_S,
    }
    problem = np.select(list(problems.values()), range(len(problems)), default=-1)
    kept, left_out = problem < 0, problem >= 0
    cut = table
    for name, values in (("start_s", start_s), ("end_s", end_s)):
        cut = cut.set_column(cut.column_names.index(name), name, pa.array(values))
    reasons = pa.array(list(problems)).take(pa.array(problem[left_out]))
    return cut.filter(pa.array(kept)), table.filter(pa.array(left_out)), reasons


def _without_text(table: pa.Table) -> NDArray[np.bool_]:
    """Rows whose only text is empty; layouts with labels only have no texts."""
    if "source" not in table.column_names:
        return np.zeros(len(table), dtype=np.bool_)
    return np.asarray(pc.equal(pc.list_flatten(table.column("texts")), "").to_numpy(), dtype=np.bool_)


def one_text_each(texts: Sequence[str]) -> pa.ListArray:
    """A column of one-text lists."""
    return pa.ListArray.from_arrays(np.arange(len(texts) + 1, dtype=np.int32), pa.array(texts, pa.string()))


def whole_videos(
    video_ids: Sequence[str], end_s: Seconds, narration_ids: Sequence[str]
) -> dict[str, pa.Array]:
    """Columns of clips that are whole videos without texts."""
    return {
        "video_id": pa.array(video_ids, pa.string()),
        "start_s": pa.array(np.zeros(len(video_ids))),
        "end_s": pa.array(end_s, pa.float64()),
        "texts": pa.array([[] for _ in video_ids], pa.list_(pa.string())),
        "narration_id": pa.array(narration_ids, pa.string()),
    }


def human_clips(
    annotation: Annotation,
    split: str,
    video_ids: Sequence[str],
    start_s: Seconds,
    end_s: Seconds,
    texts: Sequence[str],
    narration_ids: Sequence[str],
) -> dict[str, pa.Array]:
    """Columns common to all layouts with sentences."""
    return {
        "video_id": pa.array(video_ids, pa.string()),
        "start_s": pa.array(start_s, pa.float64()),
        "end_s": pa.array(end_s, pa.float64()),
        "texts": one_text_each(annotation.plain(split, texts)),
        "narration_id": pa.array(narration_ids, pa.string()),
        "source": pa.array(["human"] * len(texts), pa.string()),
    }
