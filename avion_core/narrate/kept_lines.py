"""Lines that stopped jobs left in their files: results of pieces of work that need not be repeated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avion_core.narrate.journal import parse_line


def kept_lines(folder: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects in the `Journal` files of all shards. A line cut short by a kill is left out."""
    for path in sorted(folder.glob("*.jsonl")):
        start = 0
        with path.open("rb") as stream:
            for line in stream:
                if line.endswith(b"\n"):
                    yield parse_line(line, path, start=start)
                start += len(line)
