"""State of a data set's source: when it was fetched, and now.

`source.json` beside `videos.parquet` records it. A file that is away (its disk unmounted, deleted or emptied
to save space) counts as recorded, so nothing made from it is remade. An external source is compared file by
file. For a source that the pipeline makes in its raw folder, the settings count, and files that were edited.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path

from avion_core.data.source_videos import SourceError, SourceVideo, marks_of
from avion_core.files import fingerprint, read_json, sha256, write_json
from avion_core.media.file_table import portable
from avion_core.media.source_file import FileMark
from avion_core.sources.raw_folder import RawFolder

RECORD = "source.json"


@dataclass(frozen=True)
class SourceState:
    """The part of a source's state that affects results."""

    recipe: str = ""
    """Fingerprint of the settings that affect the files."""
    where: Sequence[str] = ()
    """Folders of the source; a moved one is fetched again, without other reruns."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Digests by name; of files that the pipeline made, only edited ones."""
    videos_digest: str = ""
    """Changes when a video is added, removed or replaced."""

    @property
    def digest(self) -> str:
        """Changes when the source must be fetched again."""
        return fingerprint([self.videos_digest, self.annotations_digest(), self.where])

    def annotations_digest(self, names: Collection[str] | None = None) -> str:
        """Changes with the annotation files: all, or those in `names`."""
        chosen = {name: digest for name, digest in self.annotations.items() if not names or name in names}
        return fingerprint([self.recipe, chosen])


def _state(
    recipe: str, where: Sequence[str], annotations: Mapping[str, str], videos: Mapping[str, FileMark]
) -> SourceState:
    marks = {name: astuple(mark) for name, mark in videos.items()}
    return SourceState(recipe, list(where), dict(annotations), fingerprint([recipe, marks]))


@dataclass(frozen=True)
class SourceRecord:
    """The source as it was at the last fetch. Empty before the first one."""

    state: SourceState = SourceState()
    annotations: Mapping[str, tuple[FileMark, str]] = field(default_factory=dict)
    """Annotation files by name: mark and sha256."""
    videos: Mapping[str, tuple[Path, FileMark]] = field(default_factory=dict)
    """Videos by name; files that the pipeline made have their original marks."""
    missing: Sequence[SourceVideo] = ()
    """Annotated videos that were missing, and their expected paths."""

    @classmethod
    def read(cls, folder: Path) -> SourceRecord:
        """Read the record in a data set's folder; an empty one if there is none.

        Raises SourceError, naming the file, if it is damaged.
        """
        path = folder / RECORD
        if not path.is_file():
            return cls()
        try:
            content = read_json(path)
            return cls(
                state=SourceState(**content["state"]),
                annotations={
                    name: (FileMark(*mark), digest) for name, (mark, digest) in content["annotations"].items()
                },
                videos={
                    name: (folder / place, FileMark(*mark))
                    for name, (place, mark) in content["videos"].items()
                },
                missing=[SourceVideo(name, folder / place) for name, place in content["missing"]],
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise SourceError(f"{path}: damaged; delete it, and the data set is fetched again") from None

    def write(self, folder: Path) -> None:
        """Publish the record, with paths inside the folder relative to it."""
        home = folder.absolute()
        content = {
            "state": asdict(self.state),
            "annotations": {
                name: [astuple(mark), digest] for name, (mark, digest) in self.annotations.items()
            },
            "videos": {
                name: [portable(path, home), astuple(mark)] for name, (path, mark) in self.videos.items()
            },
            "missing": [[video.video_id, portable(video.path, home)] for video in self.missing],
        }
        write_json(folder / RECORD, content)

    def away(self) -> dict[str, FileMark]:
        """Marks of recorded videos whose file is away."""
        return {name: mark for name, (_, mark) in self.videos.items()}

    def others(self, videos: Iterable[SourceVideo]) -> list[SourceVideo]:
        """Recorded videos that are not in `videos`."""
        names = {video.video_id for video in videos}
        return [SourceVideo(name, path) for name, (path, _) in self.videos.items() if name not in names]

    def digest_of(self, name: str, path: Path) -> tuple[FileMark, str] | None:
        """Mark and sha256 of an annotation file, read only if its mark is new; None if it cannot be read."""
        mark = FileMark.of(path)
        if mark is None:
            return None
        known = self.annotations.get(name)
        try:
            return known if known and known[0] == mark else (mark, sha256(path))
        except OSError:  # reported by the source's check
            return None


def found_state(
    record: SourceRecord,
    *,
    recipe: str,
    where: Sequence[str],
    annotations: Mapping[str, Path],
    list_videos: Callable[[], Sequence[SourceVideo]],
    named: bool,
) -> SourceState:
    """State of an external source.

    `annotations` are its files by name, except those away; `list_videos` lists its videos, present or not.
    With `named`, the annotations name all videos, and it is called only if the annotations have changed.
    """
    seen = {name: record.digest_of(name, path) for name, path in annotations.items()}
    recorded = {name: digest for name, (_, digest) in record.annotations.items()}
    digests = recorded | {name: entry[1] for name, entry in seen.items() if entry}
    before = record.state
    as_recorded = (recipe, list(where), digests) == (before.recipe, before.where, recorded)
    wanted = [*record.others([]), *record.missing]
    if not (named and as_recorded):
        try:
            listed = list(list_videos())
        except (OSError, ValueError):
            pass  # away, or unreadable: reported by the source's check
        else:
            wanted = listed if named else [*listed, *record.others(listed)]
    away, videos = record.away(), {}
    for video, mark in zip(wanted, marks_of(wanted, recorded=away), strict=True):
        if mark or video.video_id in away:
            videos[video.video_id] = mark or away[video.video_id]
    return _state(recipe, where, digests, dict(sorted(videos.items())))


def made_state(
    record: SourceRecord, raw_dir: Path, *, recipe: str, annotations: Mapping[str, Path]
) -> SourceState:
    """State of a source that the pipeline makes in `raw_dir`. Files elsewhere are compared by content."""
    seen = {name: record.digest_of(name, path) for name, path in annotations.items()}
    digests = {name: entry[1] for name, entry in seen.items() if entry}
    users = {name for name, path in annotations.items() if path != raw_dir / name}
    away = {name: record.annotations[name][1] for name in users & set(record.annotations)}
    made = {name: digest for name, digest in digests.items() if name not in users}
    decisive = away | {name: digests[name] for name in users & set(digests)} | RawFolder(raw_dir).edited(made)
    marks = marks_of(record.others([]), recorded=record.videos)
    changed = {
        name: mark
        for (name, (_, ours)), mark in zip(record.videos.items(), marks, strict=True)
        if mark and mark != ours
    }
    return _state(recipe, [], decisive, changed)
