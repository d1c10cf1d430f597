"""Tables of the page as data: what stands in which cell. The template decides how a cell looks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from avion_core.report import formats
from avion_core.report.published import PUBLISHED, PublishedRow, PublishedTable
from avion_core.report.results import EvaluationResult, StageResult, TrainingLog

LABELS = {
    "mAP.mean": "mAP",
    "mAP.video_to_text": "mAP video→text",
    "mAP.text_to_video": "mAP text→video",
    "nDCG.mean": "nDCG",
    "nDCG.video_to_text": "nDCG video→text",
    "nDCG.text_to_video": "nDCG text→video",
    "verb_top1": "verb top-1",
    "noun_top1": "noun top-1",
    "action_top1": "action top-1",
    "top1": "top-1",
    "top5": "top-5",
    "inter_video": "inter-video",
    "intra_video": "intra-video",
}
"""Column headings of our figures, in the order of the columns."""

TASKS = {
    "contrastive": "contrastive",
    "relevancy": "retrieval (max margin)",
    "classification": "classification",
    "reconstruction": "masked reconstruction",
}


@dataclass(frozen=True)
class Cell:
    """One cell; `bar` (0…1) draws its value as a bar."""

    text: str
    number: bool = False
    best: bool = False
    bar: float | None = None


@dataclass(frozen=True)
class Row:
    """One row; its first cell is the row's heading. A `reference` row is set apart from our results."""

    cells: tuple[Cell, ...]
    reference: bool = False


@dataclass(frozen=True)
class Table:
    """A captioned table."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    numbers: frozenset[int] = field(default_factory=frozenset)
    """Columns whose headings stand to the right, over numbers."""


def table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[str | int | float]], *, note: str = ""
) -> Table:
    """A plain table: strings as they are, numbers to the right."""
    made = tuple(Row(tuple(_plain(value) for value in row)) for row in rows)
    numbers = frozenset(
        index for index in range(len(columns)) if made and all(row.cells[index].number for row in made)
    )
    return Table(caption, tuple(columns), made, note, numbers)


def measure(result: EvaluationResult) -> str:
    """Which published table a result belongs to."""
    kind = result.planned.kind
    if kind == "retrieval":
        return "retrieval" if result.fine_tuned else "zero_shot_retrieval"
    if kind == "recognition" and "action_top1" in result.figures:
        return "action_recognition"
    return kind


def result_title(results: Sequence[EvaluationResult]) -> str:
    """Heading of one evaluation: what was measured, on which data set."""
    first = results[0]
    tuned = any(result.fine_tuned for result in results)
    words = {
        "retrieval": "multi-instance retrieval",
        "recognition": "classification",
        "multiple_choice": "multiple choice (EgoMCQ)",
    }[first.planned.kind]
    if first.planned.kind == "recognition":
        return f"{'Action c' if 'action_top1' in first.figures else 'C'}lassification"
    if first.planned.kind == "multiple_choice":
        return words[0].upper() + words[1:]
    return f"{'Fine-tuned' if tuned else 'Zero-shot'} {words}"


def results_table(results: Sequence[EvaluationResult]) -> Table:
    """Every run's figures of one evaluation, then chance; the best of each column is marked."""
    names = [name for name in LABELS if name in results[0].figures]
    best = {name: max(result.figures.get(name, 0.0) for result in results) for name in names}
    headline = results[0].headline
    rows = []
    for result in results:
        cells = [Cell(result.run_title)]
        for name in names:
            value = result.figures.get(name)
            bar = value / 100 if name == headline and value is not None else None
            is_best = len(results) > 1 and value == best[name] and not result.untrained
            cells.append(Cell(formats.percent(value), number=True, best=is_best, bar=bar))
        rows.append(Row(tuple(cells), reference=result.untrained))
    chance = results[0].chance
    guess = [Cell("Chance")]
    for name in names:
        value = chance.get(name)
        bar = value / 100 if name == headline and value is not None else None
        guess.append(Cell(formats.percent(value), number=True, bar=bar))
    rows.append(Row(tuple(guess), reference=True))
    columns = ("run", *(LABELS[name] for name in names))
    size = results[0].metrics.get("clips", results[0].metrics.get("questions"))
    unit = "questions" if results[0].planned.kind == "multiple_choice" else "clips"
    note = f"{size:,} {unit}." if isinstance(size, int) else ""
    caption = f"Ours, on {results[0].planned.dataset}, per cent"
    return Table(caption, columns, tuple(rows), note, frozenset(range(1, len(columns))))


