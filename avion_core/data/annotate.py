"""The rule `annotate`: each layout's own annotations become clip tables of one schema.

Clips are held against the chunk index: those whose video has no chunks (quarantined, or not on disk)
are left out and listed (`avion_core.data.dropped`), the others are cut to their video's length.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from avion_core.data import ego4d, ek100, folder, kinetics
from avion_core.data.chunks import ChunkIndex, VideoLengths, durations_s
from avion_core.data.clips import Question, write_clips, write_questions, write_sentences
from avion_core.data.dropped import (
    HELD_OUT,
    NO_CHUNKS,
    NO_LENGTH,
    NO_TEXT,
    NOT_A_TIME,
    OUTSIDE,
    QUESTION,
    QUESTION_OUTSIDE,
    DroppedClips,
)
from avion_core.data.repeats import repeats
from avion_core.data.source_videos import SourceError, video_id_of
from avion_core.data.tables import SUFFIX, row_count
from avion_core.files import write_json
from avion_core.plain_text import plain

SHORTEST_S = 1 / 120
"""Clips that their video cuts to less are left out."""


Seconds = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """One layout's annotation: where from, where to, and what was left out so far."""

    recipe: Mapping[str, Any]
    """Settings that decide the tables beside the files: `DatasetSettings.annotation_recipe`."""
    raw_dir: Path
    clips_dir: Path
    index: VideoLengths
    dropped: DroppedClips
    clips: dict[str, pa.Table] = field(default_factory=dict)
    """Clip tables that were written, by split."""

    def plain(self, table: str, texts: Iterable[str]) -> list[str]:
        """Texts for a table, on one line and of visible characters alone; counts those that were not."""
        given = list(texts)
        shown = [text if text.isprintable() else plain(text) for text in given]
        self.dropped.cleaned[table] += sum(map(operator.ne, given, shown))
        return shown

    def write_clips(self, split: str, table: pa.Table) -> None:
        """Publish a split's clips, less those without a text and those that cannot be watched."""
        kept, left_out, reasons = sound_clips(table, self.index)
        columns = {name: left_out[name] for name in ("video_id", "start_s", "end_s")}
        self.dropped.add(split, columns | {"annotation": left_out["narration_id"]}, reasons)
        write_clips(self.clips_dir / f"{split}{SUFFIX}", kept)
        self.clips[split] = kept


def annotate(
    dataset: str,
    *,
    recipe: Mapping[str, Any],
    raw_dir: Path,
    videos: Path,
    chunks: Path,
    clips_dir: Path,
) -> None:
    """Write `<split>.arrow` and the layout's further tables into `clips_dir`.

    `dropped.csv` there lists the clips that were left out, `dropped.json` counts them. `videos` is the list
    of source videos, `chunks` the chunk index. Raises SourceError, naming the data set, when annotations
    cannot be read or no training clip is left.
    """
    task = Task(recipe, raw_dir, clips_dir, ChunkIndex.load(chunks), DroppedClips())
    try:
        LAYOUTS[recipe["layout"]](task)
    except SourceError as error:
        raise SourceError(f"data set '{dataset}': {error}") from None
    task.dropped.publish(clips_dir)
    for sentence in repeats(task.clips):
        print(f"data set '{dataset}': {sentence}", file=sys.stderr)
    if row_count(clips_dir / f"train{SUFFIX}") == 0:
        count = pq.read_metadata(videos).num_rows
        reasons = "; ".join(f"{reason}: {number}" for reason, number in task.dropped.reasons().items())
        raise SourceError(f"data set '{dataset}': no training clip is left, of {count} videos ({reasons})")


def sound_clips(table: pa.Table, index: VideoLengths) -> tuple[pa.Table, pa.Table, pa.Array]:
    """The clips to keep, cut to their video; the others as they were, and the reason for each of them."""
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
    """Rows whose only text is empty; layouts with labels alone have no texts."""
    if "source" not in table.column_names:
        return np.zeros(len(table), dtype=np.bool_)
    return np.asarray(pc.equal(pc.list_flatten(table.column("texts")), "").to_numpy(), dtype=np.bool_)


def one_text_each(texts: Sequence[str]) -> pa.ListArray:
    """A column of lists with one text each."""
    return pa.ListArray.from_arrays(np.arange(len(texts) + 1, dtype=np.int32), pa.array(texts, pa.string()))


