"""Check that a run's data sets support its tasks and evaluations, by the records of their layouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from avion_core.config.datasets import DatasetSettings
from avion_core.config.evaluations import EnsembleMember, EvaluationSettings, ensemble_of
from avion_core.config.narration import NarrateSettings
from avion_core.config.narrator import NarratorSettings
from avion_core.config.providers import provider_names
from avion_core.config.stage_classes import STAGE_TASKS
from avion_core.config.stages import StageSettings
from avion_core.evaluations import EVALUATIONS
from avion_core.layouts import LAYOUTS, TAG_COLUMNS, Layout

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
        elif unknown := [label for label in recipe.labels if label not in record.labels]:
            setting = "label" if unknown[0] == recipe.predicts else "further_labels"
            yield (
                f"{where}: {setting}: the data set '{recipe.dataset}' has no '{unknown[0]}'; "
                f"the layout {layout} has {', '.join(record.labels)}"
            )
        if recipe.epochs and set(recipe.loss_entries) & set(TAG_COLUMNS):
            problems = _without_tags(recipe.dataset, settings.datasets[recipe.dataset])
            needs = f"{where}: the loss '{recipe.loss_name}' needs verb and noun tags, which"
            yield from (f"{needs} {problem}, or set tags: none" for problem in problems)
        if "narrated" in recipe.clip_tables:
            yield from (f"{where}: {problem}" for problem in _without_narrator(settings))
        for kind in recipe.clip_tables:
            yield from _unfit_filter(settings, kind)
        if recipe.validate_with:
            entry = settings.evaluations[recipe.validate_with]
            yield from _unmeasured(entry, settings.datasets, f"{where}.validate_with")
            if ensemble_of(entry):
                yield f"{where}.validate_with: '{recipe.validate_with}' has an ensemble; name one without"
    for name in settings.runs[run].evaluations:
        yield from _unmeasured(settings.evaluations[name], settings.datasets, f"evaluations.{name}")
        members = ensemble_of(settings.evaluations[name])
        if len(set(members)) < len(members):
            yield f"evaluations.{name}.ensemble: names an evaluation twice; leave one out"
        for member in members:
            yield from _unfit_member(settings, run, name, member)


def _unfit_member(settings: Settings, run: str, name: str, member: EnsembleMember) -> Iterator[str]:
    """Why a run's evaluation cannot be averaged with another."""
    where, entry = f"evaluations.{name}.ensemble", settings.evaluations[name]
    if member.run not in settings.runs or member.evaluation not in settings.runs[member.run].evaluations:
        yield f"{where}: needs the evaluation '{member.evaluation}' of a run '{member.run}'"
        return
    other = settings.evaluations[member.evaluation]
    if (other.kind, other.dataset) != (entry.kind, entry.dataset):
        yield (
            f"{where}: '{member.evaluation}' measures {other.kind} on '{other.dataset}', not {entry.kind} on "
            f"'{entry.dataset}'"
        )
    elif ensemble_of(other):
        yield f"{where}: '{member.evaluation}' has an ensemble itself; name its members instead"
    elif member.run == run and _similarities(other) == _similarities(entry):
        yield (
            f"{where}: '{member.evaluation}' of the run '{run}' has the model and clips of this evaluation "
            "itself; name those of other models"
        )


def _similarities(entry: EvaluationSettings) -> dict[str, Any]:
    """The settings of a retrieval evaluation that decide its own similarities of clips and sentences."""
    return {name: value for name, value in entry.recipe().items() if name not in ("ensemble", "dual_softmax")}


def _without_tags(name: str, dataset: DatasetSettings) -> Iterator[str]:
    """Why a data set's clips have no tags, and the way out."""
    record, published = LAYOUTS[dataset.layout], dataset.clips_from
    if not record.tags:
        yield f"the layout {dataset.layout} of the data set '{name}' does not have; choose another data set"
    elif published not in (None, record.tag_file):
        yield f"clips of {published} do not have; set datasets.{name}.clips_from to {record.tag_file} or null"


def _without_narrator(settings: Settings) -> Iterator[str]:
    """Why nothing can narrate clips."""
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
        elif _needs(settings, run, stage, "narrated"):
            yield (
                f"narrations: the narrator runs.{run}.stages.{stage}, or a stage that it starts from, would "
                "be trained on its own texts"
            )


def _unfit_filter(settings: Settings, kind: str) -> Iterator[str]:
    """Why texts of a kind cannot be filtered by their cosines."""
    section = _section(settings, kind)
    chosen = section.filters.cosine if section else None
    if chosen is None:
        return
    where = f"{'narrate' if kind == 'rephrased' else 'narrator'}.filters.cosine"
    named = f"runs.{chosen.run}.stages.{chosen.stage}"
    if chosen.run not in settings.runs or chosen.stage not in settings.runs[chosen.run].stages:
        yield f"{where}: needs the stage '{chosen.stage}' of a run '{chosen.run}'"
    elif (recipe := settings.stage(chosen.run, chosen.stage)).trains != "embeddings":
        yield f"{where}: needs a stage that trains a dual encoder; {named} has the task {recipe.task}"
    elif _needs(settings, chosen.run, chosen.stage, kind):
        yield (
            f"{where}: {named} cannot filter {kind} texts, as it needs them itself: it, or a stage that it "
            "depends on, is trained on them; name one that is not"
        )


def _section(settings: Settings, kind: str) -> NarrateSettings | NarratorSettings | None:
    """The section that chooses who writes texts of a kind."""
    if kind == "rephrased":
        return settings.narrate
    return settings.narrator if kind == "narrated" else None


def _needs(settings: Settings, run: str, stage: str, kind: str, seen: frozenset[str] = frozenset()) -> bool:
    """Whether texts of a kind (`rephrased`, `narrated`) have to be there before a stage can be trained."""
    kinds = {each for recipe in _before(settings, run, stage) for each in recipe.clip_tables} - seen
    return kind in kinds or any(
        _needs(settings, *other, kind, seen | kinds) for each in kinds for other in _makers(settings, each)
    )


def _makers(settings: Settings, kind: str) -> Iterator[tuple[str, str]]:
    """Run and stage of each model that makes or filters texts of a kind, as far as they are configured."""
    section = _section(settings, kind)
    if section is None or section.provider is None:
        return
    cosine = section.filters.cosine
    for named in (section.own.trained_stage(), (cosine.run, cosine.stage) if cosine else None):
        if named and named[0] in settings.runs and named[1] in settings.runs[named[0]].stages:
            yield named


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
