"""Clip tables of the layout `ego4d`: narrations of both passes by the EgoClip rule, with EgoVLP's tags, and
EgoMCQ."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from avion_core.data import ego4d
from avion_core.data.annotation import SHORTEST_S, Annotation, human_clips
from avion_core.data.chunks import VideoLengths
from avion_core.data.clips import Question, write_questions
from avion_core.data.dropped import HELD_OUT, NOT_A_TIME, OUTSIDE, QUESTION, QUESTION_OUTSIDE
from avion_core.data.ego4d_published import published_clips
from avion_core.data.egoclip import EGOCLIP, read_egoclip
from avion_core.data.layout_files import LayoutReader, OfficialFiles, in_folder
from avion_core.data.tables import SUFFIX


def annotate(annotation: Annotation) -> None:
    """Narrations of both passes by the EgoClip rule, with tags if there is EgoVLP's file, or the clips of a
    published file (`clips_from`); EgoMCQ."""
    questions = ego4d.read_egomcq(annotation.raw_dir)
    metadata = ego4d.read_metadata(
        annotation.raw_dir, allow_missing=annotation.recipe["allow_missing_ego4d_json"]
    )
    held_out = metadata.held_out.union(*(question.video_ids for question in questions))
    published = annotation.recipe.get("clips_from")
    table = (
        published_clips(annotation, published, held_out)
        if published
        else _narrated_clips(annotation, metadata, held_out)
    )
    annotation.write_clips("train", table)
    _write_questions(annotation, questions)


def _narrated_clips(annotation: Annotation, metadata: ego4d.Metadata, held_out: frozenset[str]) -> pa.Table:
    """Clips of the narrations by the EgoClip rule."""
    narrated = ego4d.read_narrations(ego4d.narration_path(annotation.raw_dir))
    unknown = {entry.video_uid for entry in narrated} - metadata.known
    if unknown:
        print(
            f"{len(unknown)} narrated videos are in no {ego4d.METADATA}: they are trained on, "
            f"whether benchmarks have them or not",
            file=sys.stderr,
        )
    # A video's length comes from its chunks, else from ego4d.json. Without either, bad times go undetected,
    # so the video's gaps do not count in α.
    lengths_s = metadata.lengths_s | {
        entry.video_uid: annotation.index.duration_s(entry.video_uid)
        for entry in narrated
        if annotation.index.has(entry.video_uid)
    }
    passes = [
        _narrations_within(annotation, entry, lengths_s.get(entry.video_uid, np.inf))
        for entry in _without_benchmarks(annotation, narrated, held_out)
    ]
    alpha_s = ego4d.mean_gap_s([entry for entry in passes if entry.video_uid in lengths_s])
    windows = ego4d.egoclip_windows(passes, alpha_s=alpha_s)
    columns = human_clips(
        annotation,
        "train",
        [entry.video_uid for entry in passes for _ in entry.texts],
        np.concatenate([start for start, _ in windows]) if windows else np.zeros(0),
        np.concatenate([end for _, end in windows]) if windows else np.zeros(0),
        [text for entry in passes for text in entry.texts],
        [uid for entry in passes for uid in entry.uids],
    )
    if (annotation.raw_dir / EGOCLIP).is_file():
        columns |= _tags(annotation.raw_dir / EGOCLIP, passes)
    return pa.table(columns)


def _tags(path: Path, passes: Sequence[ego4d.NarrationPass]) -> dict[str, pa.Array]:
    """Columns with the tags of every narration, empty lists for those that the file does not have."""
    egoclip = read_egoclip(path, videos={entry.video_uid for entry in passes})
    tags = [
        egoclip.tags(entry.video_uid, time_s, text)
        for entry in passes
        for time_s, text in zip(entry.times_s.tolist(), entry.texts, strict=True)
    ]
    print(
        f"{EGOCLIP}: {egoclip.malformed} malformed lines skipped; {sum(map(any, tags))} of {len(tags)} "
        "narrations have tags",
        file=sys.stderr,
    )
    both = (pa.array([own[place] for own in tags], pa.list_(pa.int32())) for place in (0, 1))
    return dict(zip(("verb_tags", "noun_tags"), both, strict=True))


def _without_benchmarks(
    annotation: Annotation, passes: Sequence[ego4d.NarrationPass], held_out: frozenset[str]
) -> list[ego4d.NarrationPass]:
    for entry in passes:
        if entry.video_uid in held_out:
            _drop_narrations(annotation, entry, HELD_OUT)
    return [entry for entry in passes if entry.video_uid not in held_out]


def _narrations_within(
    annotation: Annotation, entry: ego4d.NarrationPass, length_s: float
) -> ego4d.NarrationPass:
    """The narrations of a pass that lie within the video."""
    number = np.isfinite(entry.times_s)
    inside = number & (entry.times_s >= 0) & (entry.times_s <= length_s)
    if inside.all():
        return entry
    _drop_narrations(annotation, entry.select(~number), NOT_A_TIME)
    _drop_narrations(annotation, entry.select(number & ~inside), OUTSIDE)
    return entry.select(inside)


def _drop_narrations(annotation: Annotation, entry: ego4d.NarrationPass, reason: str) -> None:
    time_s = pa.array(np.where(np.isfinite(entry.times_s), entry.times_s, np.nan), from_pandas=True)
    videos = pa.repeat(entry.video_uid, len(entry.uids))
    columns = {"annotation": pa.array(entry.uids, pa.string()), "video_id": videos}
    annotation.dropped.add("train", columns | {"start_s": time_s, "end_s": time_s}, reason)


def _write_questions(annotation: Annotation, questions: Sequence[Question]) -> None:
    """Publish the questions whose choices all have video."""
    problems = [_problem(question, annotation.index) for question in questions]
    dropped = [
        (f"question {question.question_id}", problem)
        for question, problem in zip(questions, problems, strict=True)
        if problem
    ]
    names, reasons = (pa.array([entry[place] for entry in dropped], pa.string()) for place in (0, 1))
    annotation.dropped.add("egomcq", {"annotation": names}, reasons)
    known = [question for question, problem in zip(questions, problems, strict=True) if not problem]
    texts = annotation.plain("egomcq", (question.text for question in known))
    rows = [vars(question) | {"text": text} for question, text in zip(known, texts, strict=True)]
    write_questions(annotation.clips_dir / f"egomcq{SUFFIX}", rows)


def _problem(question: Question, index: VideoLengths) -> str | None:
    """Why a question is left out; None if it is kept."""
    if not all(map(index.has, question.video_ids)):
        return QUESTION
    if any(
        max(start_s, 0.0) + SHORTEST_S > index.duration_s(video)
        for video, start_s in zip(question.video_ids, question.starts_s, strict=True)
    ):
        return QUESTION_OUTSIDE
    return None


READER = LayoutReader(
    annotate=annotate,
    official=OfficialFiles(
        check=lambda folder, allow_missing: ego4d.check(folder, allow_missing_metadata=allow_missing),
        annotation_files=lambda folder: in_folder(folder, ego4d.annotation_files(folder)),
        find_videos=ego4d.find_videos,
        clips=ego4d.clips_of_questions,
        list_videos=ego4d.list_videos,
    ),
)
