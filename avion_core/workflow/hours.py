"""Predicted hours of trainings: operations over a GPU's peak speed and the share of it that is used.

The share is what the GPU benchmark measured on that GPU for that model, or else ASSUMED_UTILISATION.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avion_core.config import StageSettings, run_of
from avion_core.devices import DEVICES, device_named
from avion_core.files import read_json
from avion_core.report.published import published_training
from avion_core.workflow.trainings import Training

ASSUMED_UTILISATION = 0.4
"""Share of the peak that a training is assumed to use where none was measured."""
UNKNOWN, NONE, PER_MILLION = "unknown", "–", "*"
COLUMNS = 100
"""Width of warnings and notes."""


@dataclass(frozen=True)
class Measured:
    """What the GPU benchmark measured, if it was run."""

    device: str | None = None
    """Name in DEVICES."""
    rows: Sequence[Mapping[str, Any]] = ()
    """Entries with their `row` (`benchmarks.gpu_rows.Row`) and `utilisation`."""

    @classmethod
    def read(cls, path: Path) -> Measured:
        """The benchmark's result. Raises ValueError for a file that is not one."""
        if not path.is_file():
            return cls()
        result = read_json(path)
        try:
            figures = result["figures"]
            entries = [e for e in figures["rows"].values() if e.get("utilisation") and "row" in e]
            for entry in entries:
                if "architecture" not in dict(entry["row"]) or not 0 < entry["utilisation"] < math.inf:
                    raise ValueError
            return cls(device_named(figures["device"]["name"]), entries)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError(f"{path}: not a result of `make bench NAME=gpu`; delete it") from None

    def utilisation(self, device: str, recipe: StageSettings) -> float | None:
        """Utilisation of the row most like the stage; None without a row of its model on this GPU."""
        rows = [entry for entry in self.rows if entry["row"]["architecture"] == recipe.model]
        if device != self.device or not rows:
            return None
        wanted = {
            "frames": recipe.frames,
            "compile": recipe.compile,
            "loader": False,
            "checkpointing": recipe.gradient_checkpointing is True,
            "attention": recipe.attention,
            "precision": recipe.precision,
            "sdpa": None,
        }
        best = max(
            rows, key=lambda entry: [entry["row"].get(name) == value for name, value in wanted.items()]
        )
        return float(best["utilisation"])


def gpu_hours(training: Training, device: str, measured: Measured) -> float | None:
    """GPU hours on a GPU of DEVICES, for each million clips if their number is not known.

    None for a training on the CPU or in fp32, for which there is no peak.
    """
    if not _has_peak(training):
        return None
    utilisation = measured.utilisation(device, training.stage.recipe) or ASSUMED_UTILISATION
    return training.flops / (DEVICES[device].tflops * 1e12 * utilisation) / 3600


def _has_peak(training: Training) -> bool:
    return training.gpus > 0 and training.stage.recipe.precision != "fp32"


def wall_hours(training: Training, device: str, measured: Measured) -> float | None:
    """Hours on all GPUs of the stage at once."""
    hours = gpu_hours(training, device, measured)
    return None if hours is None else hours / training.gpus


def hours_report(
    trainings: Sequence[Training], titles: Mapping[str, str], measured: Measured
) -> Iterable[str]:
    """Lines of the report: a table per run and seed, with warnings, then notes.

    `titles` are those of the runs.
    """
    if not trainings:
        yield "The selected runs train nothing."
    for run in dict.fromkeys(training.stage.run for training in trainings):
        own = [training for training in trainings if training.stage.run == run]
        yield f"{run}: {titles[run_of(run)]}"
        yield from _aligned(_rows(own, measured))
        yield from _wrapped(line for training in own for line in _warnings(training, measured))
        yield ""
    yield from _wrapped(_notes(trainings, measured))


