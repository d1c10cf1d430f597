"""Tables of the page as data. The template decides how cells look."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from avion_core.evaluations import DUAL_SOFTMAX
from avion_core.report import formats
from avion_core.report.compare import gap
from avion_core.report.published import PublishedTable, published_results
from avion_core.report.results import EvaluationResult, StageResult, text_by
from avion_core.report.training_log import TrainingLog

COUNTED = (
    "clips",
    "clips_without_labels",
    "videos",
    "sentences",
    "questions",
    "classes",
    "classes_without_sentences",
)
"""Counts of a result that its table's note names."""


@dataclass(frozen=True)
class Cell:
    """One cell; `detail` is small print below the text, `bar` (0…1) draws the value as a bar.

    `error_bar` is the start and length of an interval on it.
    """

    text: str
    detail: str = ""
    best: bool = False
    bar: float | None = None
    error_bar: tuple[float, float] | None = None


@dataclass(frozen=True)
class Row:
    """One row; its first cell is the row's heading. A `reference` row is set apart from our results."""

    cells: tuple[Cell, ...]
    reference: bool = False


@dataclass(frozen=True)
class Group:
    """Rows under a heading across the table (no heading if empty)."""

    rows: tuple[Row, ...]
    heading: str = ""


@dataclass(frozen=True)
class Table:
    """A captioned table; the columns in `numbers` are right-aligned."""

    caption: str
    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    numbers: frozenset[int] = frozenset()
    note: str = ""
    tag: str = ""
    """A warning before the caption."""

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all groups."""
        return tuple(row for group in self.groups for row in group.rows)


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | int]] | Mapping[str, Sequence[Sequence[str | int]]],
    *,
    numbers: Collection[str] = (),
) -> Table:
    """A plain table; `numbers` names numeric columns, and a mapping of rows gives groups by heading."""
    grouped = rows if isinstance(rows, Mapping) else {"": rows}
    groups = tuple(
        Group(tuple(Row(tuple(Cell(_written(value)) for value in row)) for row in members), heading)
        for heading, members in grouped.items()
    )
    places = frozenset(place for place, column in enumerate(columns) if column in numbers)
    return Table(caption, tuple(columns), groups, places)


def variant(result: EvaluationResult) -> str:
    """Key of a result in its kind's titles and in the published tables, by label or by weights."""
    found = result.figures.keys()
    labels = [label for label in result.kind.figures if label and found >= set(result.kind.required(label))]
    return next((name for name in (*labels, _weights(result)) if name in result.kind.titles), "")


def _weights(result: EvaluationResult) -> str:
    """Relation of the weights to the evaluated data."""
    if result.imported and not result.lineage:
        return "imported"  # their training data are unknown
    if not result.fine_tuned:
        return "zero_shot"
    own = all(stage.dataset == result.planned.dataset for stage in result.lineage)
    return "in_domain" if own else ""


def title(result: EvaluationResult) -> str:
    """What was measured, in words."""
    return result.kind.titles[variant(result)].replace("{dataset}", result.planned.dataset)


def result_title(results: Sequence[EvaluationResult]) -> str:
    """Heading of one evaluation."""
    return title(_typical(results))


def results_table(results: Sequence[EvaluationResult]) -> Table:
    """Every run's figures of one evaluation, then chance. The clearly best value of each column is marked.

    A run with unreadable clips gets a second row that counts them as wrong.
    """
    columns = results[0].kind.columns
    names = [name for name in columns if any(name in result.figures for result in results)]
    rows = []
    for result in results:
        marked = {name for name in names if _clearly_best(result, results, name)}
        rows.append(_run_row(result, names, marked))
        if result.strict:
            rows.append(_strict_row(result, names))
    chance = (Cell(formats.percent(results[0].chance.get(name))) for name in names)
    rows.append(Row((Cell("Chance"), *chance), reference=True))
    return Table(
        f"Ours, on {results[0].planned.dataset}",
        ("run", *(columns[name] for name in names)),
        (Group(tuple(rows)),),
        frozenset(range(1, len(names) + 1)),
        _notes(results, names),
    )


