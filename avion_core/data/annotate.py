"""The rule `annotate`: each layout's own annotations become clip tables of one schema.

Clips are held against the chunk index: those whose video has no chunks (quarantined, or not on disk)
are left out and counted, the others are cut to their video's length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from avion_core.config import DatasetSettings, Layout
from avion_core.data import ego4d, ek100, folder, kinetics
from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import write_clips, write_questions, write_sentences
from avion_core.data.sources import SourceError, video_id_of
from avion_core.data.tables import SUFFIX, row_count
from avion_core.files import write_json

NO_CHUNKS = "the video has no chunks"
OUTSIDE = "the clip lies outside its video"
HELD_OUT = "the video belongs to a benchmark"
QUESTION = "a choice of the question has no chunks"

SHORTEST_S = 1 / 120
"""Clips that their video cuts to less are left out."""


Seconds = Sequence[float] | NDArray[np.float64]


class Watchable(Protocol):
    """The part of the chunk index that annotation asks."""

    def has(self, video_id: str) -> bool: ...
    def duration_s(self, video_id: str) -> float: ...


@dataclass(frozen=True)
class Task:
    """One layout's annotation: where from, where to, and what was left out so far."""

    settings: DatasetSettings
    raw_dir: Path
    clips_dir: Path
    index: Watchable
    dropped: Counter[str]

    def write_clips(self, split: str, table: pa.Table) -> None:
        """Publish a split's clips, less those that cannot be watched."""
        kept, dropped = watchable_clips(table, self.index)
        self.dropped.update(dropped)
        write_clips(self.clips_dir / f"{split}{SUFFIX}", kept)


def annotate(
    dataset: str,
    *,
    layout: Layout,
    settings: DatasetSettings,
    raw_dir: Path,
    videos: Path,
    chunks: Path,
    clips_dir: Path,
) -> None:
    """Write `<split>.arrow` and the layout's further tables into `clips_dir`.

    `dropped.json` there says how many clips were left out and why. `videos` is the list of source videos,
    `chunks` the chunk index. Raises SourceError, naming the data set, when annotations cannot be read or
    no training clip is left.
    """
    task = Task(settings, raw_dir, clips_dir, ChunkIndex.load(chunks), Counter())
    try:
        LAYOUTS[layout](task)
    except SourceError as error:
        raise SourceError(f"data set '{dataset}': {error}") from None
    if row_count(clips_dir / f"train{SUFFIX}") == 0:
        count = pq.read_metadata(videos).num_rows
        reasons = "; ".join(f"{reason}: {number}" for reason, number in task.dropped.items())
        raise SourceError(f"data set '{dataset}': no training clip is left, of {count} videos ({reasons})")
    write_json(clips_dir / "dropped.json", {"clips": task.dropped.total(), "reasons": dict(task.dropped)})


def watchable_clips(table: pa.Table, index: Watchable) -> tuple[pa.Table, Counter[str]]:
    """The clips whose video has chunks, cut to their video, and how many were left out for which reason."""
    if table.num_rows == 0:
        return table, Counter()
    coded = table.column("video_id").dictionary_encode().combine_chunks()
    lengths = [index.duration_s(name) if index.has(name) else np.nan for name in coded.dictionary.to_pylist()]
    length_s = np.asarray(lengths, dtype=np.float64)[coded.indices.to_numpy()]
    start_s = np.maximum(table.column("start_s").to_numpy(), 0.0)
    end_s = np.minimum(table.column("end_s").to_numpy(), length_s)
    there = ~np.isnan(length_s)
    inside = there & (end_s - start_s >= SHORTEST_S)
    for name, values in (("start_s", start_s), ("end_s", end_s)):
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    reasons = {NO_CHUNKS: int((~there).sum()), OUTSIDE: int((there & ~inside).sum())}
    return table.filter(pa.array(inside)), Counter({reason: n for reason, n in reasons.items() if n})


def one_text_each(texts: Sequence[str]) -> pa.ListArray:
    """A column of lists with one text each."""
    return pa.ListArray.from_arrays(np.arange(len(texts) + 1, dtype=np.int32), pa.array(texts, pa.string()))


def _human_clips(
    video_ids: Sequence[str], start_s: Seconds, end_s: Seconds, texts: Sequence[str]
) -> dict[str, pa.Array]:
    """The columns that every layout with sentences has."""
    return {
        "video_id": pa.array(video_ids, pa.string()),
        "start_s": pa.array(start_s, pa.float64()),
        "end_s": pa.array(end_s, pa.float64()),
        "texts": one_text_each(texts),
        "source": pa.array(["human"] * len(texts), pa.string()),
    }


