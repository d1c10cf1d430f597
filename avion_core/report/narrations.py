"""Rephrased narrations: samples, a language model's bill, and narrations without a usable sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from avion_core.data.clips import ClipTable
from avion_core.files import read_json
from avion_core.media.sample import spread
from avion_core.report import formats
from avion_core.report.plan import ReportPlan, require
from avion_core.report.tables import Table, table

SAMPLES = 6
"""Sample narrations per data set."""


@dataclass(frozen=True)
class Rephrasing:
    """A human narration and its rephrasings."""

    original: str
    rephrased: tuple[str, ...]


@dataclass(frozen=True)
class Narrations:
    """Rephrased narrations of one data set."""

    dataset: str
    provider: str
    clips: int
    distinct: int
    texts_a_clip: float
    samples: tuple[Rephrasing, ...]
    tables: tuple[Table, ...]
    """A language model's bill and dead letters, if any."""


def narrations(plan: ReportPlan) -> list[Narrations]:
    """Samples of rephrased narrations, spread over the distinct ones, and a language model's tables."""
    made = []
    for dataset, planned in plan.narrations.items():
        where = f"narrations of '{dataset}'"
        clips = ClipTable.load(require(planned.table, where))
        first_row: dict[str, int] = {}
        texts = 0
        batches = clips.arrow().column("texts").chunks
        for row, text in enumerate(chain.from_iterable(batch.to_pylist() for batch in batches)):
            first_row.setdefault(text[0], row)
            texts += len(text)
        rephrased = [row for row in first_row.values() if len(clips.texts(row)) > 1]
        samples = []
        for row in spread(rephrased, SAMPLES):
            original, *others = clips.texts(row)
            samples.append(Rephrasing(original, tuple(others)))
        summary = read_json(require(planned.summary, where))
        made.append(
            Narrations(
                dataset=dataset,
                provider=planned.provider,
                clips=len(clips),
                distinct=len(first_row),
                texts_a_clip=texts / max(len(clips), 1),
                samples=tuple(samples),
                tables=tuple(
                    entry for entry in (_bill(summary), _dead_letters(summary, planned.dead)) if entry
                ),
            )
        )
    return made


def _bill(summary: Mapping[str, Any]) -> Table | None:
    """Cost of the requests in the provider's journal; None without requests."""
    rows = [
        [
            model,
            *(f"{bill[name]:,}" for name in ("requests", "lost", "input_tokens", "output_tokens")),
            f"{bill['usd']:.4f}",
        ]
        for model, bill in summary["bill"].items()
    ]
    columns = ("model", "requests", "without an answer", "input tokens", "output tokens", "US dollars")
    note = (
        "All requests so far, including other prompts. A request without an answer may have been billed and "
        "counts at its highest price."
    )
    return (
        replace(table("The provider's bill", columns, rows, numbers=columns[1:]), note=note) if rows else None
    )


def _dead_letters(summary: Mapping[str, Any], listed: Path) -> Table | None:
    """Narrations without a usable sentence by reason, and the file that lists them."""
    reasons, texts = summary["reasons"], max(summary["texts"], 1)
    rows = [
        [reason, f"{number:,}", formats.share(100 * number / texts)] for reason, number in reasons.items()
    ]
    note = f"Each one is listed in {listed}."
    if summary["other_subject"]:
        sentences = formats.count(summary["other_subject"], "sentence")
        note += f" Left out: {sentences} whose subject is not the narration's."
    columns = ("reason", "narrations", "share")
    made = table("Narrations without a usable sentence", columns, rows, numbers=columns[1:])
    return replace(made, note=note) if rows else None
