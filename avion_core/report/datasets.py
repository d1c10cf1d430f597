"""What the data sets hold, what was left out and why, and how narrations were rephrased."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from avion_core.data import dropped
from avion_core.data.clips import ClipTable
from avion_core.data.tables import row_count
from avion_core.files import read_json
from avion_core.report import formats
from avion_core.report.plan import Plan, PlannedDataset, ReportError, require
from avion_core.report.results import Results
from avion_core.report.tables import Table, table

SAMPLES = 6
"""Narrations shown with their rephrasings, per data set."""
TOKENS = ("input_tokens", "output_tokens")
"""Counts of an answer in the provider's journal, beside `usd` and `model`."""


@dataclass(frozen=True)
class Rephrasing:
    """A narration as a person wrote it, and what the provider made of it."""

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
    bill: Table | None


def datasets_table(plan: Plan) -> Table:
    """One row a data set: source, videos, chunks, length, size, clips of each split, what was left out."""
    rows: list[list[str | int]] = []
    for name, dataset in plan.datasets.items():
        where = f"data set '{name}'"
        chunks = pq.read_table(require(dataset.chunks, where))
        seconds = pc.sum(
            pc.divide(
                pc.multiply(chunks["frames"].cast("float64"), chunks["fps_den"].cast("float64")),
                chunks["fps_num"].cast("float64"),
            )
        ).as_py()
        splits = ", ".join(
            f"{row_count(require(path, where)):,} {split.replace('_', ' ')}"
            for split, path in dataset.clips.items()
        )
        rows.append(
            [
                name,
                dataset.source,
                dataset.layout,
                pc.count_distinct(chunks["video_id"]).as_py(),
                chunks.num_rows,
                formats.duration(seconds or 0),
                formats.megabytes(pc.sum(chunks["bytes"]).as_py() or 0),
                splits,
                _quarantined(dataset, where),
                _dropped(dataset, where)[0],
            ]
        )
    columns = (
        "data set",
        "source",
        "layout",
        "videos",
        "chunks",
        "length",
        "size",
        "rows by table",
        "quarantined videos",
        "dropped clips",
    )
    numbers = ("videos", "chunks", "length", "size", "dropped clips")
    return table("Data sets as they were prepared", columns, rows, numbers=numbers)


def quarantine_table(plan: Plan) -> Table:
    """Videos that could not be used."""
    rows = [
        [name, entry["video_id"], entry["reason"]]
        for name, dataset in plan.datasets.items()
        for entry in _entries(dataset.quarantine, f"data set '{name}'")
    ]
    return table("Quarantined videos", ("data set", "video", "reason"), rows)


def dropped_table(plan: Plan) -> Table:
    """Clips that annotation left out, by table and reason, and the file that lists each of them."""
    rows: list[list[str | int]] = [
        [name, split, reason, number, str(dataset.dropped.with_name(dropped.LIST))]
        for name, dataset in plan.datasets.items()
        for split, reasons in _dropped(dataset, f"data set '{name}'")[1].items()
        for reason, number in reasons.items()
    ]
    columns = ("data set", "table", "reason", "clips", "each one listed in")
    return table("Dropped clips", columns, rows, numbers=("clips",))


def left_out(dataset: PlannedDataset, split: str) -> str:
    """What a split had lost before anything was measured on it, as a sentence; empty when nothing."""
    where = f"the data set of '{dataset.dropped}'"
    clips = sum(_dropped(dataset, where)[1].get(split, {}).values())
    videos = len(_quarantined_by_table(dataset, where).get(split, ()))
    if not clips:
        return ""
    why = f", with {formats.count(videos, 'quarantined video')}" if videos else ""
    return f"Left out before, of this table: {formats.count(clips, 'entry', 'entries')}{why} (see Data)."


def bad_clips_table(results: Results) -> Table:
    """Clips that a training or an evaluation could not decode, each once."""
    rows = [
        (f"{stage.run_title}: {stage.name}", str(bad["video_id"]), str(bad["reason"]))
        for stage in results.stages
        for bad in stage.log.bad_clips
    ]
    rows += [
        (f"{result.run_title}: {result.name}", str(bad["video_id"]), str(bad["reason"]))
        for result in results.evaluations
        for bad in result.metrics.get("bad_clips", ())
    ]
    columns = ("where", "video", "reason")
    return table("Clips that could not be read", columns, list(dict.fromkeys(rows)))