def _run_row(result: EvaluationResult, names: Sequence[str], marked: set[str]) -> Row:
    """Figures with their intervals; the first has a bar."""
    cells = [Cell(result.run_title, weights(result))]
    for place, name in enumerate(names):
        value = result.figures.get(name)
        bar = value / result.kind.top(name) if place == 0 and value is not None else None
        spread = bar is not None and name in result.deviations
        error = _error_bar(*result.intervals[name], top=result.kind.top(name)) if spread else None
        cells.append(
            Cell(
                formats.percent(value),
                uncertainty(result, name),
                best=name in marked,
                bar=bar,
                error_bar=error,
            )
        )
    return Row(tuple(cells), reference=result.untrained)


def _error_bar(low: float, high: float, *, top: float) -> tuple[float, float]:
    """Start and length of an interval, as shares of the bar, which ends at `top`."""
    start, end = (min(max(bound / top, 0.0), 1.0) for bound in (low, high))
    return start, end - start


def uncertainty(result: EvaluationResult, name: str) -> str:
    """A figure's interval, `20.1–26.3`; of several seeds with the deviation, `±1.2, 20.1–26.3`."""
    parts = [formats.deviation(result.deviations[name])] if name in result.deviations else []
    parts += [formats.interval(*result.intervals[name])] if name in result.intervals else []
    return ", ".join(parts)


def _strict_row(result: EvaluationResult, names: Sequence[str]) -> Row:
    read, of = result.metrics["clips"], result.metrics["clips_in_table"]
    figures = (Cell(formats.percent(result.strict.get(name))) for name in names)
    detail = f"{of - read:,} of {of:,} clips could not be read; the figures above are of the other {read:,}"
    return Row((Cell("the same, unreadable clips counted as wrong", detail), *figures), reference=True)


def _clearly_best(result: EvaluationResult, results: Sequence[EvaluationResult], name: str) -> bool:
    others = [other for other in results if other is not result and name in other.figures]
    if result.untrained or not others or name not in result.figures:
        return False
    if any(other.figures[name] >= result.figures[name] for other in others):
        return False
    return all(gap(result, other, name).clear for other in others)


def weights(result: EvaluationResult) -> str:
    """Origin of a run's weights, in words."""
    words = []
    if result.imported:
        words.append(f"weights: {result.imported}{'' if result.lineage else ', as they are'}")
    if result.added_texts:
        words.append(f"text {' and '.join(text_by(result.added_texts, result.providers).values())}")
    return "; ".join(words)


def _notes(results: Sequence[EvaluationResult], names: Sequence[str]) -> str:
    """Unit, interval and n of a table's figures."""
    result = results[0]
    others = [f"{result.kind.columns[name]} of {top:,.0f}" for name, top in result.kind.tops.items()]
    unit = f"Per cent ({', '.join(others)})" if others else "Per cent"
    notes = [f"{unit}, with 95 % intervals." if result.intervals else f"{unit}."]
    numbers = sorted({len(other.seeds) for other in results if other.seeds})
    if numbers:
        notes.append(
            f"Mean of {' or '.join(map(str, numbers))} seeds, ± standard deviation, interval of the mean by "
            "Student's t: it covers the seed and not the clips. Each seed's figures, with intervals over the "
            "clips, are in metrics.json."
        )
    counted = [
        f"{result.metrics[key]:,} {key.replace('_', ' ')}" for key in COUNTED if result.metrics.get(key)
    ]
    if counted:
        notes.append(", ".join(counted) + ".")
    by_count: dict[int, list[str]] = {}
    for name in names:
        if name in result.counts:
            by_count.setdefault(result.counts[name], []).append(_full_label(result, name))
    if by_count:
        notes.append("n: " + "; ".join(f"{', '.join(of)} {n:,}" for n, of in by_count.items()) + ".")
    dual = dict.fromkeys(other.run_title for other in results if other.metrics.get(DUAL_SOFTMAX))
    if dual:
        notes.append(
            f"{', '.join(dual)}: ranked by a dual softmax over all clips and sentences of the test set at "
            "once; not comparable with figures without it."
        )
    return " ".join(filter(None, (*notes, result.kind.note)))


def _full_label(result: EvaluationResult, name: str) -> str:
    metric, _, side = name.partition(".")
    label = result.kind.columns[name]
    return label if side in ("", "mean") else f"{metric} {label}"


