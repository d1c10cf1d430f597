"""Checks before any job of stages still to be trained: starts, patterns of weights, facts about clips."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from avion_core.config import StageSettings
from avion_core.data.clips import ClipTable
from avion_core.layouts import LAYOUTS, TAG_COLUMNS
from avion_core.models.starts import surely_starts
from avion_core.train.entries import ENTRIES
from avion_core.workflow import PlannedStage, Workflow
from avion_core.workflow.trainings import class_counts


def left_to_train(workflow: Workflow) -> Iterator[PlannedStage]:
    """The stages still to be trained, for one seed of each run."""
    seen: set[str] = set()
    for stage in workflow.trained_stages():
        if stage.where not in seen and not workflow.is_made(stage):
            seen.add(stage.where)
            yield stage


def check_patterns(workflow: Workflow) -> Iterator[str]:
    """Patterns of `freeze` and of weight decay that match no weight, or leave none to train, in stages still
    to be trained."""
    for stage in left_to_train(workflow):
        recipe = stage.recipe
        decay = (*recipe.no_weight_decay, *recipe.force_weight_decay) if recipe.epochs else ()
        if not (recipe.frozen or decay):
            continue
        from avion_core.models.store import shapes_of  # imports torch, which takes seconds
        from avion_core.train.parts import groups_of

        try:
            model = shapes_of(recipe)
            model.freeze(recipe.frozen)
            if decay:
                groups_of(recipe, model)
        except ValueError as error:
            yield f"{stage.where}: {error}"


def check_start_files(workflow: Workflow) -> Iterator[str]:
    """Files of third-party weights for stages still to be trained, including their content."""
    for stage in left_to_train(workflow):
        files = workflow.weight_files(stage.recipe)
        missing = [file.path for file in files if not Path(file.path).is_file() and not file.fetched]
        yield from (
            f"{stage.where}: start_weights: {path}: no such file; correct the path" for path in missing
        )
        if missing or not files:
            continue
        from avion_core.models.foreign import check_weights  # imports torch, which takes seconds
        from avion_core.models.open_clip_weights import check_name

        try:
            for file in files:
                if file.fetched:
                    check_name(file.source)
            if all(Path(file.path).is_file() for file in files):
                paths = (file.path for file in files)
                check_weights(stage.recipe, *paths, classes=_annotated_classes(workflow, stage.recipe))
        except (OSError, ValueError) as error:
            yield f"{stage.where}: start_weights: {error}"


def check_starts(workflow: Workflow) -> Iterator[str]:
    """Stages still to be trained that do not fit the stage they start from."""
    for stage in left_to_train(workflow):
        if stage.recipe.start is None:
            continue
        source = workflow.settings.stage(stage.run, stage.recipe.start)
        try:
            if surely_starts(stage.recipe, source) and not stage.recipe.frozen:
                continue
        except ValueError:
            continue  # listed by check_models
        from avion_core.models.store import check_stage_start  # imports torch, which takes seconds

        recipes = (stage.recipe, source)
        counts = [_annotated_classes(workflow, recipe) for recipe in recipes]
        known = all(recipe.labels == tuple(own) for recipe, own in zip(recipes, counts, strict=True))
        classes, source_classes = counts if known else ({}, {})
        try:
            check_stage_start(stage.recipe, source, classes=classes, source_classes=source_classes)
        except ValueError as error:
            yield f"{stage.where}: start: {error}"


def _annotated_classes(workflow: Workflow, recipe: StageSettings) -> dict[str, int]:
    """Numbers of classes of a classifier's labels, as far as annotated from the present source."""
    if workflow.recorded_state(recipe.dataset) != workflow.source_state(recipe.dataset):
        return {}
    try:
        return class_counts(workflow, recipe)
    except ValueError:
        return {}  # remade by annotate


def check_entries(workflow: Workflow) -> Iterator[str]:
    """Losses of stages still to be trained that need facts about each clip, such as tags, which the data set
    lacks, as far as known."""
    for stage in left_to_train(workflow):
        names = stage.recipe.loss_entries if stage.recipe.epochs else ()
        lacking = filter(None, (_lacking(workflow, stage.recipe.dataset, name) for name in names))
        if problem := next(lacking, None):
            yield f"{stage.where}: the loss '{stage.recipe.loss_name}' {problem}"


def _lacking(workflow: Workflow, dataset: str, entry: str) -> str | None:
    """Why a data set's clips will lack this entry of a batch, and the way out."""
    data_set, table = workflow.data_set(dataset), Path(workflow.clip_table(dataset, "train"))
    file, own = LAYOUTS[data_set.settings.layout].tag_file, data_set.settings.source_settings
    if file and entry in TAG_COLUMNS and not own.generated and file not in data_set.source().annotations():
        return (
            f"needs verb and noun tags, which are in {file}, and '{dataset}' has no such file; add it "
            "(docs/ego4d.md), or set tags: none"
        )
    if workflow.recorded_state(dataset) == workflow.source_state(dataset) and table.exists():
        try:
            ENTRIES[entry](ClipTable.load(table))
        except ValueError as error:
            return f"cannot be trained on '{dataset}': {error}"
    return None
