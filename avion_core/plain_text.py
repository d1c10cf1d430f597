"""Texts that others wrote, as one line of visible characters: no terminal or page can be fooled by them."""

from __future__ import annotations

import re

_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?")
"""A terminal's control sequences: colours and cursor moves; titles and links."""


def plain(text: str) -> str:
    """`text` on one line, words one space apart.

    Terminal sequences go, and so do characters without a shape: control, zero-width and bidirectional ones,
    lone surrogates, and code points that stand for no character.
    """
    text = _SEQUENCE.sub(" ", text)
    if not text.isprintable():
        text = "".join(character for character in text if character.isprintable() or character.isspace())
    return " ".join(text.split())  # at every kind of space and line separator
