"""Needs of the targets on Snakemake's command line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from avion_core.config import Settings

UNNARRATED_TARGETS = ("plan", "download", "weights", "transcode", "annotate", "estimate")
"""Targets of the workflow that need no rephrased narrations."""
DATA_TARGETS = (*UNNARRATED_TARGETS, "narrate", "preflight")
"""Targets of the workflow that train and evaluate nothing."""


def planned_runs(settings: Settings, targets: Iterable[str]) -> tuple[str, ...]:
    """The selected runs, and runs with a result among the targets."""
    results = Path(settings.results_dir).absolute()
    paths = [Path(target).absolute() for target in targets]
    named = [path.relative_to(results).parts[:1] for path in paths if path.is_relative_to(results)]
    return tuple(
        dict.fromkeys(
            [*settings.selected_runs, *(run for run, *_ in filter(None, named) if run in settings.runs)]
        )
    )


def trains(settings: Settings, targets: Iterable[str]) -> bool:
    """Whether the targets need a training or an evaluation; no target means all."""
    data = Path(settings.data_dir).absolute()
    named = list(targets)
    return not named or not all(
        target in DATA_TARGETS or Path(target).absolute().is_relative_to(data) for target in named
    )


def narrates(targets: Iterable[str]) -> bool:
    """Whether the targets may need rephrased narrations; no target means all."""
    named = list(targets)
    return not named or not all(target in UNNARRATED_TARGETS for target in named)
