"""Toy kitchen in the files and formats of the data sets it imitates.

Each function renders one data set's videos under `raw_dir` and writes annotation files exactly in the
owners' formats (the Ego4D release, EgoMCQ, EgoClip, the EPIC-KITCHENS-100 annotation and retrieval challenge
files, Kinetics lists). Pretraining, fine-tuning and evaluation use different videos, and validation includes
people who are not in training.
"""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avion_core.config import ToyKitchenSettings
from avion_core.data.egoclip import EGOCLIP
from avion_core.data.source_videos import SourceVideo
from avion_core.files import json_text
from avion_core.sources.raw_folder import RawFolder
from avion_core.sources.toy_kitchen.activities import make_charades_ego, make_egtea, make_kinetics
from avion_core.sources.toy_kitchen.egoclip import egoclip_csv
from avion_core.sources.toy_kitchen.narrations import (
    EpicNarration,
    ego4d_narration,
    ego4d_pass,
    epic_narration,
)
from avion_core.sources.toy_kitchen.render import render_all
from avion_core.sources.toy_kitchen.script import (
    FPS,
    Action,
    Script,
    frame_size,
    generator,
    person_style,
    write_script,
)
from avion_core.sources.toy_kitchen.vocabulary import (
    NOUN_CATEGORIES,
    NOUNS,
    VERB_CATEGORIES,
    VERBS,
    noun_class,
    verb_class,
)

MCQ_SECONDS = 1.0
"""Length of a multiple-choice clip."""
CHOICES = 5


# ------------------------------------------------------------------------------------------------ Ego4D


def make_ego4d(settings: ToyKitchenSettings, raw_dir: Path) -> list[SourceVideo]:
    """Render the Ego4D videos and write ego4d.json, narration.json, egomcq.json and egoclip.csv."""
    count = settings.ego4d_videos + settings.ego4d_benchmark_videos
    scripts = [
        _long_video(f"v2/full_scale/{_uid(settings.seed, n)}", f"ego4d {n}", n, settings)
        for n in range(count)
    ]
    paths = render_all(scripts, raw_dir, suffix=".mp4", settings=settings, title="render ego4d")
    uids = [path.stem for path in paths]
    benchmark = dict(zip(uids[settings.ego4d_videos :], scripts[settings.ego4d_videos :], strict=True))
    raw = RawFolder(raw_dir)
    raw.write("ego4d.json", json_text(_ego4d_json(uids, scripts, benchmark)))
    narrations = narration_json(uids, scripts, seed=settings.seed)
    raw.write("v2/annotations/narration.json", json_text(narrations))
    raw.write("egomcq.json", json_text(egomcq_json(benchmark, seed=settings.seed)))
    narrated = {uid: video for uid, video in narrations["videos"].items() if uid not in benchmark}
    durations_s = {uid: script.duration_s for uid, script in zip(uids, scripts, strict=True)}
    raw.write(EGOCLIP, egoclip_csv(narrated, durations_s))
    return [SourceVideo(uid, path) for uid, path in zip(uids, paths, strict=True)]


def _uid(seed: int, number: int) -> str:
    return str(uuid.UUID(bytes=generator(seed, f"ego4d uid {number}").bytes(16), version=4))


def _long_video(name: str, person: str, index: int, settings: ToyKitchenSettings) -> Script:
    shortest, longest = settings.video_seconds
    return write_script(
        name,
        seed=settings.seed,
        size=frame_size(settings.short_side_px, index),
        duration_s=float(generator(settings.seed, f"length {name}").uniform(shortest, longest)),
        style=person_style(settings.seed, person),
    )


def _ego4d_json(
    uids: Sequence[str], scripts: Sequence[Script], benchmark: Mapping[str, Script]
) -> dict[str, Any]:
    videos = [
        {
            "video_uid": uid,
            "duration_sec": script.duration_s,
            "scenarios": ["Cooking"],
            "video_metadata": {
                "fps": float(FPS),
                "num_frames": script.frames,
                "video_codec": "h264",
                "audio_codec": "aac",
                "display_resolution_width": script.width,
                "display_resolution_height": script.height,
                "sample_resolution_width": script.width,
                "sample_resolution_height": script.height,
                "mp4_duration_sec": script.duration_s,
            },
            "split_em": "val" if uid in benchmark else "train",
            "split_av": None,
            "split_fho": "val" if uid in benchmark else "train",
            "has_imu": False,
            "has_gaze": False,
            "is_stereo": False,
        }
        for uid, script in zip(uids, scripts, strict=True)
    ]
    return {"date": "250101", "version": "v2_1", "description": "Toy kitchen", "videos": videos, "clips": []}


