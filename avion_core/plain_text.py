"""Third-party text as one line of visible characters, safe to show on a terminal or page."""

from __future__ import annotations

import re

_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?")
"""A terminal's control sequences: colours and cursor moves; titles and links."""


def plain(text: str) -> str:
    """`text` on one line, words one space apart.

    Removes terminal sequences and invisible characters: control, zero-width and bidirectional ones, lone
    surrogates and unassigned code points.
    """
    text = _SEQUENCE.sub(" ", text)
    if not text.isprintable():
        text = "".join(character for character in text if character.isprintable() or character.isspace())
    return " ".join(text.split())  # at every kind of space and line separator