def _human_clips(
    task: Task,
    split: str,
    video_ids: Sequence[str],
    start_s: Seconds,
    end_s: Seconds,
    texts: Sequence[str],
    narration_ids: Sequence[str],
) -> dict[str, pa.Array]:
    """The columns that every layout with sentences has."""
    return {
        "video_id": pa.array(video_ids, pa.string()),
        "start_s": pa.array(start_s, pa.float64()),
        "end_s": pa.array(end_s, pa.float64()),
        "texts": one_text_each(task.plain(split, texts)),
        "narration_id": pa.array(narration_ids, pa.string()),
        "source": pa.array(["human"] * len(texts), pa.string()),
    }


def annotate_ego4d(task: Task) -> None:
    """Narrations of both passes by the EgoClip rule; EgoMCQ."""
    questions = ego4d.read_egomcq(task.raw_dir)
    metadata = ego4d.read_metadata(task.raw_dir, allow_missing=task.recipe["allow_missing_ego4d_json"])
    held_out = metadata.held_out.union(*(question.video_ids for question in questions))
    narrated = ego4d.read_narrations(ego4d.narration_path(task.raw_dir))
    unknown = {entry.video_uid for entry in narrated} - metadata.known
    if unknown:
        print(
            f"{len(unknown)} narrated videos are in no {ego4d.METADATA}: they are trained on, "
            f"whether benchmarks have them or not",
            file=sys.stderr,
        )
    # A video's length is that of its chunks, else that in ego4d.json. Without either, a bad time cannot be
    # told from a good one, so the video's gaps do not count in α.
    lengths_s = metadata.lengths_s | {
        entry.video_uid: task.index.duration_s(entry.video_uid)
        for entry in narrated
        if task.index.has(entry.video_uid)
    }
    passes = [
        _narrations_within(task, entry, lengths_s.get(entry.video_uid, np.inf))
        for entry in _without_benchmarks(task, narrated, held_out)
    ]
    alpha_s = ego4d.mean_gap_s([entry for entry in passes if entry.video_uid in lengths_s])
    windows = ego4d.egoclip_windows(passes, alpha_s=alpha_s)
    columns = _human_clips(
        task,
        "train",
        [entry.video_uid for entry in passes for _ in entry.texts],
        np.concatenate([start for start, _ in windows]) if windows else np.zeros(0),
        np.concatenate([end for _, end in windows]) if windows else np.zeros(0),
        [text for entry in passes for text in entry.texts],
        [uid for entry in passes for uid in entry.uids],
    )
    task.write_clips("train", pa.table(columns))
    _write_questions(task, questions)


def _without_benchmarks(
    task: Task, passes: Sequence[ego4d.NarrationPass], held_out: frozenset[str]
) -> list[ego4d.NarrationPass]:
    for entry in passes:
        if entry.video_uid in held_out:
            _drop_narrations(task, entry, HELD_OUT)
    return [entry for entry in passes if entry.video_uid not in held_out]


def _narrations_within(task: Task, entry: ego4d.NarrationPass, length_s: float) -> ego4d.NarrationPass:
    """The narrations of a pass whose time is one of the video's."""
    number = np.isfinite(entry.times_s)
    inside = number & (entry.times_s >= 0) & (entry.times_s <= length_s)
    if inside.all():
        return entry
    _drop_narrations(task, entry.select(~number), NOT_A_TIME)
    _drop_narrations(task, entry.select(number & ~inside), OUTSIDE)
    return entry.select(inside)


def _drop_narrations(task: Task, entry: ego4d.NarrationPass, reason: str) -> None:
    time_s = pa.array(np.where(np.isfinite(entry.times_s), entry.times_s, np.nan), from_pandas=True)
    videos = pa.repeat(entry.video_uid, len(entry.uids))
    columns = {"annotation": pa.array(entry.uids, pa.string()), "video_id": videos}
    task.dropped.add("train", columns | {"start_s": time_s, "end_s": time_s}, reason)


def _write_questions(task: Task, questions: Sequence[Question]) -> None:
    """Publish the questions whose choices can all be watched."""
    problems = [_problem(question, task.index) for question in questions]
    dropped = [
        (f"question {question.question_id}", problem)
        for question, problem in zip(questions, problems, strict=True)
        if problem
    ]
    names, reasons = (pa.array([entry[place] for entry in dropped], pa.string()) for place in (0, 1))
    task.dropped.add("egomcq", {"annotation": names}, reasons)
    known = [question for question, problem in zip(questions, problems, strict=True) if not problem]
    texts = task.plain("egomcq", (question.text for question in known))
    rows = [vars(question) | {"text": text} for question, text in zip(known, texts, strict=True)]
    write_questions(task.clips_dir / f"egomcq{SUFFIX}", rows)


