"""The user's own videos: a folder and a CSV `video,start,end,text[,split]`, checked before any work."""

from __future__ import annotations

import csv
import hashlib
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from avion_core.config import DatasetSettings
from avion_core.data.sources import SourceError, SourceVideo, video_id_of
from avion_core.files import publish

COLUMNS = ("video", "start", "end", "text")
SPLITS = ("train", "validation")
NARRATIONS = "narrations.csv"
"""Name of the CSV's copy in the raw folder."""


@dataclass(frozen=True)
class Narration:
    """One line of the CSV."""

    line: int
    video: str
    """Path within the videos' folder."""
    start_s: float
    end_s: float
    text: str
    split: str
    """Train, validation, or empty when the CSV does not say."""


def parse_time(value: str) -> float:
    """Seconds from `12.5`, `mm:ss` or `hh:mm:ss.sss`. Raises ValueError for anything else."""
    parts = value.strip().split(":")
    if not 1 <= len(parts) <= 3 or not all(part.strip() for part in parts):
        raise ValueError(value)
    numbers = [float(part) for part in parts]
    if any(number < 0 or not math.isfinite(number) for number in numbers):
        raise ValueError(value)
    if any(number >= 60 for number in numbers[1:]) or any(number % 1 for number in numbers[:-1]):
        raise ValueError(value)
    seconds = 0.0
    for number in numbers:
        seconds = seconds * 60 + number
    return seconds


def read_narrations(path: Path, *, videos: Path | None) -> list[Narration]:
    """All lines of a narrations CSV; `videos` is the folder that must hold each line's video.

    Raises SourceError naming file, line, column, value and the way out: for a missing column, a bad
    time, an end that is not after its start, an empty text, an unknown split, or a missing video.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            header = [name.strip() for name in reader.fieldnames or ()]
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                raise SourceError(
                    f"{path}: line 1: column '{missing[0]}' is missing; the columns are "
                    f"{', '.join(header) or 'none'}, needed are {','.join(COLUMNS)} and optionally split"
                )
            reader.fieldnames = header
            narrations = [_parse_row(path, reader.line_num, row, videos) for row in reader]
    except FileNotFoundError:
        raise SourceError(f"{path}: the narrations CSV is not there") from None
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    if not narrations:
        raise SourceError(f"{path}: no narrations after the header; add a line {','.join(COLUMNS)}")
    return narrations


def _parse_row(path: Path, line: int, row: dict[str, str | None], videos: Path | None) -> Narration:
    def fail(column: str, problem: str) -> SourceError:
        return SourceError(f"{path}: line {line}: column '{column}': {problem}")

    if None in row:
        raise SourceError(
            f'{path}: line {line}: more values than columns; put a text with commas into "quotes"'
        )
    values = {name: (value or "").strip() for name, value in row.items()}
    times = {}
    for column in ("start", "end"):
        try:
            times[column] = parse_time(values[column])
        except ValueError:
            raise fail(
                column, f"'{values[column]}' is not a time; write seconds (12.5) or hh:mm:ss"
            ) from None
    if times["end"] <= times["start"]:
        raise fail(
            "end", f"'{values['end']}' is not after the start '{values['start']}'; swap or correct them"
        )
    if not values["text"]:
        raise fail("text", "it is empty; write a sentence or remove the line")
    if not values["video"]:
        raise fail("video", "it is empty; name a file of the videos' folder")
    split = values.get("split", "")
    if split and split not in SPLITS:
        raise fail("split", f"'{split}' is unknown; write {' or '.join(SPLITS)}, or leave it empty")
    if videos is not None and not (videos / values["video"]).is_file():
        raise fail("video", f"'{values['video']}' is not in {videos}; correct the name or add the file")
    return Narration(line, values["video"], times["start"], times["end"], values["text"], split)


def split_of(video: str, *, validation_fraction: float) -> str:
    """Split of a video by a hash of its name: the same on every machine, whatever other videos there are."""
    share = int.from_bytes(hashlib.sha256(video.encode()).digest()[:8], "big") / 2**64
    return "validation" if share < validation_fraction else "train"


def check(settings: DatasetSettings) -> None:
    """Read the whole CSV and look for every video. Raises SourceError."""
    _narrations(settings)


def fetch(settings: DatasetSettings, raw_dir: Path) -> list[SourceVideo]:
    """Copy the CSV into the raw folder; the videos stay where they are."""
    assert settings.folder is not None
    narrations = _narrations(settings)
    with publish(raw_dir / NARRATIONS) as draft:
        shutil.copyfile(settings.folder.narrations, draft)
    folder = Path(settings.folder.videos)
    return [
        SourceVideo(video_id_of(video), folder / video) for video in sorted({row.video for row in narrations})
    ]


def _narrations(settings: DatasetSettings) -> list[Narration]:
    assert settings.folder is not None
    folder = Path(settings.folder.videos)
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; set `folder.videos` to the one that holds the videos")
    return read_narrations(Path(settings.folder.narrations), videos=folder)