def published_table(published: PublishedTable, *, same_data: bool) -> Table:
    """The published rows; `same_data` only where ours were measured on the same data set."""
    extras = _used_extras(published.rows)
    columns = ("method", "backbone", *published.figures.values(), *extras)
    rows = []
    for place, row in enumerate(published.rows):
        cells = [Cell(f"{row.run} ({row.note})" if row.note else row.run), Cell(row.backbone)]
        cells += [Cell(formats.percent(row.figures.get(name)), number=True) for name in published.figures]
        cells += [Cell(column[place], number=name != "hardware") for name, column in extras.items()]
        rows.append(Row(tuple(cells)))
    where = "the same benchmark" if same_data else "another data set, not comparable with ours"
    caption = f"Published – {where}: {published.benchmark}, per cent"
    sources = "; ".join(dict.fromkeys(row.source for row in published.rows))
    numbers = frozenset(place for place in range(2, len(columns)) if columns[place] != "hardware")
    return Table(caption, columns, tuple(rows), f"Sources: {sources}.", numbers)


def published_for(results: Sequence[EvaluationResult], source: str) -> Table:
    """The published rows that belong to an evaluation, marked by whether the data set is the same."""
    kinds = [measure(result) for result in results if not result.untrained] or [measure(results[0])]
    published = PUBLISHED[kinds[0]]
    same = source in ("ego4d", "local") and results[0].layout == published.layout
    return published_table(published, same_data=same)


def stage_table(caption: str, stages: Sequence[StageResult], clips: dict[tuple[str, str], int]) -> Table:
    """What was trained, on how many clips, for how long; `clips` by run and stage."""
    rows: list[list[str | int | float]] = []
    for stage in stages:
        recipe, log = stage.settings, stage.log
        trained = recipe.epochs > 0
        losses = log.curve("loss")
        change = f"{losses[0][1]:.3f} → {losses[-1][1]:.3f}" if trained and losses else "–"
        narrations = ", ".join(recipe.narrations) if recipe.task == "contrastive" else "–"
        rows.append(
            [
                stage.name,
                TASKS[recipe.task],
                recipe.dataset,
                recipe.model,
                narrations,
                clips.get((stage.run, stage.name), 0),
                recipe.epochs if trained else "not trained",
                recipe.batch_size,
                log.last_step if trained else "–",
                change,
                formats.duration(log.seconds) if trained else "–",
                _rate(log) if trained else "–",
            ]
        )
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
    return table(caption, columns, rows)


def _used_extras(rows: Sequence[PublishedRow]) -> dict[str, list[str]]:
    """Columns of cost that at least one row fills."""
    columns = {
        "batch/GPU": [_or_dash(row.batch_per_gpu) for row in rows],
        "GB/GPU": [_or_dash(row.gb_per_gpu) for row in rows],
        "hardware": [row.hardware or "–" for row in rows],
        "GPU hours": [_or_dash(row.gpu_hours) for row in rows],
    }
    return {name: column for name, column in columns.items() if set(column) != {"–"}}


def _rate(log: TrainingLog) -> str:
    rates = [rate for _, rate in log.curve("clips_per_s")]
    return f"{statistics.median(rates):,.0f}" if rates else "–"


def _or_dash(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _plain(value: str | int | float) -> Cell:
    if isinstance(value, str):
        return Cell(value, number=value == "–" or value[:1].isdigit() and " " not in value.strip())
    return Cell(f"{value:,}" if isinstance(value, int) else f"{value:,.1f}", number=True)