def annotate_ego4d(task: Task) -> None:
    """Narrations of both passes by the EgoClip rule; EgoMCQ."""
    questions = ego4d.read_egomcq(task.raw_dir)
    held_out = ego4d.held_out_videos(task.raw_dir)
    everything = ego4d.read_narrations(ego4d.narration_path(task.raw_dir))
    passes = [entry for entry in everything if entry.video_uid not in held_out]
    left_out = sum(len(entry.texts) for entry in everything) - sum(len(entry.texts) for entry in passes)
    if left_out:
        task.dropped[HELD_OUT] += left_out
    windows = ego4d.egoclip_windows(passes)
    columns = _human_clips(
        [entry.video_uid for entry in passes for _ in entry.texts],
        np.concatenate([start for start, _ in windows]) if windows else np.zeros(0),
        np.concatenate([end for _, end in windows]) if windows else np.zeros(0),
        [text for entry in passes for text in entry.texts],
    )
    columns["narration_id"] = pa.array([uid for entry in passes for uid in entry.uids], pa.string())
    task.write_clips("train", pa.table(columns))
    known = [question for question in questions if all(map(task.index.has, question.video_ids))]
    if len(known) < len(questions):
        task.dropped[QUESTION] += len(questions) - len(known)
    write_questions(task.clips_dir / f"egomcq{SUFFIX}", [vars(question) for question in known])


def annotate_ek100(task: Task) -> None:
    """Both splits, the sentences of multi-instance retrieval, and the class lists."""
    segments = {split: ek100.read_segments(task.raw_dir / name) for split, name in ek100.SPLITS.items()}
    actions = ek100.action_classes(*segments.values())
    label = {name: number for number, name in enumerate(actions)}
    for split, rows in segments.items():
        columns = _human_clips(
            [row.video_id for row in rows],
            [row.start_s for row in rows],
            [row.end_s for row in rows],
            [row.text for row in rows],
        )
        columns |= {
            "narration_id": pa.array([row.narration_id for row in rows], pa.string()),
            "verb": pa.array([row.verb for row in rows], pa.int32()),
            "noun": pa.array([row.noun for row in rows], pa.int32()),
            "nouns": pa.array([list(row.nouns) for row in rows], pa.list_(pa.int32())),
            "label": pa.array([label[row.action] for row in rows], pa.int32()),
        }
        task.write_clips(split, pa.table(columns))
    by_id = {row.narration_id: row for rows in segments.values() for row in rows}
    for split, name in ek100.SENTENCES.items():
        sentences = ek100.read_sentences(task.raw_dir / name, by_id)
        write_sentences(task.clips_dir / f"sentences_{split}{SUFFIX}", sentences)
    classes = {kind: ek100.read_class_list(task.raw_dir / name) for kind, name in ek100.CLASSES.items()}
    names = {kind: [entry.key for entry in entries] for kind, entries in classes.items()}
    write_json(task.clips_dir / "classes.json", {**names, "action": actions})


def annotate_kinetics(task: Task) -> None:
    """Whole trimmed clips with their class."""
    classes = kinetics.read_classes(task.raw_dir)
    for split, name in kinetics.LISTS.items():
        entries = kinetics.read_list(task.raw_dir / name, classes=len(classes))
        watched = [entry.video_id for entry in entries]
        length_s = [task.index.duration_s(video) if task.index.has(video) else 0.0 for video in watched]
        columns = {
            "video_id": pa.array(watched, pa.string()),
            "start_s": pa.array(np.zeros(len(entries))),
            "end_s": pa.array(length_s, pa.float64()),
            "texts": pa.array([[] for _ in entries], pa.list_(pa.string())),
            "label": pa.array([entry.label for entry in entries], pa.int32()),
        }
        task.write_clips(split, pa.table(columns))
    write_json(task.clips_dir / "classes.json", {"label": classes})


def annotate_folder(task: Task) -> None:
    """The user's narrations; without a `split` in the CSV, whole videos are held out by their names."""
    assert task.settings.folder is not None
    fraction = task.settings.folder.validation_fraction
    narrations = folder.read_narrations(task.raw_dir / folder.NARRATIONS, videos=None)
    splits = [row.split or folder.split_of(row.video, validation_fraction=fraction) for row in narrations]
    for split in folder.SPLITS:
        rows = [row for row, chosen in zip(narrations, splits, strict=True) if chosen == split]
        columns = _human_clips(
            [video_id_of(row.video) for row in rows],
            [row.start_s for row in rows],
            [row.end_s for row in rows],
            [row.text for row in rows],
        )
        columns["narration_id"] = pa.array([f"line {row.line}" for row in rows], pa.string())
        task.write_clips(split, pa.table(columns))


LAYOUTS: dict[str, Callable[[Task], None]] = {
    "ego4d": annotate_ego4d,
    "ek100": annotate_ek100,
    "kinetics": annotate_kinetics,
    "folder": annotate_folder,
}
"""What turns each layout's annotations into tables."""
