"""Ego4D: narrations at points in time become clips by the EgoClip rule; EgoMCQ; the official download.

EgoClip (Lin et al., "Egocentric Video-Language Pretraining", 2022, section 3): a narration at t becomes
the clip t ± β/(2α). β is the mean gap between consecutive narrations of a video, here of one annotator's
pass over it; α is the mean of all β. Both passes are kept, and so are narrations with `#unsure` and
`#O`. Videos of the benchmarks' validation and test splits are left out.
"""

from __future__ import annotations

import configparser
import csv
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avion_core.config import Ego4DSource
from avion_core.data.clips import Question
from avion_core.data.sources import SourceError, SourceVideo, names_of, require_files
from avion_core.files import publish, read_json

METADATA = "ego4d.json"
EGOMCQ = "egomcq.json"
PASSES = ("narration_pass_1", "narration_pass_2")
RENDITIONS = ("full_scale", "video_540ss")
HELD_OUT = ("val", "test", "multi")
"""Values of ego4d.json's `split_*` fields that keep a video from pretraining; `multi`: clips of several."""
CHOICES = 5


@dataclass(frozen=True)
class NarrationPass:
    """What one annotator wrote about one video, in the order of time."""

    video_uid: str
    name: str
    times_s: NDArray[np.float64]
    texts: list[str]
    uids: list[str]
    """Annotation numbers; those that a release lacks are made of video, pass and place."""


def narration_path(raw_dir: Path) -> Path:
    """The narration file of whichever release is there."""
    found = sorted(raw_dir.glob("v*/annotations/narration.json"))
    return found[-1] if found else raw_dir / "v2/annotations/narration.json"


def read_narrations(path: Path) -> list[NarrationPass]:
    """Every pass of every video that has narrations, sorted by video and pass.

    Reads releases with the videos under `videos` and older ones with them at the top level. Raises
    SourceError when the file has neither.
    """
    content = read_json(path)
    videos = content.get("videos", content) if isinstance(content, dict) else None
    if not isinstance(videos, dict):
        raise SourceError(f"{path}: not a narration file: neither 'videos' nor video numbers at its top")
    passes = []
    for video_uid in sorted(videos):
        for name in PASSES:
            entry = videos[video_uid].get(name) if isinstance(videos[video_uid], dict) else None
            narrations = (entry or {}).get("narrations") or []
            if narrations:
                passes.append(_narration_pass(path, video_uid, name, narrations))
    return passes


