"""Rephrased and narrated clips: samples, a language model's bill, and what got no usable sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import ClipTable
from avion_core.files import read_json
from avion_core.media.sample import Sampling, spread
from avion_core.report import formats
from avion_core.report.gallery import FRAMES_A_STRIP, Strip, clip_strip
from avion_core.report.plan import PlannedNarrations, ReportPlan, require
from avion_core.report.tables import Table, table

SAMPLES = 6
"""Sample narrations per data set."""
MOST_SPEND_ROWS = 40
"""Rows of the table of spend that still show each shard."""
EVENLY = Sampling(frames=FRAMES_A_STRIP, sampling="segments", stride=1)
"""Frames shown of a clip."""


@dataclass(frozen=True)
class Rephrasing:
    """A human narration and its rephrasings, or a clip and its narrations."""

    original: str
    """For a clip its video and seconds."""
    rephrased: tuple[str, ...]
    strip: Strip | None = None
    """Frames of a clip."""


@dataclass(frozen=True)
class LeftOut:
    """A text that a filter left out."""

    reason: str
    text: str
    human: str
    """What a person wrote about the clip; empty for a window."""
    strip: Strip
    cosine: str = ""
    """Of the clip with the text, if it was measured."""


@dataclass(frozen=True)
class Narrations:
    """Rephrased narrations, or narrated clips, of one data set."""

    dataset: str
    provider: str
    looks: bool
    """Whether clips are narrated from their frames."""
    clips: int
    distinct: int
    texts_a_clip: float
    samples: tuple[Rephrasing, ...]
    tables: tuple[Table, ...]
    """A language model's bill, dead letters and counts of filters, if any."""
    left_out: tuple[LeftOut, ...] = ()
    """Examples of what the filters left out."""


def narrations(plan: ReportPlan) -> list[Narrations]:
    """Samples of rephrased narrations and narrated clips, spread over all, and a model's tables."""
    rephrased = [_narrations(name, planned) for name, planned in plan.narrations.items()]
    return rephrased + [_narrations(name, planned) for name, planned in plan.narrated.items()]


def _narrations(dataset: str, planned: PlannedNarrations) -> Narrations:
    where = f"narrations of '{dataset}'"
    clips = ClipTable.load(require(planned.table, where))
    texts = pc.sum(pc.list_value_length(clips.arrow().column("texts"))).as_py() or 0
    chunks = ChunkIndex.load(require(planned.chunks, where))
    distinct, samples = _clips(clips, chunks) if planned.looks else _distinct_texts(clips)
    summary = read_json(require(planned.summary, where))
    dead = _dead_letters(summary, planned.dead, "clips" if planned.looks else "narrations")
    section = "narrator.filters" if planned.looks else "narrate.filters"
    spent = _bill(summary), _spend(summary, planned.summary)
    tables = (*spent, dead, _filters(summary, section), _cosines(summary))
    return Narrations(
        dataset=dataset,
        provider=planned.provider,
        looks=planned.looks,
        clips=len(clips),
        distinct=distinct,
        texts_a_clip=texts / max(len(clips), 1),
        samples=tuple(samples),
        tables=tuple(entry for entry in tables if entry),
        left_out=tuple(_left_out(summary, chunks)),
    )


def _distinct_texts(clips: ClipTable) -> tuple[int, list[Rephrasing]]:
    """The number of distinct narrations, and samples of those with rephrasings."""
    first_row: dict[str, int] = {}
    batches = clips.arrow().column("texts").chunks
    for row, text in enumerate(chain.from_iterable(batch.to_pylist() for batch in batches)):
        first_row.setdefault(text[0], row)
    rephrased = [row for row in first_row.values() if len(clips.texts(row)) > 1]
    samples = []
    for row in spread(rephrased, SAMPLES):
        original, *others = clips.texts(row)
        samples.append(Rephrasing(original, tuple(others)))
    return len(first_row), samples


def _clips(clips: ClipTable, chunks: ChunkIndex) -> tuple[int, list[Rephrasing]]:
    """The number of clips, and samples of them."""
    samples = []
    for row in spread(range(len(clips)), SAMPLES):
        place = f"{clips.video_id(row)}, {clips.start_s(row):.1f} to {clips.end_s(row):.1f} s"
        samples.append(Rephrasing(place, tuple(clips.texts(row)), clip_strip(clips, row, chunks, EVENLY)))
    return len(clips), samples


