"""Tables of the page as data: what stands in which cell. The template decides how a cell looks."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from avion_core.report import formats
from avion_core.report.published import PUBLISHED, PublishedTable
from avion_core.report.results import EvaluationResult, StageResult, TrainingLog

LABELS = {
    "mAP.mean": "mAP",
    "mAP.video_to_text": "v→t",
    "mAP.text_to_video": "t→v",
    "nDCG.mean": "nDCG",
    "nDCG.video_to_text": "v→t",
    "nDCG.text_to_video": "t→v",
    "verb_top1": "verb top-1",
    "noun_top1": "noun top-1",
    "action_top1": "action top-1",
    "top1": "top-1",
    "top5": "top-5",
    "inter_video": "inter-video",
    "intra_video": "intra-video",
}
"""Column headings of our figures, in the order of the columns."""

OBJECTIVES = {
    "info_nce": "contrastive (InfoNCE)",
    "sigmoid": "contrastive (sigmoid)",
    "symmetric_multi_similarity": "retrieval (symmetric multi-similarity)",
    "max_margin": "retrieval (max margin)",
    "adaptive_max_margin": "retrieval (adaptive max margin)",
    "classification": "classification",
    "reconstruction": "masked reconstruction",
}
"""What a stage trains, by the name of its loss."""


TITLES = {
    "zero_shot_retrieval": "Zero-shot multi-instance retrieval",
    "retrieval": "Fine-tuned multi-instance retrieval",
    "in_domain_retrieval": "Multi-instance retrieval",
    "action_recognition": "Action classification",
    "recognition": "Video classification",
    "multiple_choice": "EgoMCQ (multiple choice)",
}
"""Headings by what is measured."""


@dataclass(frozen=True)
class Cell:
    """One cell; `detail` stands small below the text, `bar` (0…1) draws the value as a bar."""

    text: str
    detail: str = ""
    best: bool = False
    bar: float | None = None


@dataclass(frozen=True)
class Row:
    """One row; its first cell is the row's heading. A `reference` row is set apart from our results."""

    cells: tuple[Cell, ...]
    reference: bool = False


@dataclass(frozen=True)
class Group:
    """Rows that belong together, under a heading across the table (none if empty)."""

    rows: tuple[Row, ...]
    heading: str = ""


@dataclass(frozen=True)
class Table:
    """A captioned table; columns named in `numbers` are set to the right."""

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
    """A plain table; `numbers` names the columns of numbers, a mapping of rows gives groups by heading."""
    grouped = rows if isinstance(rows, Mapping) else {"": rows}
    groups = tuple(
        Group(tuple(Row(tuple(Cell(_written(value)) for value in row)) for row in members), heading)
        for heading, members in grouped.items()
    )
    places = frozenset(place for place, column in enumerate(columns) if column in numbers)
    return Table(caption, tuple(columns), groups, places)


def measure(result: EvaluationResult) -> str:
    """Which published table a result belongs to."""
    kind = result.planned.kind
    if kind == "retrieval" and not result.fine_tuned:
        return "zero_shot_retrieval"
    if kind == "retrieval" and all(stage.dataset == result.planned.dataset for stage in result.lineage):
        return "in_domain_retrieval"
    if kind == "recognition" and "action_top1" in result.figures:
        return "action_recognition"
    return kind


def result_title(results: Sequence[EvaluationResult]) -> str:
    """Heading of one evaluation."""
    return TITLES[_kind_of_group(results)]