def published_table(published: PublishedTable, *, tag: str) -> Table:
    """The published rows; `tag` says why ours are not comparable, empty if they are."""
    costly = any(row.gpu_hours for row in published.rows)
    columns = ("method", *published.figures.values(), *(("GPU hours", "hardware") if costly else ()))
    rows = []
    for row in published.rows:
        cells = [Cell(row.method, "; ".join(filter(None, (row.backbone, row.note))))]
        cells += [Cell(formats.percent(row.figures.get(name))) for name in published.figures]
        if costly:
            load = [f"{row.batch_per_gpu} clips" if row.batch_per_gpu else ""]
            load.append(f"{row.gb_per_gpu} GB" if row.gb_per_gpu else "")
            load = [part for part in load if part]
            cells.append(Cell("–" if row.gpu_hours is None else f"{row.gpu_hours:,}"))
            cells.append(Cell(row.hardware or "–", f"{', '.join(load)} a GPU" if load else ""))
        rows.append(Row(tuple(cells)))
    sources = "; ".join(dict.fromkeys(row.source for row in published.rows))
    return Table(
        f"Published: {published.benchmark}",
        columns,
        (Group(tuple(rows)),),
        frozenset(place for place in range(1, len(columns)) if columns[place] != "hardware"),
        f"Per cent. Sources: {sources}.",
        tag,
    )


def published_for(results: Sequence[EvaluationResult], *, official: bool) -> Table | None:
    """The published rows for an evaluation, tagged if ours are not comparable.

    `official`: the evaluated files are a published data set's own.
    """
    typical = _typical(results)
    published = published_results(typical.planned.kind, variant(typical), results[0].layout)
    if published is None:
        return None
    if not official or results[0].layout != published.layout:
        return published_table(published, tag="Another data set")
    measured = [result.metrics[published.unit] for result in results if published.unit in result.metrics]
    return published_table(published, tag=published.objection(min(measured)) if measured else "")


def stage_table(runs: Mapping[str, Sequence[StageResult]]) -> Table:
    """Stages by the heading of their run, with clips, steps and times."""
    columns = (
        "stage",
        "task",
        "data set",
        "model",
        "narrations",
        "clips",
        "epochs",
        "batch",
        "steps",
        "loss, first → last",
        "time",
        "clips/s",
    )
    groups = tuple(Group(tuple(map(_stage_row, stages)), heading) for heading, stages in runs.items())
    texts = ("stage", "task", "data set", "model", "narrations")
    numbers = frozenset(place for place, column in enumerate(columns) if column not in texts)
    return Table("Stages by run", columns, groups, numbers)


def _stage_row(stage: StageResult) -> Row:
    recipe, log = stage.settings, stage.log
    start = recipe.start or " and ".join(recipe.start_sources)
    name = Cell(stage.name, (f"from {start}" if start else "from a fresh model") + _chosen(stage))
    row: list[str | int] = [recipe.objective, recipe.dataset, recipe.model, _narrations(stage)]
    if stage.trained:
        losses = log.curve("loss")
        row += [
            "–" if stage.clips is None else stage.clips,
            recipe.epochs,
            recipe.batch_size,
            log.last_step,
            f"{losses[0][1]:.3f} → {losses[-1][1]:.3f}" if losses else "–",
            formats.duration(log.seconds),
            _rate(log),
        ]
    else:
        row += ["–", "none", "–", "–", "–", "–", "–"]
    return Row((name, *(Cell(_written(value)) for value in row)))


def _chosen(stage: StageResult) -> str:
    """Step of the published weights among the validated ones, with its figure and that of the last step."""
    metric, measured = stage.settings.best_metric, stage.manifest.get("settings", {}).get("validation", {})
    if metric is None or "best" not in measured:
        return ""
    best, last = (measured[which]["figures"].get(metric) for which in ("best", "last"))
    end = "–" if last is None else f"{last:.4g}"
    return (
        f"; weights of step {measured['best']['step']:,}, the best in {metric} on "
        f"{stage.settings.validate_with}: {best:.4g}, at the end {end}"
    )


def _narrations(stage: StageResult) -> str:
    """Origin of the narrations that a stage trained on."""
    if not stage.settings.reads_narrations:
        return "–"
    return ", ".join(text_by(stage.settings.clip_tables, stage.providers).values())


def _typical(results: Sequence[EvaluationResult]) -> EvaluationResult:
    """A representative result: a trained one if there is any."""
    trained = [result for result in results if result.lineage]
    imported = [result for result in results if result.imported]
    return (trained or imported or results)[0]


def _rate(log: TrainingLog) -> str:
    rates = [rate for _, rate in log.curve("clips_per_s")]
    return f"{statistics.median(rates):,.0f}" if rates else "–"


def _written(value: str | int) -> str:
    return value if isinstance(value, str) else f"{value:,}"
