"""Digest of the code that measures, for evaluations and the rule that runs them."""

from __future__ import annotations

from pathlib import Path

from avion_core.evaluations import EVALUATIONS
from avion_core.files import code_fingerprint
from avion_core.registry import source_file


def evaluation_code(kind: str) -> str:
    """Digest of this package and, for a kind of a plug-in, of its evaluator."""
    own = source_file(EVALUATIONS[kind].evaluator)  # last, as it may have the name of a file of this package
    return code_fingerprint([*Path(__file__).parent.glob("*.py"), own])
