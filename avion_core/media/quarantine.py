"""Sources that are away: whether one is, and whether one that was quarantined for it is back."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from avion_core.files import read_json


def look_at(source: Path) -> dict[str, int] | None:
    """Size and time of a source; None if it is away: removed, emptied, not mounted, or unreadable."""
    try:
        found = source.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode) or not found.st_size or not os.access(source, os.R_OK):
        return None
    return {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns}


def returned_sources(quarantine: Path) -> list[str]:
    """Videos that were away when a list of quarantined videos was written, and are there now."""
    entries = read_json(quarantine) if quarantine.is_file() else []
    return [entry["path"] for entry in entries if entry.get("away") and look_at(Path(entry["path"]))]
