"""Tables of the data sets: their contents, and what was left out and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from avion_core.data import dropped
from avion_core.data.tables import row_count
from avion_core.files import read_json
from avion_core.report import formats
from avion_core.report.plan import PlannedDataset, ReportError, ReportPlan, require
from avion_core.report.results import Results
from avion_core.report.tables import Table, table


def datasets_table(plan: ReportPlan) -> Table:
    """One row per data set: source, videos, chunks, length, size, clips of each split, dropped clips."""
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


def quarantine_table(plan: ReportPlan) -> Table:
    """Videos that could not be used."""
    rows = [
        [name, entry["video_id"], entry["reason"]]
        for name, dataset in plan.datasets.items()
        for entry in _entries(dataset.quarantine, f"data set '{name}'")
    ]
    return table("Quarantined videos", ("data set", "video", "reason"), rows)


def dropped_table(plan: ReportPlan) -> Table:
    """Clips dropped by annotation, by table and reason, and the file that lists them."""
    rows: list[list[str | int]] = [
        [name, split, reason, number, str(dataset.dropped.with_name(dropped.LIST))]
        for name, dataset in plan.datasets.items()
        for split, reasons in _dropped(dataset, f"data set '{name}'")[1].items()
        for reason, number in reasons.items()
    ]
    columns = ("data set", "table", "reason", "clips", "each one listed in")
    return table("Dropped clips", columns, rows, numbers=("clips",))


def left_out(dataset: PlannedDataset, split: str) -> str:
    """Sentence about the entries a split lost before evaluation; empty if none."""
    where = f"the data set of '{dataset.dropped}'"
    clips = sum(_dropped(dataset, where)[1].get(split, {}).values())
    videos = len(_quarantined_by_table(dataset, where).get(split, ()))
    if not clips:
        return ""
    why = f", with {formats.count(videos, 'quarantined video')}" if videos else ""
    return f"Dropped from this table: {formats.count(clips, 'entry', 'entries')}{why} (see Data)."


def bad_clips_table(results: Results) -> Table:
    """Clips that a training or an evaluation could not decode, each once."""
    rows = [
        (f"{stage.run_title}: {stage.name}", str(bad["video_id"]), str(bad["reason"]))
        for stage in results.stages
        for bad in stage.log.bad_clips
    ]
    rows += [
        (f"{result.run_title}: {result.name}", str(bad["video_id"]), str(bad["reason"]))
        for result in results.measured
        for bad in result.metrics.get("bad_clips", ())
    ]
    columns = ("where", "video", "reason")
    return table("Clips that could not be read", columns, list(dict.fromkeys(rows)))


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
    """`3 (2 train, 1 validation)`: quarantined videos, in total and by table."""
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
    """Number of dropped clips, and by table and reason; older versions did not record the table."""
    entry = read_json(require(dataset.dropped, where))
    try:
        tables = entry["tables"] if "tables" in entry else {"–": entry["reasons"]}
        return int(entry["clips"]), {
            split: {reason: int(count) for reason, count in reasons.items()}
            for split, reasons in tables.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ReportError(f"{dataset.dropped}: 'clips' and 'reasons' are expected") from None
