"""What the runs left on disk, read and checked: figures, training logs, descriptions and manifests."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from avion_core.config import Settings, StageSettings
from avion_core.files import read_json
from avion_core.report.plan import Plan, PlannedEvaluation, ReportError, require

DIRECTIONS = ("video_to_text", "text_to_video", "mean")
FIGURES: dict[str, tuple[tuple[str, ...], ...]] = {
    "retrieval": (tuple(f"{figure}.{side}" for figure in ("mAP", "nDCG") for side in DIRECTIONS),),
    "recognition": (("verb_top1", "noun_top1", "action_top1"), ("top1", "top5")),
    "multiple_choice": (("inter_video", "intra_video"),),
}
"""Figures that each kind of evaluation must have: one of the groups, whole."""


HEADLINES = {
    "retrieval": ("mAP.mean", "nDCG.mean"),
    "recognition": ("action_top1", "top1"),
    "multiple_choice": ("inter_video", "intra_video"),
}
"""The figure that sums an evaluation up: the first that could be measured."""


@dataclass(frozen=True)
class TrainingLog:
    """The lines of a stage's `train.jsonl` that hold a loss, one a logged step, in order."""

    steps: tuple[Mapping[str, float], ...]
    bad_clips: tuple[Mapping[str, Any], ...] = ()
    """Clips that could not be decoded: `video_id`, `reason`."""

    @property
    def seconds(self) -> float | None:
        """Training time of the stage, or None when it did not train."""
        return self.steps[-1].get("elapsed_s") if self.steps else None

    @property
    def last_step(self) -> int:
        """Number of the last logged step, 0 when there is none."""
        return int(self.steps[-1]["step"]) if self.steps else 0

    def curve(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of a logged quantity."""
        return [(line["step"], line[name]) for line in self.steps if name in line]


@dataclass(frozen=True)
class StageResult:
    """One trained stage of a run."""

    run: str
    run_title: str
    name: str
    folder: Path
    settings: StageSettings
    log: TrainingLog
    model: Mapping[str, Any]
    manifest: Mapping[str, Any]


@dataclass(frozen=True)
class EvaluationResult:
    """One evaluation of a run, with the recipe of every stage that trained the weights."""

    run: str
    run_title: str
    name: str
    planned: PlannedEvaluation
    layout: str
    metrics: Mapping[str, Any]
    manifest: Mapping[str, Any]
    lineage: tuple[StageSettings, ...]
    """Stages that really trained (epochs > 0), first to last."""

    @cached_property
    def figures(self) -> dict[str, float]:
        """Per cent by dotted name (`mAP.mean`, `verb_top1`)."""
        return self._percent({key: value for key, value in self.metrics.items() if key != "chance"})

    @cached_property
    def chance(self) -> dict[str, float]:
        """The same for guessing."""
        return self._percent(self.metrics["chance"])

    @property
    def untrained(self) -> bool:
        """Whether no stage behind the weights trained."""
        return not self.lineage

    @property
    def headline(self) -> str:
        """Name of the figure that sums the evaluation up."""
        return next(name for name in HEADLINES[self.planned.kind] if name in self.figures)

    @property
    def fine_tuned(self) -> bool:
        """Whether a stage trained on the data set that is measured."""
        return any(stage.dataset == self.planned.dataset for stage in self.lineage)

    @property
    def texts_trained(self) -> bool:
        """Whether narrations took part at all."""
        return any(stage.task == "contrastive" for stage in self.lineage)

    @property
    def uses_language_model(self) -> bool:
        """Whether rephrased narrations took part."""
        return any("rephrased" in stage.narrations for stage in self.lineage if stage.task == "contrastive")

    def _percent(self, values: Mapping[str, Any]) -> dict[str, float]:
        scale = 100.0 if self.planned.kind == "retrieval" else 1.0
        wanted = {name for group in FIGURES[self.planned.kind] for name in group}
        pairs = _flat(values)
        return {name: value * scale for name, value in pairs if name in wanted and math.isfinite(value)}


@dataclass(frozen=True)
class Results:
    """All runs of a plan."""

    stages: tuple[StageResult, ...]
    evaluations: tuple[EvaluationResult, ...]

    def named(self, evaluation: str) -> list[EvaluationResult]:
        """Every run's result of one evaluation, in the plan's order."""
        return [result for result in self.evaluations if result.name == evaluation]

    @property
    def evaluation_names(self) -> list[str]:
        """Evaluations in the order in which they first appear."""
        return list(dict.fromkeys(result.name for result in self.evaluations))


def load_results(plan: Plan, settings: Settings) -> Results:
    """Read every run of the plan.

    Raises ReportError naming the file that is missing, or the figure that a `metrics.json` lacks.
    """
    stages, evaluations = [], []
    for run, planned in plan.runs.items():
        for stage, folder in planned.stages.items():
            stages.append(_stage(run, planned.title, stage, folder, settings.stage(run, stage)))
        for name, evaluation in planned.evaluations.items():
            where = f"evaluation '{name}' of run '{run}'"
            metrics = read_json(require(evaluation.folder / "metrics.json", where))
            manifest = read_json(require(evaluation.folder / "manifest.json", where))
            _check_figures(metrics, evaluation)
            evaluations.append(
                EvaluationResult(
                    run=run,
                    run_title=planned.title,
                    name=name,
                    planned=evaluation,
                    layout=settings.datasets[evaluation.dataset].layout,
                    metrics=metrics,
                    manifest=manifest,
                    lineage=tuple(_lineage(settings, run, evaluation.stage)),
                )
            )
    return Results(tuple(stages), tuple(evaluations))


def read_log(path: Path) -> TrainingLog:
    """Read `train.jsonl`. A step that stands there twice (a resumed run) counts once, the last time.

    Raises ReportError naming the line that is not a JSON object.
    """
    steps: dict[int, Mapping[str, float]] = {}
    bad: list[Mapping[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ReportError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(entry, dict):
            raise ReportError(f"{path}, line {number}: not a JSON object")
        if "loss" in entry and "step" in entry:
            numbers = {key: value for key, value in entry.items() if _is_number(value)}
            steps[int(entry["step"])] = numbers
            bad += entry.get("bad_clips", [])
    return TrainingLog(tuple(steps[step] for step in sorted(steps)), tuple(bad))


def _stage(run: str, title: str, name: str, folder: Path, settings: StageSettings) -> StageResult:
    where = f"stage '{name}' of run '{run}'"
    return StageResult(
        run=run,
        run_title=title,
        name=name,
        folder=folder,
        settings=settings,
        log=read_log(require(folder / "train.jsonl", where)),
        model=read_json(require(folder / "model.json", where)),
        manifest=read_json(require(folder / "manifest.json", where)),
    )


def _lineage(settings: Settings, run: str, stage: str) -> list[StageSettings]:
    chain: list[StageSettings] = []
    name: str | None = stage
    seen: set[str] = set()
    while name is not None:
        if name in seen:
            raise ReportError(f"runs.{run}: stage '{name}' starts from itself")
        seen.add(name)
        recipe = settings.stage(run, name)
        if recipe.epochs > 0:
            chain.insert(0, recipe)
        name = recipe.start
    return chain


def _check_figures(metrics: Any, evaluation: PlannedEvaluation) -> None:
    path = evaluation.folder / "metrics.json"
    if not isinstance(metrics, dict) or not isinstance(metrics.get("chance"), dict):
        raise ReportError(f"{path}: an object with a section 'chance' is expected")
    values = dict(_flat(metrics))
    groups = FIGURES[evaluation.kind]
    if not any(set(group) <= set(values) for group in groups):
        wanted = " or ".join(", ".join(group) for group in groups)
        raise ReportError(f"{path}: {evaluation.kind} needs the figures {wanted}")
    if all(math.isnan(values.get(name, math.nan)) for name in HEADLINES[evaluation.kind]):
        raise ReportError(f"{path}: {' and '.join(HEADLINES[evaluation.kind])} have no value")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers by dotted name; what could not be measured (null) is NaN."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is None or _is_number(value):
            yield f"{prefix}{key}", math.nan if value is None else float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
