"""A data set's raw folder, where the pipeline replaces and removes only files that it wrote itself.

The folder may be the user's own, a link to it, or hold earlier files. A file is replaced if its content was
written by the pipeline, and kept if it already has the wanted content; anything else is an error.
`.written.json` records the written contents.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from avion_core.data.source_videos import SourceError
from avion_core.files import publish, read_json, sha256, write_json

WRITTEN = ".written.json"
"""In the raw folder: digests of the last two contents written to each file, by name."""


class RawFolder:
    """Writes annotation files into a raw folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        record = path / WRITTEN
        self._written: dict[str, list[str]] = read_json(record) if record.is_file() else {}
        if not isinstance(self._written, dict) or not all(map(_are_digests, self._written.values())):
            raise SourceError(f"{record}: damaged; move {path} away, and the data set is fetched again")

    def write(self, name: str, text: str) -> None:
        """Write a text file. Raises SourceError if a user's file has that name."""
        content = text.encode()
        digest = hashlib.sha256(content).hexdigest()
        self._place(name, digest, lambda draft: draft.write_bytes(content))

    def copy(self, source: Path, name: str) -> None:
        """Copy a file, unless it is the same file. Raises SourceError as `write` does."""
        target = self.path / name
        if target.exists() and target.samefile(source):
            return
        self._place(name, sha256(source), lambda draft: shutil.copyfile(source, draft))

    def files(self) -> dict[str, Path]:
        """All written files, by name."""
        return {name: self.path / name for name in self._written}

    def edited(self, digests: Mapping[str, str]) -> dict[str, str]:
        """Present digests of the files that differ from what was written."""
        last = {name: written[-1] for name, written in self._written.items()}
        return {name: digest for name, digest in digests.items() if last.get(name, digest) != digest}

    def adopt(self, names: Iterable[str]) -> None:
        """Record files that an external program wrote here for the pipeline."""
        for name in names:
            self._record(name, sha256(self.path / name))

    def check_unedited(self) -> None:
        """Raise SourceError if a file that a program is about to replace was edited since it was written."""
        there = {name: sha256(path) for name, path in self.files().items() if path.is_file()}
        for name in self.edited(there):
            raise SourceError(f"{self.path / name}: {EDITED}; move it away, or set the old settings again")

    def _place(self, name: str, digest: str, write: Callable[[Path], object]) -> None:
        target, written = self.path / name, self._written.get(name, [])
        if target.is_symlink() or target.exists():
            found = sha256(target) if target.is_file() else None
            if found == digest:
                return
            if written[-1:] == [digest]:
                print(f"{target}: {EDITED}; it is used as it is", file=sys.stderr)
                return
            if found not in written or target.is_symlink():
                raise SourceError(
                    f"{target}: it was not written by the pipeline, or was edited since; move it away, or "
                    "use the folder as it is with the source `local`"
                )
        self._record(name, digest)
        with publish(target) as draft:
            write(draft)

    def _record(self, name: str, digest: str) -> None:
        self._written[name] = [*(d for d in self._written.get(name, []) if d != digest), digest][-2:]
        write_json(self.path / WRITTEN, self._written)


EDITED = "it was edited since the pipeline wrote it"


def _are_digests(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(digest, str) for digest in value)