def _problem(question: Question, index: VideoLengths) -> str | None:
    """Why a question is left out, None if it is not."""
    if not all(map(index.has, question.video_ids)):
        return QUESTION
    if any(
        max(start_s, 0.0) + SHORTEST_S > index.duration_s(video)
        for video, start_s in zip(question.video_ids, question.starts_s, strict=True)
    ):
        return QUESTION_OUTSIDE
    return None


def annotate_ek100(task: Task) -> None:
    """Both splits, the sentences of multi-instance retrieval, and the class lists."""
    annotations = ek100.read_annotations(task.raw_dir)
    actions = ek100.action_classes(*annotations.segments.values())
    label = {name: number for number, name in enumerate(actions)}
    for split, rows in annotations.segments.items():
        columns = _human_clips(
            task,
            split,
            [row.video_id for row in rows],
            [row.start_s for row in rows],
            [row.end_s for row in rows],
            [row.text for row in rows],
            [row.narration_id for row in rows],
        )
        columns |= {
            "verb": pa.array([row.verb for row in rows], pa.int32()),
            "noun": pa.array([row.noun for row in rows], pa.int32()),
            "nouns": pa.array([list(row.nouns) for row in rows], pa.list_(pa.int32())),
            "label": pa.array([label[row.action] for row in rows], pa.int32()),
        }
        task.write_clips(split, pa.table(columns))
    for split, sentences in annotations.sentences.items():
        table = f"sentences_{split}"
        texts = task.plain(table, (row["text"] for row in sentences))
        shown = [row | {"text": text} for row, text in zip(sentences, texts, strict=True)]
        write_sentences(task.clips_dir / f"{table}{SUFFIX}", shown)
    classes = {"verb": annotations.verbs, "noun": annotations.nouns}
    names = {kind: [plain(entry.key) for entry in entries] for kind, entries in classes.items()}
    write_json(task.clips_dir / "classes.json", {**names, "action": actions})


def annotate_kinetics(task: Task) -> None:
    """Whole trimmed clips with their class."""
    classes = kinetics.read_classes(task.raw_dir)
    for split in kinetics.LISTS:
        entries = kinetics.read_list(kinetics.list_path(task.raw_dir, split), classes=classes)
        watched = [entry.video_id for entry in entries]
        length_s = [task.index.duration_s(video) if task.index.has(video) else 0.0 for video in watched]
        columns = {
            "video_id": pa.array(watched, pa.string()),
            "start_s": pa.array(np.zeros(len(entries))),
            "end_s": pa.array(length_s, pa.float64()),
            "texts": pa.array([[] for _ in entries], pa.list_(pa.string())),
            "narration_id": pa.array([f"line {entry.line}" for entry in entries], pa.string()),
            "label": pa.array([entry.label for entry in entries], pa.int32()),
        }
        task.write_clips(split, pa.table(columns))
    write_json(task.clips_dir / "classes.json", {"label": list(map(plain, classes))})


def annotate_folder(task: Task) -> None:
    """The user's narrations; without a `split` in the CSV, whole videos are held out by their names."""
    fraction = task.recipe["validation_fraction"]
    narrations = folder.read_narrations(task.raw_dir / folder.NARRATIONS, videos=None)
    splits = [row.split or folder.split_of(row.video, validation_fraction=fraction) for row in narrations]
    for split in folder.SPLITS:
        rows = [row for row, chosen in zip(narrations, splits, strict=True) if chosen == split]
        columns = _human_clips(
            task,
            split,
            [video_id_of(row.video) for row in rows],
            [row.start_s for row in rows],
            [row.end_s for row in rows],
            [row.text for row in rows],
            [f"line {row.line}" for row in rows],
        )
        task.write_clips(split, pa.table(columns))


LAYOUTS: dict[str, Callable[[Task], None]] = {
    "ego4d": annotate_ego4d,
    "ek100": annotate_ek100,
    "kinetics": annotate_kinetics,
    "folder": annotate_folder,
}
"""What turns each layout's annotations into tables."""
