"""Read and check the results of the runs: figures, training logs, descriptions and manifests.

Settings come from the manifests. The configuration, which may have changed since, only fills in what old
manifests lack; differences between the two are kept (`Results.differences`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from avion_core.config import PROVIDERS, Settings, StageSettings, run_of
from avion_core.evaluate.bootstrap import Scores, load_scores
from avion_core.evaluate.figures import is_number, numbers
from avion_core.evaluations import DUAL_SOFTMAX, EVALUATIONS, EvaluationKind
from avion_core.files import read_json
from avion_core.manifests import (
    MANIFEST,
    Difference,
    evaluation_differences,
    evaluation_record,
    read_manifest,
    stage_differences,
    stage_record,
)
from avion_core.report.plan import PlannedEvaluation, ReportError, ReportPlan, require
from avion_core.report.seeds import mean_metrics
from avion_core.report.training_log import TrainingLog, are_bad_clips, read_log


def text_by(
    kinds: Iterable[str], providers: Iterable[str], called: Callable[[str], str] = str
) -> dict[str, str]:
    """Where texts come from, in words, by their kind: `human`, or "rephrased by …", "narrated by …"."""
    names: dict[bool, list[str]] = {False: [], True: []}
    for name in providers:
        names[name in PROVIDERS and PROVIDERS[name].looks].append(called(name))
    by = {looks: " and ".join(found) or "an unrecorded provider" for looks, found in names.items()}
    return {kind: kind if kind == "human" else f"{kind} by {by[kind == 'narrated']}" for kind in kinds}


@dataclass(frozen=True, eq=False)
class StageResult:
    """One trained stage of a run, for one seed."""

    run: str
    """Folder of the run's seed."""
    run_title: str
    name: str
    folder: Path
    settings: StageSettings
    """Recipe of the training."""
    seed: int | None
    clips: int | None
    """Rows of the training's clip tables; seed and clips are None if not recorded."""
    providers: tuple[str, ...]
    """Providers of the rephrased and narrated texts used in training."""
    log: TrainingLog
    model: Mapping[str, Any]
    manifest: Mapping[str, Any]

    @property
    def trained(self) -> bool:
        """Whether it trained; if not, it passes its start weights on."""
        return self.settings.epochs > 0


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """One evaluation of a run, with the stages behind the weights; of several seeds, the means."""

    run: str
    """Folder of the run's seed; the run's name for a mean over seeds."""
    run_title: str
    name: str
    planned: PlannedEvaluation
    layout: str
    seed: int
    metrics: Mapping[str, Any]
    manifest: Mapping[str, Any]
    stages: tuple[StageResult, ...]
    """The stages that the evaluated one started from, then that stage."""
    seeds: Mapping[int, EvaluationResult] = field(default_factory=dict)
    """Each seed's result of a run with several, whose first seed is described above; else empty."""

    @cached_property
    def figures(self) -> dict[str, float]:
        """Per cent by dotted name (`mAP.mean`, `verb_top1`)."""
        return self._percent({key: value for key, value in self.metrics.items() if key != "chance"})

    @cached_property
    def chance(self) -> dict[str, float]:
        """The same for chance."""
        return self._percent(self.metrics["chance"])

    @cached_property
    def strict(self) -> dict[str, float]:
        """The same with unreadable clips counted as wrong; empty if all were read."""
        return {name: value * self.kind.per_cent for name, value in self._beside("with_unreadable").items()}

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Intervals in per cent, by figure."""
        bounds, scale = self._beside("interval"), self.kind.per_cent
        return {name: (low * scale, high * scale) for name, (low, high) in bounds.items()}

    @cached_property
    def deviations(self) -> dict[str, float]:
        """Standard deviations over the seeds in percentage points, by figure; empty for one seed."""
        return {name: value * self.kind.per_cent for name, value in self._beside("deviation").items()}

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of queries, or of classes for a class mean, that each figure averages."""
        return self._beside("n")

    @cached_property
    def scores(self) -> Scores | None:
        """Scores of the queries; None in results of older versions and for several seeds."""
        return None if self.seeds else load_scores(self.planned.folder / "outputs.safetensors")

    @property
    def kind(self) -> EvaluationKind:
        """Record of its kind of evaluation."""
        return EVALUATIONS[self.planned.kind]

    @property
    def lineage(self) -> tuple[StageSettings, ...]:
        """Recipes of the stages that trained (epochs > 0), first to last."""
        return tuple(stage.settings for stage in self.stages if stage.trained)

    @property
    def imported(self) -> str:
        """Third-party weights that the stages started from; empty if none."""
        sources = (stage.settings.start_sources for stage in self.stages)
        return " and ".join(next(filter(None, sources), ()))

    @property
    def untrained(self) -> bool:
        """Whether the weights are those of a fresh, untrained model."""
        fresh = bool(self.stages) and self.stages[0].settings.start is None
        return fresh and not self.lineage and not self.imported

    @property
    def headline(self) -> str:
        """Name of the figure that sums the evaluation up."""
        return next(name for name in self.kind.headlines if name in self.figures)

    @property
    def fine_tuned(self) -> bool:
        """Whether a stage trained on the evaluated data set."""
        return any(stage.dataset == self.planned.dataset for stage in self.lineage)

    @property
    def texts_trained(self) -> bool:
        """Whether a stage trained on narrations."""
        return any(stage.reads_narrations for stage in self.lineage)

    @property
    def added_texts(self) -> tuple[str, ...]:
        """Kinds of texts beside human narrations that a stage trained on: `rephrased`, `narrated`."""
        kinds = [kind for stage in self.lineage for kind in stage.clip_tables if kind != "human"]
        return tuple(dict.fromkeys(kinds))

    @property
    def providers(self) -> tuple[str, ...]:
        """Providers of these texts."""
        return tuple(dict.fromkeys(name for stage in self.stages for name in stage.providers))

    def _beside(self, what: str) -> dict[str, Any]:
        """Values of `<figure>_<what>`, by the figure's dotted name."""
        groups = {f"{name}.": part for name, part in self.metrics.items() if isinstance(part, Mapping)}
        entries = [
            (group, *entry) for group, part in {"": self.metrics, **groups}.items() for entry in part.items()
        ]
        named = {
            group + name.removesuffix(f"_{what}"): value
            for group, name, value in entries
            if name.endswith(f"_{what}")
        }
        return {name: value for name, value in named.items() if name in self.figures}

    def _percent(self, values: Mapping[str, Any]) -> dict[str, float]:
        found = {name: value for name, value in numbers(values) if math.isfinite(value)}
        return {name: found[name] * self.kind.per_cent for name in found if name in self.kind.columns}