def narration_json(uids: Sequence[str], scripts: Sequence[Script], *, seed: int) -> dict[str, Any]:
    """Two annotators' narrations of every video, in the form of `narration.json`."""
    videos = {}
    for uid, script in zip(uids, scripts, strict=True):
        passes = {
            f"narration_pass_{number}": _pass_json(
                script, generator(seed, f"{uid} pass {number}"), usual=usual
            )
            for number, usual in ((1, 0.75), (2, 0.45))
        }
        videos[uid] = {**passes, "status": "complete"}
    return {"videos": videos}


def _pass_json(script: Script, rng: np.random.Generator, *, usual: float) -> dict[str, Any]:
    narrations = [
        {
            "timestamp_sec": point.time_s,
            "timestamp_frame": int(point.time_s * FPS),
            "narration_text": point.text,
            "annotation_uid": str(uuid.UUID(bytes=rng.bytes(16), version=4)),
        }
        for point in ego4d_pass(script, rng, usual=usual)
    ]
    nouns = sorted({action.noun for action in script.actions})
    summary = {
        "start_sec": 0.0,
        "end_sec": script.duration_s,
        "summary_text": f"#Summary C worked in the kitchen with {', '.join(nouns)}",
        "annotation_uid": str(uuid.UUID(bytes=rng.bytes(16), version=4)),
    }
    return {"narrations": narrations, "summaries": [summary]}


def egomcq_json(benchmark: Mapping[str, Script], *, seed: int) -> dict[str, Any]:
    """Multiple-choice questions over the benchmark videos: type 1 across videos, type 2 within one."""
    rng = generator(seed, "egomcq")
    everything = [(uid, action) for uid, script in benchmark.items() for action in script.actions]
    questions: list[dict[str, Any]] = []
    for question_type in (1, 2):
        for uid, action in everything:
            pool = [choice for choice in everything if (choice[0] == uid) == (question_type == 2)]
            wrong = _different(action, [pool[index] for index in rng.permutation(len(pool))])
            if len(wrong) < CHOICES - 1:
                continue
            answer = int(rng.integers(CHOICES))
            choices = [*wrong[:answer], (uid, action), *wrong[answer:]]
            samples = [_mcq_sample(*choice, rng) for choice in choices]
            questions.append(
                {
                    "answer": answer,
                    "types": question_type,
                    "query": samples[answer],
                    "choices": {str(index): sample for index, sample in enumerate(samples)},
                }
            )
    return {str(index): question for index, question in enumerate(questions)}


def _different(action: Action, pool: Iterable[tuple[str, Action]]) -> list[tuple[str, Action]]:
    """The first choices whose verbs and nouns differ from the action's and from one another's."""
    seen = {(action.verb, action.noun)}
    chosen: list[tuple[str, Action]] = []
    for uid, other in pool:
        if (other.verb, other.noun) not in seen and len(chosen) < CHOICES - 1:
            seen.add((other.verb, other.noun))
            chosen.append((uid, other))
    return chosen


def _mcq_sample(uid: str, action: Action, rng: np.random.Generator) -> dict[str, Any]:
    return {
        "video_uid": uid,
        "clip_start": round(action.middle_s - MCQ_SECONDS / 2, 4),
        "clip_end": round(action.middle_s + MCQ_SECONDS / 2, 4),
        "clip_text": ego4d_narration(action, rng),
    }


# ------------------------------------------------------------------------------------ EPIC-KITCHENS-100

EPIC_COLUMNS = (
    "narration_id",
    "participant_id",
    "video_id",
    "narration_timestamp",
    "start_timestamp",
    "stop_timestamp",
    "start_frame",
    "stop_frame",
    "narration",
    "verb",
    "verb_class",
    "noun",
    "noun_class",
    "all_nouns",
    "all_noun_classes",
)


