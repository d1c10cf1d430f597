"""Trainings of the selected runs and their operations, from the settings and the files that exist so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avion_core.config import StageSettings
from avion_core.data.tables import row_count
from avion_core.files import read_json
from avion_core.layouts import CLASSES
from avion_core.workflow.planned import PlannedStage, Workflow

STAND_IN_CLASSES = 400
"""Outputs assumed for a classifier before annotate; the head is a thousandth of its operations."""
MILLION = 1_000_000


@dataclass(frozen=True)
class Training:
    """A stage of a run, and its operations."""

    stage: PlannedStage
    layout: str
    """Annotation layout of its data set."""
    clips: int | None
    """Rows of its clip tables; None before annotate."""
    flops_per_clip: int
    """Operations of the forward and backward pass."""
    finished: bool
    """Whether its model exists, made with these settings."""

    @property
    def gpus(self) -> int:
        """GPUs of the whole job."""
        return self.stage.recipe.world_size if self.stage.recipe.gpus else 0

    @property
    def steps(self) -> int | None:
        """Steps of all epochs; None if the clips are not known."""
        recipe = self.stage.recipe
        return None if self.clips is None else recipe.epochs * (self.clips // recipe.batch_size)

    @property
    def flops(self) -> float:
        """Operations in all; for each million rows of the clip tables if their number is not known."""
        recipe, steps = self.stage.recipe, self.steps
        seen = recipe.epochs * MILLION if steps is None else steps * recipe.batch_size
        return float(seen * recipe.clips_per_row * self.flops_per_clip)


def trainings(workflow: Workflow, flops_per_clip: Callable[..., int]) -> list[Training]:
    """The trainings of the runs, in order.

    `flops_per_clip` is `models.sizes.training_flops`, which takes a second; stages with the same model and
    sizes share a call. Raises ValueError for a damaged file.
    """
    known: dict[str, int] = {}
    found = []
    for stage in workflow.trained_stages():
        recipe = stage.recipe
        further = _class_arguments(workflow, recipe)
        same = repr(
            (
                *(recipe.model, recipe.trains, recipe.frozen),
                *(recipe.model_arguments(), recipe.dry_run_arguments(), further),
            )
        )
        if same not in known:
            known[same] = flops_per_clip(recipe, **further)
        found.append(
            Training(
                stage=stage,
                layout=workflow.settings.datasets[recipe.dataset].layout,
                clips=_clips(workflow, recipe),
                flops_per_clip=known[same],
                finished=workflow.is_made(stage),
            )
        )
    return found


def _clips(workflow: Workflow, recipe: StageSettings) -> int | None:
    """Rows of the joined clip tables; one that is not made yet counts as the human one."""
    human = Path(workflow.clip_table(recipe.dataset, "train"))
    if not human.exists():
        return None
    tables = map(Path, workflow.training_tables(recipe).values())
    return sum(row_count(table if table.exists() else human) for table in tables)


def _class_arguments(workflow: Workflow, recipe: StageSettings) -> dict[str, Any]:
    counts = class_counts(workflow, recipe)
    return recipe.class_arguments(lambda label: counts.get(label, STAND_IN_CLASSES))


def class_counts(workflow: Workflow, recipe: StageSettings) -> dict[str, int]:
    """Numbers of classes of a classifier's labels, as far as annotated.

    Raises ValueError for a damaged file.
    """
    path = Path(workflow.clips(recipe.dataset, CLASSES))
    classes = read_json(path) if recipe.labels and path.exists() else {}
    lists = classes if isinstance(classes, Mapping) else dict.fromkeys(recipe.labels)
    names = {label: lists.get(label, []) for label in recipe.labels}
    if not all(isinstance(own, list) for own in names.values()):
        raise ValueError(f"{path}: not lists of class names by label; delete it and run annotate")
    return {label: len(own) for label, own in names.items() if own}
