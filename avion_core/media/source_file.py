"""Source videos as files: detects those that were replaced or are missing."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from avion_core.files import read_json


@dataclass(frozen=True)
class FileMark:
    """Size and time of a file, which change when it is replaced; costs one `stat`."""

    bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileMark | None:
        """Mark of the file or folder at this path; None if there is none."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_size, found.st_mtime_ns)


def look_at(source: Path) -> FileMark | None:
    """Mark of a source; None if it is away: removed, emptied, not mounted, unreadable, or now a folder."""
    try:
        found = source.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode) or not found.st_size or not os.access(source, os.R_OK):
        return None
    return FileMark(found.st_size, found.st_mtime_ns)


def returned_sources(quarantine: Path) -> list[str]:
    """Videos that were away when the quarantine list was written and are back now.

    Raises ValueError, naming the list, if it is damaged.
    """
    entries = read_json(quarantine) if quarantine.is_file() else []
    try:
        return [entry["path"] for entry in entries if entry.get("away") and look_at(Path(entry["path"]))]
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"{quarantine}: damaged; delete it to have it made anew") from None
