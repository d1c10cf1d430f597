"""Ego4D: clips from timestamped narrations by the EgoClip rule; EgoMCQ.

EgoClip (Lin et al., "Egocentric Video-Language Pretraining", 2022, section 3): a narration at t becomes
the clip t ± β/(2α). β is the mean gap between consecutive narrations of a video, here of one annotator's
pass over it; α is the mean of all β. Both passes are kept, and so are narrations with `#unsure` and
`#O`. Videos of the benchmarks' validation and test splits are left out. So are narrations outside their
video, before any mean is taken: a single one would move every clip.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avion_core.data.annotation_files import expect_list, expect_object, json_type, read_json
from avion_core.data.clips import Question
from avion_core.data.egoclip import EGOCLIP, check_header, read_egoclip
from avion_core.data.published_text import EGO4D_TRAIN, check_rows
from avion_core.data.source_videos import SourceError, SourceVideo, VideosOfClips, require_files

METADATA = "ego4d.json"
EGOMCQ = "egomcq.json"
PASSES = ("narration_pass_1", "narration_pass_2")
RENDITIONS = ("full_scale", "video_540ss")
HELD_OUT = ("val", "test", "multi")
"""Values of ego4d.json's `split_*` fields that keep a video from pretraining; `multi`: clips of several."""
CHOICES = 5


@dataclass(frozen=True)
class NarrationPass:
    """One annotator's narrations of one video, in order of time."""

    video_uid: str
    name: str
    times_s: NDArray[np.float64]
    """NaN, sorted last, if the file has no number."""
    texts: list[str]
    """Empty if the file has no sentence."""
    uids: list[str]
    """Annotation numbers; if a release lacks them, built from video, pass and place in the file."""

    def select(self, chosen: NDArray[np.bool_]) -> NarrationPass:
        """The narrations where `chosen` is true."""
        rows = np.flatnonzero(chosen)
        texts, uids = [self.texts[row] for row in rows], [self.uids[row] for row in rows]
        return replace(self, times_s=self.times_s[rows], texts=texts, uids=uids)


@dataclass(frozen=True)
class Metadata:
    """Video metadata from `ego4d.json`."""

    held_out: frozenset[str]
    """Videos of the benchmarks' validation and test splits."""
    lengths_s: dict[str, float]
    """Length of each video in seconds, if known."""
    known: frozenset[str]
    """All listed videos."""


def narration_path(raw_dir: Path) -> Path:
    """The narration file of the release on disk."""
    found = sorted(raw_dir.glob("v*/annotations/narration.json"))
    return found[-1] if found else raw_dir / "v2/annotations/narration.json"


def metadata_paths(raw_dir: Path) -> list[Path]:
    """Every `ego4d.json`: the official program has put it both beside and inside the releases."""
    return [path for path in (raw_dir / METADATA, *sorted(raw_dir.glob(f"v*/{METADATA}"))) if path.is_file()]


def read_narrations(path: Path) -> list[NarrationPass]:
    """Every pass of every video that has narrations, sorted by video and pass.

    Reads releases with videos under `videos`, and older ones with videos at the top level. Raises
    SourceError, with the place in the file, for any other form or if there is no narration.
    """
    content = expect_object(read_json(path), str(path))
    older = "videos" not in content
    videos = expect_object(content if older else content["videos"], f"{path}: videos")
    passes = []
    for video_uid in sorted(videos):
        if older and not isinstance(videos[video_uid], dict):
            continue  # older releases mix metadata with the videos
        video = expect_object(videos[video_uid], f"{path}: videos.{video_uid}")
        for name in PASSES:
            where = f"{path}: videos.{video_uid}.{name}"
            entry = expect_object(video.get(name) or {}, where)
            narrations = expect_list(entry.get("narrations") or [], f"{where}.narrations")
            if narrations:
                passes.append(_narration_pass(where, video_uid, name, narrations))
    if not passes:
        raise SourceError(f"{path}: not a narration file: no video in it has a narration; fetch it again")
    return passes


def _narration_pass(where: str, video_uid: str, name: str, narrations: Sequence[Any]) -> NarrationPass:
    times_s, texts, uids = np.empty(len(narrations)), [], []
    for place, narration in enumerate(narrations):
        try:
            times_s[place] = _number(narration["timestamp_sec"])
            texts.append(sentence_of(narration["narration_text"]))
            uid = str(narration.get("annotation_uid") or "")
            uids.append(f"{video_uid}:{name}:{place}" if not uid or _has_surrogates(uid) else uid)
        except KeyError as error:
            raise SourceError(
                f"{where}.narrations[{place}]: it lacks {error}; fetch the file again"
            ) from None
        except (TypeError, AttributeError):
            expect_object(narration, f"{where}.narrations[{place}]")
            raise
    order = np.argsort(times_s, kind="stable")
    return NarrationPass(
        video_uid, name, times_s[order], [texts[row] for row in order], [uids[row] for row in order]
    )


