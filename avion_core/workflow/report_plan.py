"""The report's plan: what it shows, and the paths."""

from __future__ import annotations

from pathlib import Path

from avion_core.config import run_of
from avion_core.layouts import LAYOUTS
from avion_core.report.plan import (
    PlannedDataset,
    PlannedEvaluation,
    PlannedNarrations,
    PlannedRun,
    ReportPlan,
)
from avion_core.workflow.inputs import evaluation_files
from avion_core.workflow.planned import Workflow


def report_plan(workflow: Workflow) -> ReportPlan:
    """The plan of the selected runs, without revision and rule graph yet."""
    settings = workflow.settings
    return ReportPlan(
        config=settings.model_dump(mode="json"),
        runs={run: _run(workflow, run) for run in workflow.folders()},
        datasets={name: _dataset(workflow, name) for name in workflow.used_datasets()},
        narrations=_narrations(workflow, workflow.rephrased_datasets(), looks=False),
        narrated=_narrations(workflow, workflow.narrated_datasets(), looks=True),
    )


def _narrations(workflow: Workflow, datasets: list[str], *, looks: bool) -> dict[str, PlannedNarrations]:
    settings = workflow.settings
    provider = settings.narrator.provider if looks else settings.narrate.provider
    return {
        name: PlannedNarrations(
            provider=str(provider),
            chunks=Path(workflow.chunks(name)),
            looks=looks,
            **_paths(workflow.narration_files(name, looks=looks)),
        )
        for name in datasets
    }


def _run(workflow: Workflow, run: str) -> PlannedRun:
    entry = workflow.settings.runs[run_of(run)]
    return PlannedRun(
        title=entry.title,
        stages={stage: Path(workflow.model(run, stage)).parent for stage in entry.stages},
        evaluations={name: _evaluation(workflow, run, name) for name in entry.evaluations},
    )


def _evaluation(workflow: Workflow, run: str, name: str) -> PlannedEvaluation:
    entry = workflow.settings.evaluations[name]
    return PlannedEvaluation(
        folder=Path(workflow.result(run, name, "metrics.json")).parent,
        kind=entry.kind,
        dataset=entry.dataset,
        stage=entry.stage,
        files=_paths(evaluation_files(workflow, entry)),
    )


def _dataset(workflow: Workflow, name: str) -> PlannedDataset:
    dataset = workflow.settings.datasets[name]
    tables = LAYOUTS[dataset.layout].tables
    return PlannedDataset(
        layout=dataset.layout,
        source=dataset.source,
        chunks=Path(workflow.chunks(name)),
        quarantine=Path(workflow.data(name, "quarantine.json")),
        dropped=Path(workflow.clips(name, "dropped.json")),
        clips={table: Path(workflow.clip_table(name, table)) for table in tables},
    )


def _paths(files: dict[str, str]) -> dict[str, Path]:
    return {name: Path(path) for name, path in files.items()}
