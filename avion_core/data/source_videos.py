"""Common to all sources: source videos, their names and their list, and errors that users can fix."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from avion_core.media.file_table import write_file_table
from avion_core.media.source_file import FileMark, look_at

VIDEO_LIST = "videos.parquet"
VIDEOS = pa.schema(
    [
        ("video_id", pa.string()),
        ("path", pa.string()),
        ("bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
    ]
)
"""Columns of `videos.parquet`; size and time show whether a video was replaced; paths are as in
`avion_core.media.file_table`."""
FILES_AT_ONCE = 32

VideosOfClips = Mapping[str, Sequence[Collection[str]]]
"""The videos that each clip (or question) needs, by table."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class SourceError(ValueError):
    """Files of a data set are missing or wrong. The message names the file, the row and a way out."""


@dataclass(frozen=True)
class SourceVideo:
    """A source video for `transcode`."""

    video_id: str
    path: Path


def in_parallel(look: Callable[[Item], Answer], items: Iterable[Item]) -> list[Answer]:
    """Apply `look` to many files in parallel: a network disk may take a millisecond per file."""
    wanted = list(items)
    share = -(-len(wanted) // FILES_AT_ONCE) or 1
    shares = [wanted[first : first + share] for first in range(0, len(wanted), share)]
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        return [answer for part in pool.map(lambda part: [*map(look, part)], shares) for answer in part]


def marks_of(videos: Iterable[SourceVideo], *, recorded: Collection[str]) -> list[FileMark | None]:
    """Marks of many videos; None for missing ones.

    A video that is not `recorded` has a mark as soon as anything has its name, even an empty file:
    transcoding quarantines it with the reason. A recorded one has none while it is away.
    """

    def mark(video: SourceVideo) -> FileMark | None:
        return look_at(video.path) or (None if video.video_id in recorded else FileMark.of(video.path))

    return in_parallel(mark, videos)


def canonical_name(relative_path: str) -> str:
    """A path in the form used in all tables: `/` between folders, no `./`, accents composed (Unicode NFC)."""
    return unicodedata.normalize("NFC", posixpath.normpath(relative_path.replace("\\", "/")))


def video_id_of(relative_path: str) -> str:
    """Name of a video from its path: without suffix, as one path component."""
    return posixpath.splitext(canonical_name(relative_path))[0].replace("/", "__")


def find_file(folder: Path, name: str) -> Path | None:
    """The file of this canonical name in `folder`, however the disk composes accents."""
    file, place = folder / name, folder
    try:
        if file.is_file():
            return file
        if name.isascii():
            return None
        for part in Path(name).parts:
            if not part.isascii() and not (place / part).exists() and place.is_dir():
                entries = [entry.name for entry in place.iterdir()]
                place /= next((name for name in entries if unicodedata.normalize("NFC", name) == part), part)
            else:
                place /= part
        return place if place.is_file() else None
    except OSError:  # such as a name too long for the disk
        return None


def find_listed(
    folder: Path, places: Mapping[str, Sequence[str]]
) -> tuple[list[SourceVideo], list[SourceVideo]]:
    """Videos found in `folder`, each in the first of its places, and all places of the missing ones."""

    def look(paths: Sequence[str]) -> Path | None:
        return next((file for path in paths if (file := find_file(folder, path)) is not None), None)

    files = dict(zip(places, in_parallel(look, places.values()), strict=True))
    missing = [video_id for video_id, file in files.items() if file is None]
    return (
        [SourceVideo(video_id, file) for video_id, file in files.items() if file is not None],
        [SourceVideo(video_id, folder / path) for video_id in missing for path in places[video_id]],
    )


def refuse_namesakes(videos: Iterable[tuple[str, str]]) -> None:
    """Raise SourceError that lists all files that would share a video's name, ignoring case.

    `videos` are pairs of a video's name and its file.
    """
    files: dict[str, set[str]] = {}
    for video_id, path in videos:
        files.setdefault(video_id.casefold(), set()).add(path)
    groups = [" and ".join(sorted(paths)) for paths in files.values() if len(paths) > 1]
    if groups:
        raise SourceError(
            f"videos are named by their path without suffix, in any case, with __ for /; these would have "
            f"the same name: {names_of(groups, separator='; ')}; rename all but one of each"
        )


def refuse_repeated(listed: Iterable[tuple[str, str]]) -> None:
    """Raise SourceError if a video is listed twice, ignoring case: in one list, or for training and for test.

    `listed` are pairs of a video's name and its place, a file and a line.
    """
    places: dict[str, str] = {}
    for video_id, place in listed:
        if (first := places.setdefault(video_id.casefold(), place)) != place:
            raise SourceError(
                f"{place}: '{video_id}' is there already, in {first}; a video is listed once, for training "
                "or for test: restore the owner's files"
            )


def refuse_odd_names(videos: Iterable[SourceVideo]) -> None:
    """Raise SourceError that lists videos whose path is not UTF-8: no table can hold it."""
    odd = [video.path for video in videos if not is_utf8(str(video.path))]
    if odd:
        names = names_of([str(path).encode(errors="backslashreplace").decode() for path in odd])
        raise SourceError(f"names of files or folders that are not UTF-8: {names}; rename them")


def is_utf8(name: str) -> bool:
    """Whether a file name, as Python decoded it, was valid UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_videos(path: Path, videos: Mapping[SourceVideo, FileMark]) -> None:
    """Publish the list of source videos. Raises SourceError when two share a name."""
    refuse_namesakes((video.video_id, str(video.path)) for video in videos)
    columns = [
        [video.video_id for video in videos],
        [str(video.path) for video in videos],
        [mark.bytes for mark in videos.values()],
        [mark.mtime_ns for mark in videos.values()],
    ]
    write_file_table(path, pa.table(columns, schema=VIDEOS))


def require_files(folder: Path, names: Sequence[str], *, what: str) -> None:
    """Raise SourceError that lists the `names` missing from `folder`."""
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; set `local.path` to one that holds {what}")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise SourceError(
            f"{folder}: missing {', '.join(missing)}; set `local.path` to a folder that holds {what}"
        )


def names_of(missing: Sequence[str], *, limit: int = 10, separator: str = ", ") -> str:
    """The first of many names, for a message."""
    more = f" and {len(missing) - limit} more" if len(missing) > limit else ""
    return separator.join(missing[:limit]) + more
