"""What every source has in common: source videos, their names and their list, and errors users can mend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from avion_core.files import publish

VIDEOS = pa.schema([("video_id", pa.string()), ("path", pa.string()), ("bytes", pa.int64())])
"""Columns of `videos.parquet`."""


class SourceError(ValueError):
    """Files of a data set are missing or wrong. The message names the file, the row and the way out."""


@dataclass(frozen=True)
class SourceVideo:
    """A video as `transcode` finds it."""

    video_id: str
    path: Path


def video_id_of(relative_path: str) -> str:
    """Name of a video found by its path: without suffix, and one path component long."""
    return str(Path(relative_path).with_suffix("")).replace("/", "__")


def write_videos(path: Path, videos: Iterable[SourceVideo]) -> None:
    """Publish the list of source videos. Raises SourceError when two share a name or a file is gone."""
    listed = list(videos)
    seen: dict[str, Path] = {}
    for video in listed:
        if video.video_id in seen and seen[video.video_id] != video.path:
            raise SourceError(
                f"{seen[video.video_id]} and {video.path} would both be called '{video.video_id}'; "
                f"rename one of them"
            )
        seen[video.video_id] = video.path
    try:
        sizes = [file.stat().st_size for file in seen.values()]
    except FileNotFoundError as error:
        raise SourceError(f"{error.filename}: the video is not there") from None
    table = pa.table([list(seen), [str(file) for file in seen.values()], sizes], schema=VIDEOS)
    with publish(path) as draft:
        pq.write_table(table, draft)


def require_files(folder: Path, names: Sequence[str], *, what: str) -> None:
    """Raise SourceError that lists those of `names` which are not in `folder`."""
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; it should hold {what}")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise SourceError(f"{folder}: missing {', '.join(missing)}; it should hold {what}")


def names_of(missing: Sequence[str], *, limit: int = 10) -> str:
    """The first of many names, for a message."""
    more = f" and {len(missing) - limit} more" if len(missing) > limit else ""
    return ", ".join(missing[:limit]) + more
