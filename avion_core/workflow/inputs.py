"""Files that trainings and evaluations read, by their names on the command line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from avion_core.config import EvaluationSettings
from avion_core.file_arguments import ENSEMBLE, VALIDATION
from avion_core.layouts import LAYOUTS
from avion_core.workflow.planned import Workflow


def training_files(workflow: Workflow, run: str, stage: str) -> dict[str, str]:
    """`clips_1` …, `chunks`, what the task reads beside them (`sentences`, `classes`), and `start`: the
    weights of the stage that this one starts from."""
    recipe = workflow.settings.stage(run, stage)
    tables = workflow.training_tables(recipe).values()
    files = {f"clips_{number}": path for number, path in enumerate(tables, start=1)}
    layout = LAYOUTS[workflow.settings.datasets[recipe.dataset].layout]
    further = {role: file for role, file in layout.training.items() if role in recipe.files}
    files["chunks"] = workflow.chunks(recipe.dataset)
    files |= {role: workflow.clips(recipe.dataset, file) for role, file in further.items()}
    return files | ({"start": workflow.model(run, recipe.start)} if recipe.start else {})


def validation_files(workflow: Workflow, run: str, stage: str) -> dict[str, str]:
    """`validation_chunks`, `validation_clips` …; empty if no evaluation validates the stage."""
    name = workflow.settings.stage(run, stage).validate_with
    if name is None:
        return {}
    files = evaluation_files(workflow, workflow.settings.evaluations[name])
    return {f"{VALIDATION}{role}": path for role, path in files.items()}


def validation_words(workflow: Workflow, run: str, stage: str) -> str:
    """The command-line option with that evaluation's settings, or nothing."""
    name = workflow.settings.stage(run, stage).validate_with
    if name is None:
        return ""
    return f"--validation {shlex.quote(json.dumps(workflow.settings.evaluations[name].recipe()))}"


def training_packets(workflow: Workflow, run: str, stage: str) -> list[str]:
    """The packets that the chunk indexes of a stage and of its validation point into."""
    recipe = workflow.settings.stage(run, stage)
    name = recipe.validate_with
    datasets = [recipe.dataset, *([workflow.settings.evaluations[name].dataset] if name else [])]
    return [workflow.packets(dataset) for dataset in dict.fromkeys(datasets)]


def evaluation_files(workflow: Workflow, entry: EvaluationSettings) -> dict[str, str]:
    """`chunks`, `clips`, the evaluation's further files (`sentences`, `classes`), and the outputs of those
    that it is averaged with (`ensemble_1` …)."""
    layout = LAYOUTS[workflow.settings.datasets[entry.dataset].layout]
    files = layout.evaluations.get(entry.kind, {})
    outputs = workflow.averaged_with(entry)
    return (
        {"chunks": workflow.chunks(entry.dataset)}
        | {role: workflow.clips(entry.dataset, file) for role, file in files.items()}
        | {f"{ENSEMBLE}{number}": path for number, path in enumerate(outputs, start=1)}
    )


def start_weights(workflow: Workflow, run: str, stage: str) -> dict[str, bool]:
    """The files of third-party weights that a stage starts from, and whether the age of each counts.

    For a model that was made with it, a fetched file that is gone is left out, and a file of the user's
    stays, as another set of inputs would train again. For any other, the former is fetched, and the latter
    left out: `precheck` reports it.
    """
    planned = workflow.stage(run, stage)
    made = workflow.is_made(planned)
    files = workflow.weight_files(planned.recipe)
    return {file.path: not file.fetched for file in files if Path(file.path).exists() or made != file.fetched}


def class_list_words(workflow: Workflow, dataset: str) -> str:
    """The option with the class lists that the provider reads for a data set, or nothing."""
    files = workflow.class_list_files(dataset)
    return f"--class-lists {shlex.join(files)}" if files else ""
