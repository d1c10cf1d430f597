"""The report: one page that opens from disk without a server, and the figures as JSON beside it.

The page contains its styles, pictures and graphs; it loads nothing and runs no script. Jinja2 escapes every
text that comes from data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import yaml

from avion_core.config import SOURCE_SETTINGS, load_settings, run_of
from avion_core.files import fingerprint, publish, sha256, write_json
from avion_core.report import datasets, findings, formats, gallery, narrations
from avion_core.report.dag import dag_svg
from avion_core.report.differences import differences_table
from avion_core.report.figures import Chart, Series, line_chart, mean_series
from avion_core.report.plan import ReportPlan
from avion_core.report.results import EvaluationResult, Results, StageResult, load_results
from avion_core.report.tables import Table, published_for, result_title, results_table, stage_table, table

BOOKKEEPING = {
    "step",
    "epoch",
    "loss",
    "learning_rate",
    "gradient_norm",
    "skipped_steps",
    "clips_per_s",
    "data_wait_share",
    "elapsed_s",
    "memory_mb",
    "gpu_memory_mb",
    "model_flops_utilisation",
}
"""Logged quantities without a curve of their own (the loss always has one)."""


@dataclass(frozen=True)
class Comparison:
    """One evaluation: our runs and the published rows."""

    anchor: str
    title: str
    ours: Table
    published: Table | None
    differences: Table | None
    """Of every two runs, if one has several seeds."""


def build_report(plan: ReportPlan, *, out: Path) -> None:
    """Write `out`/index.html and `out`/metrics.json from the files in the plan.

    Raises ReportError naming a wrong or missing file, and SettingsError for an invalid configuration.
    """
    results = load_results(plan, load_settings(plan.config))
    metrics = report_metrics(plan, results)
    page = render(plan, results, metrics["provenance"])
    write_json(out / "metrics.json", metrics)
    with publish(out / "index.html") as draft:
        draft.write_text(page, encoding="utf-8")


def report_metrics(plan: ReportPlan, results: Results) -> dict[str, Any]:
    """Figures of every run and evaluation as measured, with their provenance."""
    runs: dict[str, dict[str, Any]] = {run_of(folder): {} for folder in plan.runs}
    for result in results.evaluations:
        runs[run_of(result.run)][result.name] = _valid_json(result.metrics)
    manifests = [stage.folder / "manifest.json" for stage in results.stages]
    manifests += [result.planned.folder / "manifest.json" for result in results.measured]
    provenance = {
        "revision": plan.revision,
        "config": fingerprint(plan.config),
        "manifests": {str(path): sha256(path) for path in manifests},
        "differences": [str(difference) for difference in results.differences],
    }
    return {"runs": runs, "provenance": provenance}


def render(plan: ReportPlan, results: Results, provenance: Mapping[str, Any]) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(clock=formats.clock, percent=formats.percent)
    shown = gallery.choose_evaluation(results)
    return environment.get_template("page.html.j2").render(
        plan=plan,
        count=formats.count,
        synthetic=any(SOURCE_SETTINGS[dataset.source].generated for dataset in plan.datasets.values()),
        tiles=findings.tiles(results),
        findings=findings.findings(results),
        comparisons=comparisons(plan, results),
        stages=stages_by_run(plan, results),
        differences=results.differences,
        seeds=_seeds(results),
        several_seeds=any(result.seeds for result in results.evaluations),
        runs=len({run_of(folder) for folder in plan.runs}),
        total_time=formats.duration(sum(stage.log.seconds or 0 for stage in _trained(results.stages))),
        charts=charts(results),
        gallery=gallery.build_gallery(shown) if shown else None,
        narrations=narrations.narrations(plan),
        datasets=datasets.datasets_table(plan),
        left_out=[
            datasets.quarantine_table(plan),
            datasets.dropped_table(plan),
            datasets.bad_clips_table(results),
        ],
        dag=dag_svg(plan.dag),
        config=yaml.safe_dump(plan.config, sort_keys=False, allow_unicode=True, width=100),
        provenance=provenance,
        inputs=inputs_table(results),
    )


def comparisons(plan: ReportPlan, results: Results) -> list[Comparison]:
    """Every evaluation with all its runs."""
    made = []
    for name in results.evaluation_names:
        group = results.named(name)
        dataset = plan.datasets.get(group[0].planned.dataset)
        official = dataset is not None and SOURCE_SETTINGS[dataset.source].official
        published = published_for(group, official=official)
        ours = results_table(group)
        lost = datasets.left_out(dataset, group[0].planned.files["clips"].stem) if dataset else ""
        ours = replace(ours, note=" ".join(filter(None, (ours.note, lost))))
        differences = differences_table(group)
        made.append(Comparison(f"result-{name}", result_title(group), ours, published, differences))
    return made


def stages_by_run(plan: ReportPlan, results: Results) -> Table:
    """Each run's stages with their clips, epochs and times."""
    runs = {}
    for run, planned in plan.runs.items():
        stages = [stage for stage in results.stages if stage.run == run]
        seconds = sum(stage.log.seconds or 0 for stage in _trained(stages))
        time = formats.duration(seconds) if _trained(stages) else "no training"
        runs[f"{planned.title} ({run}): {time}"] = stages
    return stage_table(runs)


def charts(results: Results) -> list[Chart]:
    """The loss of every stage with one line per run, then the other logged quantities."""
    made = []
    for name in dict.fromkeys(stage.name for stage in results.stages):
        stages = [stage for stage in _trained(results.stages) if stage.name == name]
        measured = dict.fromkeys(key for stage in stages for line in stage.log.steps for key in line)
        for key in ["loss", *(key for key in measured if key not in BOOKKEEPING)] if stages else []:
            lines = _curves(stages, key)
            label = key.replace("_", " ")
            made.append(line_chart(f"{name}: {label}", series=lines, x_label="step", y_label=label))
    return made


def _curves(stages: Sequence[StageResult], key: str) -> list[Series]:
    """One line per run: of several seeds the mean."""
    curves: dict[str, list[list[tuple[float, float]]]] = {}
    titles = {run_of(stage.run): stage.run_title for stage in stages}
    for stage in stages:
        curves.setdefault(run_of(stage.run), []).append(stage.log.curve(key))
    return [mean_series(titles[run], of_seeds) for run, of_seeds in curves.items()]


def inputs_table(results: Results) -> Table:
    """Checksums of the inputs of each stage and evaluation, from their manifests."""
    rows = []
    entries: list[StageResult | EvaluationResult] = [*results.stages, *results.measured]
    for entry in entries:
        revision = str(entry.manifest.get("revision", "unknown"))
        for name, source in entry.manifest.get("inputs", {}).items():
            rows.append([f"{entry.run}/{entry.name}", revision, name, source["path"], source["sha256"][:16]])
    columns = ("result", "revision", "input", "file", "sha256, first 16 digits")
    return table("Inputs of each result", columns, rows)


def _trained(stages: Sequence[StageResult]) -> list[StageResult]:
    return [stage for stage in stages if stage.trained]


def _seeds(results: Results) -> str:
    """Seeds of the trainings: `seed 0` or `seeds 0, 1 and 3`."""
    seeds = sorted({stage.seed for stage in results.stages if stage.seed is not None})
    if not seeds:
        return "seed not recorded"
    return f"seed{'s' if len(seeds) > 1 else ''} {formats.listed(list(map(str, seeds)))}"


def _valid_json(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: _valid_json(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_valid_json(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return json.loads(json.dumps(value))
