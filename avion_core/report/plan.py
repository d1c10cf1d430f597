"""The report's plan, written by the workflow as JSON.

It lists every file that the report reads, so that the workflow can declare them all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from avion_core.config import LayoutName, Section


class ReportError(ValueError):
    """The report cannot be made: the plan is wrong, or a file it names is missing or unreadable."""


class PlannedEvaluation(Section):
    """One evaluation of a run."""

    folder: Path
    """Folder with `metrics.json`, `outputs.safetensors` and `manifest.json`."""
    kind: str
    """Kind of evaluation."""
    dataset: str
    """Data set of the evaluation split."""
    stage: str
    """Stage of the run whose weights were evaluated."""
    files: dict[str, Path]
    """What it reads, by role: `chunks`, `clips` (EgoMCQ: the table of questions), `sentences` …"""


class PlannedRun(Section):
    """One run with one seed: its stages and their evaluations."""

    title: str
    stages: dict[str, Path]
    """Folder of each stage: `train.jsonl`, `model.json`, `manifest.json`."""
    evaluations: dict[str, PlannedEvaluation]


class PlannedDataset(Section):
    """One data set as it was prepared."""

    layout: LayoutName
    source: str
    chunks: Path
    """Chunk index."""
    quarantine: Path
    """Videos that could not be used, with reasons."""
    dropped: Path
    """Clips dropped by annotation, with reasons."""
    clips: dict[str, Path]
    """Clip tables by split."""


class PlannedNarrations(Section):
    """The training clips of one data set with rephrased narrations, or narrated from their frames."""

    provider: str
    table: Path
    """Clip table; rephrased texts follow the original."""
    dead: Path
    """List of the narrations or clips without a usable sentence."""
    summary: Path
    """Their counts, and a language model's bill."""
    chunks: Path
    """Chunk index, to show clips."""
    looks: bool = False
    """Whether clips are narrated from their frames."""


class Dag(Section):
    """Rules of the workflow and their edges."""

    nodes: tuple[str, ...]
    edges: tuple[tuple[str, str], ...]


class ReportPlan(Section):
    """Everything the report reads."""

    title: str = "Video and language models, from raw video to figures"
    """Heading of the page."""
    config: dict[str, Any]
    """The whole resolved configuration."""
    runs: dict[str, PlannedRun]
    """By the folder of the run's seed: `<run>`, or `<run>/seed-<seed>`."""
    datasets: dict[str, PlannedDataset]
    narrations: dict[str, PlannedNarrations]
    """Rephrased narrations by data set."""
    narrated: dict[str, PlannedNarrations]
    """Clips narrated from their frames, by data set."""
    revision: str = ""
    """Revision of the code that made the results."""
    dag: Dag = Dag(nodes=(), edges=())


def read_plan(text: str) -> ReportPlan:
    """A plan from JSON. Raises ReportError naming each missing, unknown or mistyped entry."""
    try:
        return ReportPlan.model_validate(json.loads(text))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors()
        )
        raise ReportError(f"the plan: {problems}") from None


def require(path: Path, what: str) -> Path:
    """Return `path` if the file exists; raise ReportError otherwise, naming what needs it."""
    if not path.is_file():
        raise ReportError(f"{path}: missing; {what} needs it. Run the workflow to make it")
    return path
