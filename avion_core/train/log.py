"""The training log: JSON lines that survive a kill without a gap or a repetition.

One line every few steps, with flat values: `step` (updates done), `epoch` (from 0), `loss` and the task's
own metrics (means since the last line, over all processes), `learning_rate` and `gradient_norm` (of the
line's step, null where fp16 overflowed), `skipped_steps` (overflows since the last line), `clips_per_s`,
`data_wait_share` (part of the time in which the device waited for the loader), `elapsed_s` (time spent in
steps, over all legs), the readings of `meter.Meter`, and `bad_clips` (those that could not be decoded since
the last line; on a GPU also those of the next batch, read ahead). Validation adds lines of its own.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from avion_core.train.meter import Meter


@dataclass
class Window:
    """Measurements since the last line."""

    steps: int = 0
    skipped: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    clips: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0


class TrainingLog:
    """Appends lines to a file; its state is part of a checkpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._window = Window()
        self._elapsed_s = 0.0

    def add(
        self, values: Mapping[str, float], *, clips: int, wait_s: float, work_s: float, skipped: bool = False
    ) -> None:
        """Add one step: its loss and metrics, its clips over all processes, and its duration.

        `skipped`: the step did not change the weights.
        """
        seconds = wait_s + work_s
        window = self._window
        window.steps += 1
        window.skipped += skipped
        for name, value in values.items():
            window.sums[name] = window.sums.get(name, 0.0) + value
        window.clips += clips
        window.seconds += seconds
        window.wait_seconds += wait_s
        self._elapsed_s += seconds

    def write(
        self,
        *,
        step: int,
        epoch: int,
        learning_rate: float,
        gradient_norm: float,
        bad_clips: Sequence[Mapping[str, Any]],
        steps_left: int,
        meter: Meter,
    ) -> dict[str, Any]:
        """Append and return the window's line, and open the next window."""
        window, self._window = self._window, Window()
        seconds = max(window.seconds, 1e-9)
        clips_per_s = window.clips / seconds
        line = {
            "step": step,
            "epoch": epoch,
            **{name: total / window.steps for name, total in window.sums.items()},
            "learning_rate": learning_rate,
            "gradient_norm": gradient_norm if math.isfinite(gradient_norm) else None,
            "skipped_steps": window.skipped,
            "clips_per_s": round(clips_per_s, 3),
            "data_wait_share": round(window.wait_seconds / seconds, 4),
            "elapsed_s": round(self._elapsed_s, 3),
            **meter.readings(clips_per_s=clips_per_s, seconds_left=seconds / window.steps * steps_left),
            "bad_clips": list(bad_clips),
        }
        self._append(line)
        return line

    def write_validation(self, step: int, figures: Mapping[str, float]) -> None:
        """Append a line `{"step", "validation": {…}}`; figures without data are null."""
        found = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        self._append({"step": step, "validation": found})

    def state(self) -> dict[str, Any]:
        """Sync the log to disk and return its position, for `restore`."""
        with self._path.open("a", encoding="utf-8") as stream:
            os.fsync(stream.fileno())
        return {
            "bytes": self._path.stat().st_size,
            "window": asdict(self._window),
            "elapsed_s": self._elapsed_s,
        }

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Truncate the log to its length at `state` (empty for None) and continue from there."""
        os.truncate(self._path, state["bytes"] if state else 0)
        if state:
            self._window = Window(**state["window"])
            self._elapsed_s = state["elapsed_s"]

    def _append(self, line: Mapping[str, Any]) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:  # a full disk's error names no file
            error.filename = str(self._path)
            raise


class BadClips:
    """Clips that this process could not decode, over all legs of a training, each logged once."""

    def __init__(self) -> None:
        self._clips: list[dict[str, Any]] = []
        self._logged = 0

    def take_in(self, met: Sequence[Any]) -> None:
        """`met` are this leg's bad clips so far: dataclasses of JSON-able fields.

        Entries of earlier versions' checkpoints have fewer fields.
        """
        new = map(asdict, met)
        self._clips += [clip for clip in new if not any(old.items() <= clip.items() for old in self._clips)]

    def not_yet_logged(self) -> list[dict[str, Any]]:
        """New ones since the last call."""
        new, self._logged = self._clips[self._logged :], len(self._clips)
        return new

    def state(self) -> dict[str, Any]:
        """State for `restore`."""
        return {"clips": list(self._clips), "logged": self._logged}

    def restore(self, by_rank: Sequence[Mapping[str, Any]], *, rank: int, size: int) -> None:
        """Each rank takes its own state; with another number of processes rank 0 takes all."""
        mine = [by_rank[rank]] if len(by_rank) == size else by_rank if rank == 0 else []
        logged = [clip for entry in mine for clip in entry["clips"][: entry["logged"]]]
        open_ = [clip for entry in mine for clip in entry["clips"][entry["logged"] :]]
        self._clips, self._logged = logged + open_, len(logged)


class Stopwatch:
    """Seconds since it was last read."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last call, or since the start."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        return seconds