def narrations(plan: Plan) -> list[Narrations]:
    """Samples of rephrased narrations, spread over the distinct ones, and the bill where there is one."""
    made = []
    for dataset, planned in plan.narrations.items():
        clips = ClipTable.load(require(planned.table, f"narrations of '{dataset}'"))
        first_row: dict[str, int] = {}
        texts = 0
        batches = clips.arrow().column("texts").chunks
        for row, text in enumerate(chain.from_iterable(batch.to_pylist() for batch in batches)):
            first_row.setdefault(text[0], row)
            texts += len(text)
        rephrased = [row for row in first_row.values() if len(clips.texts(row)) > 1]
        samples = []
        for row in _spread(rephrased, SAMPLES):
            original, *others = clips.texts(row)
            samples.append(Rephrasing(original, tuple(others)))
        made.append(
            Narrations(
                dataset=dataset,
                provider=planned.provider,
                clips=len(clips),
                distinct=len(first_row),
                texts_a_clip=texts / max(len(clips), 1),
                samples=tuple(samples),
                bill=_bill(planned.table.parent),
            )
        )
    return made


def _bill(folder: Path) -> Table | None:
    """What the answers in the provider's journal cost; None where no journal was kept."""
    used: dict[str, Counter[str]] = {}
    for path in sorted((folder / "journal").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):  # a torn last line was never an answer
                _add_answer(used, json.loads(line))
    rows = [
        [model, *(f"{sums[name]:,.0f}" for name in ("requests", *TOKENS)), f"{sums['usd']:.4f}"]
        for model, sums in used.items()
    ]
    columns = ("model", "requests", "input tokens", "output tokens", "US dollars")
    return table("The provider's bill", columns, rows, numbers=columns[1:]) if rows else None


def _add_answer(used: dict[str, Counter[str]], entry: Mapping[str, Any]) -> None:
    sums = used.setdefault(str(entry.get("model", "unknown")), Counter())
    sums["requests"] += 1
    for name in (*TOKENS, "usd"):
        sums[name] += entry.get(name, 0)


def _spread(items: Sequence[int], count: int) -> list[int]:
    if len(items) <= count:
        return list(items)
    return [items[(2 * place + 1) * len(items) // (2 * count)] for place in range(count)]


def _entries(path: Path, where: str) -> list[dict[str, str]]:
    entries = read_json(require(path, where))
    if not isinstance(entries, list) or not all(map(_is_refusal, entries)):
        raise ReportError(f"{path}: a list of objects with 'video_id' and 'reason' is expected")
    return entries


def _is_refusal(entry: object) -> bool:
    return isinstance(entry, Mapping) and all(
        isinstance(entry.get(key), str) for key in ("video_id", "reason")
    )


def _quarantined(dataset: PlannedDataset, where: str) -> str:
    """`3 (2 train, 1 validation)`: quarantined videos, and the tables that lost clips by them."""
    count = len(_entries(dataset.quarantine, where))
    by_table = _quarantined_by_table(dataset, where)
    parts = ", ".join(f"{len(videos):,} {split.replace('_', ' ')}" for split, videos in by_table.items())
    return f"{count:,} ({parts})" if parts else f"{count:,}"


def _quarantined_by_table(dataset: PlannedDataset, where: str) -> dict[str, set[str]]:
    quarantined = {entry["video_id"] for entry in _entries(dataset.quarantine, where)}
    lost = {
        split: videos & quarantined
        for split, videos in dropped.dropped_videos(dataset.dropped.parent).items()
    }
    return {split: videos for split, videos in lost.items() if videos}


def _dropped(dataset: PlannedDataset, where: str) -> tuple[int, dict[str, dict[str, int]]]:
    """Clips that were left out, and how many by table and reason; older versions did not say which table."""
    entry = read_json(require(dataset.dropped, where))
    try:
        tables = entry["tables"] if "tables" in entry else {"–": entry["reasons"]}
        return int(entry["clips"]), {
            split: {reason: int(count) for reason, count in reasons.items()}
            for split, reasons in tables.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ReportError(f"{dataset.dropped}: 'clips' and 'reasons' are expected") from None