def results_table(results: Sequence[EvaluationResult]) -> Table:
    """Every run's figures of one evaluation, then chance; the best of each column is marked."""
    names = [name for name in LABELS if any(name in result.figures for result in results)]
    best = {name: max(result.figures.get(name, 0.0) for result in results) for name in names}
    rows = []
    for result in results:
        marked = {
            name
            for name in names
            if len(results) > 1 and not result.untrained and result.figures.get(name) == best[name]
        }
        rows.append(_figure_row(result.run_title, result.figures, names, marked, reference=result.untrained))
    rows.append(_figure_row("Chance", results[0].chance, names, set(), reference=True))
    first = results[0]
    notes = ["Per cent."]
    counted = [key for key in ("clips", "sentences", "questions") if key in first.metrics]
    notes += [f"{first.metrics[key]:,} {key}." for key in counted]
    if first.planned.kind == "retrieval":
        notes.append("v→t: from video to text; t→v: from text to video; mAP and nDCG are their means.")
    return Table(
        f"Ours, on {first.planned.dataset}",
        ("run", *(LABELS[name] for name in names)),
        (Group(tuple(rows)),),
        frozenset(range(1, len(names) + 1)),
        " ".join(notes),
    )


def published_table(published: PublishedTable, *, same_data: bool) -> Table:
    """The published rows; `same_data` only where ours were measured on the same data set."""
    costly = any(row.gpu_hours for row in published.rows)
    columns = ("method", *published.figures.values(), *(("GPU hours", "hardware") if costly else ()))
    rows = []
    for row in published.rows:
        cells = [Cell(row.run, "; ".join(filter(None, (row.backbone, row.note))))]
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
        "" if same_data else "Another data set",
    )


def published_for(results: Sequence[EvaluationResult], source: str) -> Table:
    """The published rows that belong to an evaluation, marked by whether the data set is the same."""
    published = PUBLISHED[_kind_of_group(results)]
    same = source in ("ego4d", "local") and results[0].layout == published.layout
    return published_table(published, same_data=same)


def stage_table(runs: Mapping[str, Sequence[StageResult]], clips: Mapping[tuple[str, str], int]) -> Table:
    """What was trained, on how many clips, for how long: stages by the heading of their run.

    `clips` counts the training rows by run and stage.
    """
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
    rows = {
        heading: [_stage_row(stage, clips[stage.run, stage.name]) for stage in stages]
        for heading, stages in runs.items()
    }
    numbers = ("clips", "epochs", "batch", "steps", "loss, first → last", "time", "clips/s")
    return table("Stages by run", columns, rows, numbers=numbers)


def _stage_row(stage: StageResult, clips: int) -> list[str | int]:
    recipe, log = stage.settings, stage.log
    narrations = ", ".join(recipe.narrations) if recipe.task == "contrastive" else "–"
    row: list[str | int] = [
        stage.name,
        OBJECTIVES[recipe.loss_name],
        recipe.dataset,
        recipe.model,
        narrations,
    ]
    if recipe.epochs == 0:
        return [*row, "–", "none", "–", "–", "–", "–", "–"]
    losses = log.curve("loss")
    return [
        *row,
        clips,
        recipe.epochs,
        recipe.batch_size,
        log.last_step,
        f"{losses[0][1]:.3f} → {losses[-1][1]:.3f}" if losses else "–",
        formats.duration(log.seconds),
        _rate(log),
    ]


def _kind_of_group(results: Sequence[EvaluationResult]) -> str:
    trained = [result for result in results if not result.untrained]
    return measure((trained or results)[0])


def _figure_row(
    title: str, figures: Mapping[str, float], names: Sequence[str], best: set[str], *, reference: bool
) -> Row:
    """One line of figures; the figures that lead a group of columns get a bar."""
    cells = [Cell(title)]
    for place, name in enumerate(names):
        value = figures.get(name)
        bar = value / 100 if place == 0 and value is not None else None
        cells.append(Cell(formats.percent(value), best=name in best, bar=bar))
    return Row(tuple(cells), reference=reference)


def _rate(log: TrainingLog) -> str:
    rates = [rate for _, rate in log.curve("clips_per_s")]
    return f"{statistics.median(rates):,.0f}" if rates else "–"


def _written(value: str | int) -> str:
    return value if isinstance(value, str) else f"{value:,}"
