"""Sinks of the log besides `train.jsonl`: TensorBoard, and Weights & Biases on request."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Sink = Callable[[Mapping[str, Any]], None]
"""Takes a line of the log."""


def open_sinks(folder: Path, *, title: str, identity: str, wandb_project: str | None) -> list[Sink]:
    """TensorBoard's folder, and a W&B run if `wandb_project` is set.

    `identity` is the same for all legs of a training. Raises ValueError if `wandb_project` is set and
    Weights & Biases, which is not a requirement, is not installed.
    """
    sinks: list[Sink] = [TensorBoard(folder / "tensorboard" / identity)]
    if wandb_project is not None:
        sinks.append(WeightsAndBiases(folder, project=wandb_project, title=title, identity=identity))
    return sinks


class TensorBoard:
    """Event files in a folder. A leg's first line replaces what an earlier leg wrote from that step on."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # the engine and its benchmarks run without it

        self._folder, self._writer_class = folder, SummaryWriter
        self._writer: SummaryWriter | None = None

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Write the line's numbers at its step."""
        if self._writer is None:  # a leg that starts with a validation has the loss of that step already
            first_step = line["step"] + any(name.startswith("validation/") for name in line)
            self._writer = self._writer_class(str(self._folder), purge_step=first_step)
        for name, value in numbers(line).items():
            self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()


class WeightsAndBiases:
    """One W&B run for all legs of a training."""

    def __init__(self, folder: Path, *, project: str, title: str, identity: str) -> None:
        if find_spec("wandb") is None:
            raise ValueError(
                f"wandb_project is '{project}', but Weights & Biases is not installed: "
                "`pip install wandb`, or set wandb_project: null"
            )
        wandb: Any = importlib.import_module("wandb")
        self._run = wandb.init(project=project, name=title, id=identity, resume="allow", dir=str(folder))

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Send the line's numbers at its step."""
        self._run.log(numbers(line), step=line["step"])


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The values of a line that can be plotted."""
    return {name: value for name, value in line.items() if isinstance(value, int | float) and name != "step"}