@dataclass(frozen=True)
class Results:
    """All runs of a plan."""

    stages: tuple[StageResult, ...]
    measured: tuple[EvaluationResult, ...]
    """Every evaluation of every seed."""
    differences: tuple[Difference, ...]
    """Differences between manifests and configuration."""

    @cached_property
    def evaluations(self) -> tuple[EvaluationResult, ...]:
        """One result for each run and evaluation: of several seeds, the mean."""
        groups: dict[tuple[str, str], list[EvaluationResult]] = {}
        for result in self.measured:
            groups.setdefault((run_of(result.run), result.name), []).append(result)
        return tuple(group[0] if len(group) == 1 else _mean(group) for group in groups.values())

    def named(self, evaluation: str) -> list[EvaluationResult]:
        """All runs' results of one evaluation, in the plan's order."""
        return [result for result in self.evaluations if result.name == evaluation]

    @property
    def evaluation_names(self) -> list[str]:
        """Evaluations in order of first appearance."""
        return list(dict.fromkeys(result.name for result in self.evaluations))


def load_results(plan: ReportPlan, settings: Settings) -> Results:
    """Read every run of the plan.

    Raises ReportError naming a missing file or figure.
    """
    stages: list[StageResult] = []
    measured: list[EvaluationResult] = []
    differences: list[Difference] = []
    for run, planned in plan.runs.items():
        own = {
            name: _stage(run, planned.title, name, folder, settings.stage(run, name))
            for name, folder in planned.stages.items()
        }
        stages += own.values()
        for name, stage in own.items():
            differences += stage_differences(stage.folder, stage.manifest, settings, run=run, stage=name)
        for name, evaluation in planned.evaluations.items():
            found = _evaluation(run, planned.title, name, evaluation, settings, own)
            measured.append(found)
            entry = settings.evaluations[name]
            differences += evaluation_differences(evaluation.folder, found.manifest, entry)
    return Results(tuple(stages), tuple(measured), tuple(differences))