def make_ek100(settings: ToyKitchenSettings, raw_dir: Path) -> list[SourceVideo]:
    """Render the EPIC-KITCHENS videos and write the annotation, class list and retrieval files."""
    train, validation = epic_video_ids(settings.ek100_train_videos, settings.ek100_validation_videos)
    scripts = [
        _long_video(f"{video_id[:3]}/videos/{video_id}", video_id[:3], index, settings)
        for index, video_id in enumerate([*train, *validation])
    ]
    paths = render_all(scripts, raw_dir, suffix=".MP4", settings=settings, title="render ek100")
    rows = {path.stem: epic_rows(script, settings.seed) for path, script in zip(paths, scripts, strict=True)}
    raw, retrieval = RawFolder(raw_dir), "retrieval_annotations/EPIC_100_retrieval"
    for video_ids, split, retrieval_split in ((train, "train", "train"), (validation, "validation", "test")):
        selected = [row for video_id in video_ids for row in rows[video_id]]
        raw.write(f"EPIC_100_{split}.csv", _csv(EPIC_COLUMNS, selected))
        raw.write(f"{retrieval}_{retrieval_split}.csv", _csv(EPIC_COLUMNS, selected))
        raw.write(f"{retrieval}_{retrieval_split}_sentence.csv", _sentences(selected, retrieval_split))
    raw.write("EPIC_100_verb_classes.csv", _classes(VERBS, VERB_CATEGORIES))
    raw.write("EPIC_100_noun_classes.csv", _classes(NOUNS, NOUN_CATEGORIES))
    info = [
        {
            "video_id": path.stem,
            "duration": f"{script.duration_s:.6f}",
            "fps": float(FPS),
            "resolution": f"{script.width}x{script.height}",
        }
        for path, script in zip(paths, scripts, strict=True)
    ]
    raw.write("EPIC_100_video_info.csv", _csv(("video_id", "duration", "fps", "resolution"), info))
    return [SourceVideo(path.stem, path) for path in paths]


def epic_video_ids(train_videos: int, validation_videos: int) -> tuple[list[str], list[str]]:
    """Names of the videos of both splits: two per person; half of validation's people are not in train."""
    train = [f"P{index // 2 + 1:02}_{index % 2 + 1:02}" for index in range(train_videos)]
    people = (train_videos + 1) // 2
    seen = validation_videos // 2
    validation = [f"P{index % people + 1:02}_{11 + index // people:02}" for index in range(seen)]
    unseen = range(validation_videos - seen)
    validation += [f"P{people + index // 2 + 1:02}_{index % 2 + 1:02}" for index in unseen]
    return train, validation


def epic_rows(script: Script, seed: int) -> list[dict[str, Any]]:
    """A video's rows of the annotation CSV."""
    video_id = script.name.rsplit("/", 1)[-1]
    rng = generator(seed, f"{video_id} narrations")
    rows = []
    for index, action in enumerate(script.actions):
        narration = epic_narration(action, rng)
        start_s, stop_s = round(action.start_s, 2), round(action.end_s, 2)
        rows.append(
            {
                "narration_id": f"{video_id}_{index}",
                "participant_id": video_id[:3],
                "video_id": video_id,
                "narration_timestamp": _clock(max(0.0, start_s - 0.2), digits=3),
                "start_timestamp": _clock(start_s, digits=2),
                "stop_timestamp": _clock(stop_s, digits=2),
                "start_frame": max(1, int(start_s * FPS)),
                "stop_frame": int(stop_s * FPS),
                **_epic_classes(narration),
            }
        )
    return rows


def _epic_classes(narration: EpicNarration) -> dict[str, Any]:
    classes = [noun_class(noun) for noun in narration.noun_classes]
    return {
        "narration": narration.text,
        "verb": narration.verb,
        "verb_class": verb_class(narration.verb_class),
        "noun": narration.nouns[0],
        "noun_class": classes[0],
        "all_nouns": repr(list(narration.nouns)),
        "all_noun_classes": repr(classes),
    }


def _clock(seconds: float, *, digits: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours:02}:{minutes:02}:{rest:0{3 + digits}.{digits}f}"


def _sentences(rows: Sequence[Mapping[str, Any]], split: str) -> str:
    """The first clip of each distinct sentence; the training file names the classes as well."""
    first: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        first.setdefault(row["narration"], row)
    columns = ["narration_id", "narration"]
    if split == "train":
        columns += ["verb_class", "noun_classes", "verb", "nouns"]
    sentences = [
        {**row, "noun_classes": row["all_noun_classes"], "nouns": row["all_nouns"]} for row in first.values()
    ]
    return _csv(columns, sentences)


def _classes(words: Mapping[str, Sequence[str]], categories: Mapping[str, str]) -> str:
    rows = [
        {"id": number, "key": key, "instances": repr(list(instances)), "category": categories[key]}
        for number, (key, instances) in enumerate(words.items())
    ]
    return _csv(("id", "key", "instances", "category"), rows)


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


LAYOUTS: dict[str, Callable[[ToyKitchenSettings, Path], list[SourceVideo]]] = {
    "ego4d": make_ego4d,
    "ek100": make_ek100,
    "kinetics": make_kinetics,
    "egtea": make_egtea,
    "charades_ego": make_charades_ego,
}
"""Functions that make each layout."""