def _number(value: Any) -> float:
    """A JSON value as a number; NaN if it is none."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


TAGS = re.compile(r"#[^\W\d_]+(\s+[^\W\d_]\b)?")
"""A tag, with its person's letter if any: `#C C`, `#O X`, `#unsure`."""


def sentence_of(text: Any) -> str:
    """A narration's text; empty if it is not text or has only tags."""
    if not isinstance(text, str):
        return ""
    stripped = text.strip()
    says = any(character.isalnum() for character in TAGS.sub("", stripped))
    return stripped if says and not _has_surrogates(stripped) else ""


def _has_surrogates(text: str) -> bool:
    """Whether the text has unpaired surrogates, which JSON can hold but no encoding can."""
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def mean_gap_s(passes: Sequence[NarrationPass]) -> float:
    """EgoClip's α: mean over the passes of their mean gaps, in seconds; 1 if none has a gap."""
    gaps = [gap for gap in map(_gap_s, passes) if gap > 0]
    return float(np.mean(gaps)) if gaps else 1.0


def _gap_s(entry: NarrationPass) -> float:
    return float(np.diff(entry.times_s).mean()) if len(entry.times_s) > 1 else 0.0


def egoclip_windows(
    passes: Sequence[NarrationPass], *, alpha_s: float | None = None
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Start and end in seconds of every narration's clip, pass by pass, by the EgoClip rule.

    `alpha_s` is α, by default of these passes. A pass with one narration, or with all at one moment, has no
    gap; it gets β = α, a clip of 1 s.
    """
    alpha_s = mean_gap_s(passes) if alpha_s is None else alpha_s
    windows = []
    for entry in passes:
        half = (_gap_s(entry) or alpha_s) / (2 * alpha_s)
        windows.append((entry.times_s - half, entry.times_s + half))
    return windows


def read_metadata(raw_dir: Path, *, allow_missing: bool) -> Metadata:
    """Metadata merged from all `ego4d.json` in `raw_dir`.

    Raises SourceError for a malformed file, and unless `allow_missing` if there is none: training would
    include the benchmarks' videos.
    """
    paths = metadata_paths(raw_dir)
    if not paths and not allow_missing:
        raise SourceError(
            f"{raw_dir}: no {METADATA}, nor in {narration_path(raw_dir).parent.parent.name}/; without it the "
            f"benchmarks' validation and test videos would be trained on. Fetch it (`ego4d --metadata`), or "
            f"set allow_missing_ego4d_json: true for the data set"
        )
    held_out, lengths_s, known = set(), {}, set()
    for path in paths:
        content = expect_object(read_json(path), str(path))
        for place, entry in enumerate(expect_list(content.get("videos"), f"{path}: videos")):
            video = expect_object(entry, f"{path}: videos[{place}]")
            uid = video.get("video_uid")
            if not isinstance(uid, str):
                raise SourceError(f"{path}: videos[{place}]: it lacks 'video_uid'; fetch the file again")
            known.add(uid)
            if any(value in HELD_OUT for key, value in video.items() if key.startswith("split_")):
                held_out.add(uid)
            length = _number(video.get("duration_sec"))
            if math.isfinite(length) and length > 0:
                lengths_s[uid] = length
    return Metadata(frozenset(held_out), lengths_s, frozenset(known))


def read_egomcq(raw_dir: Path) -> list[Question]:
    """EgoMCQ's questions; none if the file is missing. Raises SourceError for a malformed question."""
    path = raw_dir / EGOMCQ
    return read_questions(path) if path.is_file() else []


def read_questions(path: Path) -> list[Question]:
    """Questions of an `egomcq.json`. Raises SourceError naming the one that is malformed."""
    content = expect_object(read_json(path), str(path))
    return [_question(f"{path}: question {key}", key, value) for key, value in content.items()]


def _question(where: str, key: str, value: Any) -> Question:
    try:
        choices = [value["choices"][str(index)] for index in range(CHOICES)]
        question = Question(
            question_id=key,
            type=value["types"],
            text=sentence_of(value["query"]["clip_text"]),
            answer=value["answer"],
            video_ids=[choice["video_uid"] for choice in choices],
            starts_s=[_number(choice["clip_start"]) for choice in choices],
            ends_s=[_number(choice["clip_end"]) for choice in choices],
        )
    except (KeyError, TypeError) as error:
        raise SourceError(f"{where}: cannot be read: {error!r}; fetch the file again") from None
    for name, number, allowed in (
        ("answer", question.answer, range(CHOICES)),
        ("types", question.type, (1, 2)),
    ):
        if type(number) is not int or number not in allowed:
            raise SourceError(
                f"{where}: {name} is {json_type(number)}; it must be {allowed[0]} to {allowed[-1]}"
            )
    if not question.text:
        raise SourceError(f"{where}: its query has no text; fetch the file again")
    for index, (uid, start_s, end_s) in enumerate(
        zip(question.video_ids, question.starts_s, question.ends_s, strict=True)
    ):
        if not isinstance(uid, str) or not -math.inf < start_s <= end_s < math.inf:
            raise SourceError(
                f"{where}: choice {index} is no clip of a video: {start_s} to {end_s} s of {json_type(uid)}; "
                f"fetch the file again"
            )
    return question


# ------------------------------------------------------------------------------------------ files on disk

CHECKED_AT_ONCE_BYTES = 50_000_000
"""Annotation files up to this size (about a second to read) are read whole before any work. Larger ones, such
as the full narration.json, are read when the data set is fetched, still before transcoding."""


def check(folder: Path, *, allow_missing_metadata: bool) -> None:
    """Raise SourceError unless the annotation files are in `folder`; reads all but huge ones."""
    narrations = narration_path(folder)
    name = str(narrations.relative_to(folder))
    require_files(folder, (name,), what="an Ego4D download (v2/annotations, v2/full_scale, ego4d.json)")
    if narrations.stat().st_size <= CHECKED_AT_ONCE_BYTES:
        read_narrations(narrations)
    if (folder / EGOMCQ).is_file():
        check_egomcq(folder / EGOMCQ)
    if (folder / EGOCLIP).is_file():
        check_egoclip(folder / EGOCLIP)
    if (train := folder / EGO4D_TRAIN).is_file() and train.stat().st_size <= CHECKED_AT_ONCE_BYTES:
        check_rows(train, "human")
    if all(path.stat().st_size <= CHECKED_AT_ONCE_BYTES for path in metadata_paths(folder)):
        read_metadata(folder, allow_missing=allow_missing_metadata)


def check_egomcq(path: Path) -> None:
    """Read EgoMCQ's file unless it is too large for that. Raises SourceError."""
    if path.stat().st_size <= CHECKED_AT_ONCE_BYTES:
        read_questions(path)


def check_egoclip(path: Path) -> None:
    """Read EgoVLP's file, or its header if it is large. Raises SourceError."""
    if path.stat().st_size <= CHECKED_AT_ONCE_BYTES:
        read_egoclip(path)
    else:
        check_header(path)


def read_all(folder: Path, *, allow_missing_metadata: bool) -> list[NarrationPass]:
    """Read every annotation file in `folder`, of any size, and return the narrations."""
    read_metadata(folder, allow_missing=allow_missing_metadata)
    read_egomcq(folder)
    if (folder / EGOCLIP).is_file():
        read_egoclip(folder / EGOCLIP)
    if (folder / EGO4D_TRAIN).is_file():
        check_rows(folder / EGO4D_TRAIN, "human")
    return read_narrations(narration_path(folder))


def annotation_files(folder: Path) -> list[str]:
    """Annotation files by their path in `folder`."""
    others = [folder / name for name in (EGOMCQ, EGOCLIP, EGO4D_TRAIN) if (folder / name).is_file()]
    files = [narration_path(folder), *metadata_paths(folder), *others]
    return [str(file.relative_to(folder)) for file in files]


def list_videos(folder: Path) -> list[SourceVideo]:
    """Downloaded videos in either rendition."""
    release = narration_path(folder).parent.parent
    videos: dict[str, Path] = {}
    for rendition in reversed(RENDITIONS):
        videos |= {file.stem: file for file in sorted((release / rendition).glob("*.mp4"))}
    return [SourceVideo(uid, file) for uid, file in sorted(videos.items())]


def find_videos(folder: Path, videos: Path) -> tuple[list[SourceVideo], list[SourceVideo]]:
    """Downloaded videos in either rendition, and expected paths of missing narrated ones."""
    found = list_videos(videos)
    narrated = {entry.video_uid for entry in read_all(folder, allow_missing_metadata=True)}
    gone = sorted(narrated - {video.video_id for video in found})
    place = narration_path(videos).parent.parent / RENDITIONS[0]
    return found, [SourceVideo(uid, place / f"{uid}.mp4") for uid in gone]


def clips_of_questions(folder: Path, videos: Path) -> tuple[VideosOfClips, list[str]]:
    """Videos of each EgoMCQ question, unless its file is huge, and the videos on disk."""
    path = folder / EGOMCQ
    if path.is_file() and path.stat().st_size > CHECKED_AT_ONCE_BYTES:
        return {}, []
    questions = [question.video_ids for question in read_egomcq(folder)]
    return {"egomcq": questions}, [video.video_id for video in list_videos(videos)] if questions else []