def _stage(run: str, title: str, name: str, folder: Path, configured: StageSettings) -> StageResult:
    where = f"stage '{name}' of run '{run}'"
    require(folder / MANIFEST, where)
    manifest = read_manifest(folder)
    record = stage_record(manifest)
    return StageResult(
        run=run,
        run_title=title,
        name=name,
        folder=folder,
        settings=record.recipe or configured,
        seed=record.seed,
        clips=record.clips,
        providers=record.providers,
        log=read_log(require(folder / "train.jsonl", where)),
        model=read_json(require(folder / "model.json", where)),
        manifest=manifest,
    )


def _evaluation(
    run: str,
    title: str,
    name: str,
    planned: PlannedEvaluation,
    settings: Settings,
    stages: Mapping[str, StageResult],
) -> EvaluationResult:
    where = f"evaluation '{name}' of run '{run}'"
    metrics = read_json(require(planned.folder / "metrics.json", where))
    require(planned.folder / MANIFEST, where)
    manifest = read_manifest(planned.folder)
    _check_figures(metrics, planned)
    _check_outputs(planned.folder / "outputs.safetensors", where)
    record = evaluation_record(manifest)
    return EvaluationResult(
        run=run,
        run_title=title,
        name=name,
        planned=planned,
        layout=settings.datasets[planned.dataset].layout,
        seed=settings.seed_of(run),
        metrics=metrics,
        manifest=manifest,
        stages=tuple(_chain(stages, record.stage if record else planned.stage)),
    )


def _mean(group: Sequence[EvaluationResult]) -> EvaluationResult:
    """The mean over the seeds of a run."""
    seeds = {result.seed: result for result in group}
    metrics = mean_metrics({seed: result.metrics for seed, result in seeds.items()}, group[0].kind.columns)
    return replace(group[0], run=run_of(group[0].run), metrics=metrics, seeds=seeds)


def _chain(stages: Mapping[str, StageResult], name: str) -> list[StageResult]:
    """The stage of this name, before it those that it started from, as far as the run has them."""
    chain: list[StageResult] = []
    stage = stages.get(name)
    while stage is not None and stage not in chain:
        chain.insert(0, stage)
        stage = stages.get(stage.settings.start or "")
    return chain


def _check_outputs(path: Path, where: str) -> None:
    try:
        with safe_open(require(path, where), framework="numpy"):
            pass
    except SafetensorError as error:
        raise ReportError(f"{path}: damaged ({error}); delete the folder to remake the result") from None


def _check_figures(metrics: Any, evaluation: PlannedEvaluation) -> None:
    path = evaluation.folder / "metrics.json"
    if not isinstance(metrics, dict) or not isinstance(metrics.get("chance"), dict):
        raise ReportError(f"{path}: an object with a section 'chance' is expected")
    objects = {name.partition(".")[0] for name in EVALUATIONS[evaluation.kind].columns if "." in name}
    _check_types(metrics, path, objects={"chance", *objects})
    values = dict(numbers(metrics))
    kind = EVALUATIONS[evaluation.kind]
    groups = [kind.required(label) for label in kind.figures]
    if not any(set(group) <= set(values) for group in groups):
        wanted = " or ".join(", ".join(group) for group in groups)
        raise ReportError(f"{path}: {evaluation.kind} needs the figures {wanted}")
    if all(math.isnan(values.get(name, math.nan)) for name in kind.headlines):
        raise ReportError(f"{path}: {' and '.join(kind.headlines)} have no value")


def _check_types(values: Mapping[str, Any], path: Path, *, objects: Set[str], place: str = "") -> None:
    """Raise ReportError for values of another type than evaluations write.

    `objects` are the names of nested objects of figures.
    """
    for name, value in values.items():
        if isinstance(value, Mapping) and name in objects:
            _check_types(value, path, objects=objects, place=f"{place}{name}.")
            continue
        if name == "bad_clips":
            sound = are_bad_clips(value)
        elif name == DUAL_SOFTMAX:
            sound = value is True
        elif name.endswith("_interval"):
            sound = isinstance(value, list) and len(value) == 2 and all(map(is_number, value))
        else:
            sound = is_number(value) or (value is None and not name.endswith("_n"))
        if not sound:
            raise ReportError(f"{path}: '{place}{name}' is malformed; delete the folder to remake it")
