"""Workspaces that several tests start from, made once."""

from __future__ import annotations

from pathlib import Path

import harness
import pytest


@pytest.fixture(scope="session")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small toy kitchen: rendered, transcoded, annotated. Copy it; do not write to it."""
    folder = tmp_path_factory.mktemp("annotated")
    harness.finished(folder, "annotate")
    return folder


@pytest.fixture(scope="session")
def reported(annotated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small pipeline, run to the report. Dry runs only; copy it to change anything."""
    folder = harness.copy_workspace(annotated, tmp_path_factory.mktemp("reported") / "workspace")
    harness.finished(folder)
    return folder
