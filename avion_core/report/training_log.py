"""Training logs, `train.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avion_core.evaluate.figures import is_number
from avion_core.report.plan import ReportError


@dataclass(frozen=True)
class TrainingLog:
    """The lines of a stage's `train.jsonl` with a loss, one per logged step, in order."""

    steps: tuple[Mapping[str, float], ...]
    bad_clips: tuple[Mapping[str, Any], ...] = ()
    """Clips that could not be decoded: `video_id`, `reason`."""

    @property
    def seconds(self) -> float | None:
        """Training time, or None if the stage did not train."""
        return self.steps[-1].get("elapsed_s") if self.steps else None

    @property
    def last_step(self) -> int:
        """Number of the last logged step, or 0."""
        return int(self.steps[-1]["step"]) if self.steps else 0

    def curve(self, name: str) -> list[tuple[float, float]]:
        """(step, value) pairs of a logged quantity."""
        return [(line["step"], line[name]) for line in self.steps if name in line]


def read_log(path: Path) -> TrainingLog:
    """Read `train.jsonl`. For a step logged twice by a resumed run, the last line counts.

    Raises ReportError naming a line that is not a JSON object.
    """
    steps: dict[int, Mapping[str, float]] = {}
    bad: list[Mapping[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ReportError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(entry, dict):
            raise ReportError(f"{path}, line {number}: not a JSON object")
        if not is_number(entry.get("step", 0)) or not are_bad_clips(entry.get("bad_clips", [])):
            raise ReportError(f"{path}, line {number}: 'step' or 'bad_clips' is malformed")
        if "loss" in entry and "step" in entry:
            numbers = {key: value for key, value in entry.items() if is_number(value)}
            steps[int(entry["step"])] = numbers
            bad += entry.get("bad_clips", [])
    return TrainingLog(tuple(steps[step] for step in sorted(steps)), tuple(bad))


def are_bad_clips(value: object) -> bool:
    """Whether it lists clips with the reasons why they could not be read."""
    return isinstance(value, list) and all(
        isinstance(clip, Mapping) and {"video_id", "reason"} <= clip.keys() for clip in value
    )