def _rows(trainings: Sequence[Training], measured: Measured) -> Iterable[list[str]]:
    """Rows of the table; each has a label, then a cell per stage."""

    def row(label: str, cell: Callable[[Training], str]) -> list[str]:
        return [label, *map(cell, trainings)]

    yield row("", lambda training: training.stage.name)
    yield row("clips", lambda training: _count(training.clips, UNKNOWN))
    yield row("epochs", lambda training: str(training.stage.recipe.epochs))
    yield row("steps", lambda training: _count(training.steps, UNKNOWN))
    yield row("TFLOP a clip", lambda training: _figure(training.flops_per_clip / 1e12))
    yield row("exaFLOP", lambda training: _extensive(training.flops / 1e18, training))
    yield row("finished", lambda training: "yes" if training.finished else "no")
    yield row("GPUs", lambda training: str(training.gpus))
    if not any(training.gpus for training in trainings):
        return
    yield ["GPU hours"]
    for name, device in DEVICES.items():
        hours = [gpu_hours(training, name, measured) for training in trainings]
        yield [f"  {name}, {device.tflops:.0f} TFLOPS", *map(_extensive, hours, trainings)]
    yield row("  published", _published)
    yield ["wall hours"]
    for name in DEVICES:
        hours = [wall_hours(training, name, measured) for training in trainings]
        yield [f"  {name}", *map(_extensive, hours, trainings)]


def _published(training: Training) -> str:
    row = published_training(training.layout, training.stage.recipe.model_dump())
    if row is None:
        return NONE
    return f"{row.gpu_hours:,} on {row.hardware}" + (
        f", with {row.hours_include}" if row.hours_include else ""
    )


def _warnings(training: Training, measured: Measured) -> Iterable[str]:
    """Too few clips, and a time limit that is too short."""
    recipe, limit = training.stage.recipe, training.stage.recipe.runtime_minutes
    if training.clips is None or training.finished:
        return
    if training.steps == 0 and recipe.epochs:
        yield f"{training.stage.name}: {training.clips} clips do not fill one batch of {recipe.batch_size}"
    hours = {device: wall_hours(training, device, measured) for device in DEVICES}
    over = [f"{name} {_figure(needed)} h" for name, needed in hours.items() if needed and 60 * needed > limit]
    if over:
        said = f"runtime_minutes ({limit}, {_figure(limit / 60)} h) is below the prediction"
        yield f"{training.stage.name}: {said}: {', '.join(over)}"


def _notes(trainings: Sequence[Training], measured: Measured) -> Iterable[str]:
    """What the figures mean."""
    if any(training.clips is None for training in trainings):
        unknown = "clips unknown until annotate; docs/cluster.md has those of public data sets"
        yield f"{PER_MILLION} for each million clips: {unknown}"
    predicted = [training for training in trainings if _has_peak(training)]
    if len(predicted) < len(trainings):
        yield "No hours are predicted for stages on CPUs (gpus: 0) or in fp32."
    if not predicted:
        return
    assumed = f"an assumed {ASSUMED_UTILISATION:.0%} of the peak in bf16 or fp16"
    yield f"Hours are those of training steps, at {assumed}."
    if measured.device:
        shares = {
            f"{recipe.model} with {recipe.frames} frames {share:.0%}"
            for recipe in (training.stage.recipe for training in predicted)
            if (share := measured.utilisation(measured.device, recipe))
        }
        if shares:
            yield f"On {measured.device} at what make bench NAME=gpu measured: {', '.join(sorted(shares))}."
    yield "Gradient checkpointing takes up to a third more; so do micro-batches of losses that compare clips."


def _aligned(rows: Iterable[list[str]]) -> Iterable[str]:
    """Lines of a table; the first column is aligned on the left."""
    listed = list(rows)
    widths = [max(len(row[place]) for row in listed if place < len(row)) for place in range(len(listed[0]))]
    for row in listed:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=False)]
        yield "  ".join([row[0].ljust(widths[0]), *cells]).rstrip()


def _wrapped(lines: Iterable[str]) -> Iterable[str]:
    """Lines of COLUMNS at most."""
    for line in lines:
        yield from textwrap.wrap(line, COLUMNS, subsequent_indent="  ", break_on_hyphens=False)


def _extensive(value: float | None, training: Training) -> str:
    """A figure in proportion to the clips; marked if it is per million of them."""
    if value is None:
        return NONE
    return _figure(value) + (PER_MILLION if training.clips is None else "")


def _figure(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _count(value: int | None, otherwise: str) -> str:
    return otherwise if value is None else f"{value:,}"