def _narration_pass(path: Path, video_uid: str, name: str, narrations: Sequence[Any]) -> NarrationPass:
    try:
        ordered = sorted(narrations, key=lambda narration: float(narration["timestamp_sec"]))
        return NarrationPass(
            video_uid=video_uid,
            name=name,
            times_s=np.array([float(narration["timestamp_sec"]) for narration in ordered]),
            texts=[str(narration["narration_text"]).strip() for narration in ordered],
            uids=[
                str(narration.get("annotation_uid") or f"{video_uid}:{name}:{place}")
                for place, narration in enumerate(ordered)
            ],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{path}: video {video_uid}, {name}: a narration lacks {error}") from None


def egoclip_windows(passes: Sequence[NarrationPass]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Start and end in seconds of every narration's clip, pass by pass, by the EgoClip rule.

    A pass with one narration, or with all at one moment, has no gap: it gets β = α, a clip of 1 s.
    """
    gaps = [float(np.diff(entry.times_s).mean()) if len(entry.times_s) > 1 else 0.0 for entry in passes]
    known = [gap for gap in gaps if gap > 0]
    mean_gap = float(np.mean(known)) if known else 1.0
    windows = []
    for entry, gap in zip(passes, gaps, strict=True):
        half = (gap if gap > 0 else mean_gap) / (2 * mean_gap)
        windows.append((entry.times_s - half, entry.times_s + half))
    return windows


def held_out_videos(raw_dir: Path) -> set[str]:
    """Videos of EgoMCQ and of the benchmarks' validation and test splits, as far as the files are there."""
    held_out = {uid for question in read_egomcq(raw_dir) for uid in question.video_ids}
    if (raw_dir / METADATA).is_file():
        for video in read_json(raw_dir / METADATA).get("videos", []):
            splits = (value for key, value in video.items() if key.startswith("split_"))
            if any(value in HELD_OUT for value in splits):
                held_out.add(str(video["video_uid"]))
    return held_out


def read_egomcq(raw_dir: Path) -> list[Question]:
    """EgoMCQ's questions; none when its file is not there. Raises SourceError for a malformed question."""
    path = raw_dir / EGOMCQ
    if not path.is_file():
        return []
    return [_question(path, key, value) for key, value in read_json(path).items()]


def _question(path: Path, key: str, value: Mapping[str, Any]) -> Question:
    try:
        choices = [value["choices"][str(index)] for index in range(CHOICES)]
        return Question(
            question_id=key,
            type=int(value["types"]),
            text=str(value["query"]["clip_text"]).strip(),
            answer=int(value["answer"]),
            video_ids=[str(choice["video_uid"]) for choice in choices],
            starts_s=[float(choice["clip_start"]) for choice in choices],
            ends_s=[float(choice["clip_end"]) for choice in choices],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{path}: question {key}: cannot be read: {error!r}") from None


# ------------------------------------------------------------------------------------------ files on disk


def check(folder: Path) -> None:
    """Raise SourceError unless the layout's annotation files are in `folder`."""
    name = str(narration_path(folder).relative_to(folder))
    require_files(folder, (name,), what="an Ego4D download (v2/annotations, v2/full_scale, ego4d.json)")


def annotation_files(folder: Path) -> list[str]:
    """Annotation files in `folder`, by their path in it."""
    optional = [name for name in (METADATA, EGOMCQ) if (folder / name).is_file()]
    return [str(narration_path(folder).relative_to(folder)), *optional]


def find_videos(folder: Path) -> tuple[list[SourceVideo], str]:
    """Downloaded videos in either rendition, and the narrated ones that are not there."""
    release = narration_path(folder).parent.parent
    videos: dict[str, Path] = {}
    for rendition in reversed(RENDITIONS):
        videos |= {file.stem: file for file in sorted((release / rendition).glob("*.mp4"))}
    narrated = {entry.video_uid for entry in read_narrations(narration_path(folder))}
    found = [SourceVideo(uid, file) for uid, file in sorted(videos.items())]
    return found, names_of(sorted(narrated - set(videos)))


# ------------------------------------------------------------------------------------------ the download


def command_path() -> str | None:
    """Where the `ego4d` program is: in this environment, else on the PATH."""
    beside = Path(sys.executable).with_name("ego4d")
    return str(beside) if beside.is_file() else shutil.which("ego4d")


def check_download(source: Ego4DSource) -> None:
    """Raise SourceError unless the program, the AWS profile and the EgoMCQ file are there."""
    if command_path() is None:
        raise SourceError("the program `ego4d` is not installed; run: pip install ego4d==1.7.3")
    if source.aws_profile not in _profiles():
        raise SourceError(
            f"AWS profile '{source.aws_profile}' is not configured; put the keys of your Ego4D licence "
            f"there with `aws configure --profile {source.aws_profile}` (environment variables do not do)"
        )
    if source.egomcq is not None and not Path(source.egomcq).is_file():
        raise SourceError(
            f"{source.egomcq}: EgoMCQ's file is not there; correct `ego4d.egomcq` or set it to null"
        )


def _profiles() -> set[str]:
    """Names of the AWS profiles in the two files that the AWS tools read."""
    names: set[str] = set()
    for variable, default in (("AWS_SHARED_CREDENTIALS_FILE", "credentials"), ("AWS_CONFIG_FILE", "config")):
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(os.environ.get(variable) or Path.home() / ".aws" / default)
        names |= {section.removeprefix("profile ") for section in parser.sections()}
    return names


def fetch(source: Ego4DSource, raw_dir: Path) -> list[SourceVideo]:
    """Download annotations and videos with the official program, and hold them against its manifests.

    The program ends with success even when files failed, so success is what the manifest lists being
    there. Files that are complete are not fetched again. Raises SourceError.
    """
    check_download(source)
    release = raw_dir / source.version.split("_")[0]
    for dataset in ("annotations", source.videos):
        for leftover in (release / dataset).glob("*.mp4.*"):
            leftover.unlink()
        benchmarks = source.benchmarks if dataset == source.videos else ()
        _run(download_command(source, dataset, raw_dir, benchmarks=benchmarks), profile=source.aws_profile)
        missing = missing_files(release / dataset, benchmarks=benchmarks)
        if missing:
            raise SourceError(
                f"ego4d: {len(missing)} files of '{dataset}' did not arrive: {names_of(missing)}; "
                f"run the same command again, it fetches only these"
            )
    if source.egomcq is not None:
        with publish(raw_dir / EGOMCQ) as draft:
            shutil.copyfile(source.egomcq, draft)
    names = listed_files(release / source.videos / "manifest.csv", benchmarks=source.benchmarks)
    return [SourceVideo(Path(name).stem, release / source.videos / name) for name in sorted(names)]


def download_command(
    source: Ego4DSource, dataset: str, raw_dir: Path, *, benchmarks: Sequence[str]
) -> list[str]:
    """Arguments of the official program for one of its data sets."""
    command = [command_path() or "ego4d", "--output_directory", str(raw_dir), "--datasets", dataset]
    command += ["--version", source.version, "--aws_profile_name", source.aws_profile, "--metadata", "-y"]
    return [*command, "--benchmarks", *benchmarks] if benchmarks else command


def listed_files(manifest: Path, *, benchmarks: Sequence[str]) -> list[str]:
    """File names that a manifest promises, of the given benchmarks if there are any.

    As in the program: rows with a `file_uid` (or of type file or json) keep their object's name, the
    others are `<video_uid>.mp4`; `benchmarks` is written `[EM|FHO]`.
    """
    wanted = {name.lower() for name in benchmarks}
    names = []
    with manifest.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            tags = set((row.get("benchmarks") or "").strip("[] ").lower().replace(" ", "").split("|"))
            if wanted and "benchmarks" in row and not wanted & tags:
                continue
            location = row.get("canonical_s3_location") or row.get("s3_path") or ""
            is_file = "file_uid" in row
            if row.get("type") in ("mp4", "video", "file", "json"):
                is_file = row["type"] in ("file", "json")
            uid = row.get("file_uid") or row.get("video_uid")
            names.append(location.rsplit("/", 1)[-1] if is_file else f"{uid}.mp4")
    return names


def missing_files(folder: Path, *, benchmarks: Sequence[str]) -> list[str]:
    """Files of the manifest in `folder` that are not beside it."""
    names = listed_files(folder / "manifest.csv", benchmarks=benchmarks)
    return sorted({name for name in names if not (folder / name).is_file()})


EXPIRED = ("ExpiredToken", "InvalidAccessKeyId", "403", "Forbidden", "AccessDenied")


def _run(command: Sequence[str], *, profile: str) -> None:
    """Run the program, show what it says, and explain the failures that users meet."""
    said: deque[str] = deque(maxlen=50)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.rstrip())
            print(said[-1], file=sys.stderr, flush=True)
    if process.returncode == 0:
        return
    text = "\n".join(said)
    if any(mark in text for mark in EXPIRED):
        raise SourceError(
            f"ego4d: the keys of AWS profile '{profile}' were refused; they expire after 14 days: "
            f"renew them on the Ego4D licence page and store them in the profile"
        )
    last_line = said[-1] if said else "it said nothing"
    raise SourceError(f"ego4d: the program failed (exit code {process.returncode}): {last_line}")
