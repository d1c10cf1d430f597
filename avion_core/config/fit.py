"""Check that a run's data sets support its tasks and evaluations, by the records of their layouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from avion_core.config.datasets import DatasetSettings
from avion_core.config.evaluations import EvaluationSettings
from avion_core.config.providers import provider_names
from avion_core.config.stage_classes import STAGE_TASKS
from avion_core.config.stages import StageSettings
from avion_core.evaluations import EVALUATIONS
from avion_core.layouts import LAYOUTS, Layout

if TYPE_CHECKING:
    from avion_core.config.runs import Settings


def unserved(settings: Settings, run: str) -> Iterator[str]:
    """Tasks, labels and evaluations of a run that their data set's layout does not support."""
    for name in settings.runs[run].stages:
        recipe, where = settings.stage(run, name), f"runs.{run}.stages.{name}"
        layout = settings.datasets[recipe.dataset].layout
        record = LAYOUTS[layout]
        if not _serves(record, type(recipe)):
            served = [name for name, task in STAGE_TASKS.items() if _serves(record, task)]
            yield (
                f"{where}: the task '{recipe.task}' cannot be trained on the data set "
                f"'{recipe.dataset}': the layout {layout} serves {' and '.join(served)}"
            )
        elif recipe.predicts and recipe.predicts not in record.labels:
            yield (
                f"{where}: label: the data set '{recipe.dataset}' has no '{recipe.predicts}'; "
                f"the layout {layout} has {', '.join(record.labels)}"
            )
        if "narrated" in recipe.clip_tables:
            yield from (f"{where}: {problem}" for problem in _without_narrator(settings))
        if recipe.validate_with:
            entry = settings.evaluations[recipe.validate_with]
            yield from _unmeasured(entry, settings.datasets, f"{where}.validate_with")
    for name in settings.runs[run].evaluations:
        yield from _unmeasured(settings.evaluations[name], settings.datasets, f"evaluations.{name}")


def _without_narrator(settings: Settings) -> Iterator[str]:
    """Why there is nobody to narrate what clips show."""
    narrator = settings.narrator
    if narrator.provider is None:
        names = ", ".join(provider_names(looks=True))
        yield f"narrations: 'narrated' needs narrator.provider, which is null; set it to one of: {names}"
    elif (trained := narrator.own.trained_stage()) is not None:
        run, stage = trained
        if run not in settings.runs or stage not in settings.runs[run].stages:
            yield f"narrations: narrator.{narrator.provider} needs the stage '{stage}' of a run '{run}'"
        elif narrator.provider == "trained" and settings.stage(run, stage).trains != "texts":
            yield (
                f"narrations: narrator.trained needs a stage with the task captioning; runs.{run}.stages."
                f"{stage} has the task {settings.stage(run, stage).task}"
            )
        elif not settings.stage(run, stage).sees_clips:
            yield (
                f"narrations: narrator.{narrator.provider} needs a stage that sees the clips; runs.{run}."
                f"stages.{stage} has text_only: true"
            )
        elif any("narrated" in recipe.clip_tables for recipe in _before(settings, run, stage)):
            yield (
                f"narrations: the narrator runs.{run}.stages.{stage}, or a stage that it starts from, would "
                "be trained on its own texts"
            )


def _before(settings: Settings, run: str, stage: str | None) -> Iterator[StageSettings]:
    """A stage's settings and those of the stages that it starts from."""
    while stage is not None:
        recipe = settings.stage(run, stage)
        yield recipe
        stage = recipe.start


def _serves(layout: Layout, task: type[StageSettings]) -> bool:
    """Whether a layout has everything that a task reads."""
    return set(task.files) <= layout.training.keys() and (layout.narrated or not task.reads_narrations)


def _unmeasured(
    entry: EvaluationSettings, datasets: Mapping[str, DatasetSettings], where: str
) -> Iterator[str]:
    layout = datasets[entry.dataset].layout
    served = LAYOUTS[layout].evaluations
    if entry.kind not in served:
        yield (
            f"{where}: {entry.kind} cannot be measured on the data set '{entry.dataset}': "
            f"the layout {layout} serves {' and '.join(served) or 'no evaluation'}"
        )
    elif missing := [name for name in EVALUATIONS[entry.kind].files if name not in served[entry.kind]]:
        yield f"{where}: {entry.kind} needs {missing[0]}, which the layout {layout} does not list for it"
