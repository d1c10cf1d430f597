"""Digests of code, for cheap rules that rerun when it changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from avion_core.config import PROVIDERS
from avion_core.files import code_fingerprint
from avion_core.layouts import LAYOUTS
from avion_core.registry import LIBRARY, code_files, source_file

ANNOTATE = (
    "annotate.py",
    "annotation.py",
    "annotation_files.py",
    "clips.py",
    "dropped.py",
    "repeats.py",
    "tables.py",
    "source_videos.py",
)
"""Modules of the package `data` that make every layout's tables."""

FILTER_CODE = (
    "narrate/filtered.py",
    "narrate/quality.py",
    "narrate/likeness.py",
    "narrate/sentences.py",
    "narrate/talk.yaml",
)
"""What decides which texts the filters keep, beside the lexicon."""

SAME_RESULTS: Mapping[str, str] = {
    "1550c2a361fbd053": "def7eee8f0db1aca",  # ego4d
    "ece10250accc4e62": "13853457a071ad5f",  # ek100
    "9233a6df938215d3": "e7feffa5410dcb8c",  # kinetics
    "9d4435a2a0e7e414": "6a6c53187f0b1367",  # folder
    "37aab73d382ab9a9": "7068e9ba846fce99",  # lexicon
}
"""The digest by which code was recorded before it was rewritten, by that of the code now.

Only for code that makes the very same files: it then remakes nothing in existing workspaces. A digest that is
not here counts as new code.
"""


def library_code(*patterns: str) -> str:
    """Digest of the library's files that match one of the patterns."""
    return _recorded(path for pattern in patterns for path in sorted(LIBRARY.glob(pattern)) if path.is_file())


def annotation_code(layout: str) -> str:
    """Digest of the code behind a layout's tables: its reader, and what its record adds."""
    shared = [LIBRARY / "data" / name for name in ANNOTATE]
    own = {source_file(LAYOUTS[layout].reader), *code_files(LAYOUTS[layout].code)}
    return _recorded([*shared, *sorted(own)])


def provider_code(provider: str) -> str:
    """Digest of a provider's code; empty for one whose answers are paid for and kept."""
    files = code_files(PROVIDERS[provider].code)
    return _recorded(files) if files else ""


def _recorded(files: Iterable[Path]) -> str:
    digest = code_fingerprint(files)
    return SAME_RESULTS.get(digest, digest)