def _filters(summary: Mapping[str, Any], section: str) -> Table | None:
    """How many texts each filter left out; None if none did."""
    written = max(summary.get("written", 0), 1)
    rows = [
        [reason, f"{number:,}", formats.share(100 * number / written)]
        for reason, number in summary.get("filtered", {}).items()
    ]
    columns = ("filter", "texts", "share")
    made = table("Texts left out", columns, rows, numbers=columns[1:])
    note = f"Of {formats.count(written, 'text')} of all clips, by `{section}`; each under its first reason."
    return replace(made, note=note) if rows else None


def _cosines(summary: Mapping[str, Any]) -> Table | None:
    """How the cosines between clips and texts are distributed; None if they were not measured."""
    levels = summary.get("cosines", {})
    rows = [[formats.share(100 * float(level)), f"{cosine:.3f}"] for level, cosine in levels.items()]
    columns = ("share of the texts", "cosine below")
    made = table("Cosine between clip and text", columns, rows, numbers=columns)
    return replace(made, note="Of all texts, before any filter.") if rows else None


def _left_out(summary: Mapping[str, Any], chunks: ChunkIndex) -> Iterator[LeftOut]:
    for reason, examples in summary.get("examples", {}).items():
        places = [{name: example[name] for name in ("video_id", "start_s", "end_s")} for example in examples]
        clips = ClipTable.from_rows({**place, "texts": []} for place in places)
        for row, example in enumerate(examples):
            strip = clip_strip(clips, row, chunks, EVENLY)
            cosine = f"{example['cosine']:.3f}" if "cosine" in example else ""
            yield LeftOut(reason, example["text"], example["human"], strip, cosine)


def _bill(summary: Mapping[str, Any]) -> Table | None:
    """Cost of the requests in the provider's journal; None without requests."""
    rows = [
        [
            model,
            *(f"{bill.get(name, 0):,}" for name in ("requests", "lost", "input_tokens", "cached_tokens")),
            f"{bill['output_tokens']:,}",
            f"{bill['usd']:.4f}",
        ]
        for model, bill in summary["bill"].items()
    ]
    columns = (
        "model",
        "requests",
        "without an answer",
        "input tokens",
        "of them cached",
        "output tokens",
        "US dollars",
    )
    note = (
        "All requests so far, including other prompts. A request without an answer may have been billed and "
        "counts at its highest price."
    )
    return (
        replace(table("The provider's bill", columns, rows, numbers=columns[1:]), note=note) if rows else None
    )


def _spend(summary: Mapping[str, Any], listed: Path) -> Table | None:
    """What was spent by shard, model and day; without the shards if the table would be long."""
    spend = summary.get("spend", [])
    by_shard = len(spend) <= MOST_SPEND_ROWS
    sums: dict[tuple[str, ...], tuple[int, float]] = {}
    for entry in spend:
        shard = entry["shard"] if by_shard else "all"
        key = (entry["day"] or "not recorded", entry["model"], shard, entry["prices"] or "highest price")
        requests, usd = sums.get(key, (0, 0.0))
        sums[key] = requests + entry["requests"], usd + entry["usd"]
    rows = [[*key, f"{requests:,}", f"{usd:.4f}"] for key, (requests, usd) in sorted(sums.items())]
    columns = ("day (UTC)", "model", "shard", "price", "requests", "US dollars")
    note = (
        "Requests without an answer count at their highest price. Check list prices before you rely on them."
    )
    if not by_shard:
        note += f" {listed} lists each shard."
    made = table("Spend", columns, rows, numbers=columns[-2:])
    return replace(made, note=note) if rows else None


def _dead_letters(summary: Mapping[str, Any], listed: Path, what: str) -> Table | None:
    """Narrations or clips without a usable sentence by reason, and the file that lists them."""
    reasons, texts = summary["reasons"], max(summary["texts"], 1)
    rows = [
        [reason, f"{number:,}", formats.share(100 * number / texts)] for reason, number in reasons.items()
    ]
    note = f"Each one is listed in {listed}."
    if summary["other_subject"]:
        sentences = formats.count(summary["other_subject"], "sentence")
        note += f" Left out: {sentences} whose subject is not the narration's."
    columns = ("reason", what, "share")
    made = table(f"{what.capitalize()} without a usable sentence", columns, rows, numbers=columns[1:])
    return replace(made, note=note) if rows else None
