"""What does the engine cost over a bare loop, and what does a resume cost?

A small dual encoder trains on the same prepared batches through `Training.run` and through a bare loop of
rate, forward, backward and step. The engine also seeds, checks, logs and saves. Rounds alternate; the figure
is the median of the rounds' ratios. A resume reads the state and repeats no step.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from avion_core.models.architecture import DualEncoderConfig
from avion_core.models.dual_encoder import DualEncoder
from avion_core.models.towers import TextConfig, VisionConfig
from avion_core.train.checkpoint import CheckpointStore
from avion_core.train.distributed import alone
from avion_core.train.engine import LoopSettings, Training
from avion_core.train.optim import Schedule, make_optimizer, parameter_groups
from avion_core.train.protocols import Batch
from avion_core.train.tasks.contrastive import ContrastiveTask
from benchmarks import write_result

STEPS, BATCH, FRAMES, SIZE_PX, ROUNDS = 40, 16, 4, 64, 7
MODEL = DualEncoderConfig(
    vision=VisionConfig(width=192, layers=6, heads=3, patch_px=16),
    text=TextConfig(width=128, layers=4, heads=2, context_length=32, vocabulary=1000),
    embed_dim=64,
)
SCHEDULE = Schedule("constant", peak=1e-4, steps=STEPS)


class Premade:
    """Batches in memory."""

    steps_per_epoch = STEPS

    def __init__(self) -> None:
        self.bad: list[Any] = []
        shape = (BATCH, FRAMES, SIZE_PX, SIZE_PX, 3)
        self.batches = [
            {
                "frames": torch.randint(256, shape, dtype=torch.uint8),
                "tokens": torch.randint(1, 1000, (BATCH, 32)),
                "rows": torch.arange(BATCH),
            }
            for _ in range(STEPS)
        ]

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        """The same batches every time."""
        return iter(self.batches[first_step:])


def fresh() -> tuple[ContrastiveTask, torch.optim.Optimizer]:
    """A task and its optimiser, always from the same weights."""
    torch.manual_seed(0)
    task = ContrastiveTask(DualEncoder(MODEL, frames=FRAMES, image_size_px=SIZE_PX))
    groups = parameter_groups(task.model, weight_decay=0.01, layer_decay=1.0)
    return task, make_optimizer("adamw", groups)


def training(folder: Path, batches: Premade) -> Training:
    """The engine, with the default intervals of log and checkpoint."""
    task, optimizer = fresh()
    return Training(
        task,
        batches,
        optimizer,
        schedule=SCHEDULE,
        loop=LoopSettings(STEPS, seed=0, batch_size=BATCH, log_every_steps=10, checkpoint_every_steps=100),
        world=alone(),
        store=CheckpointStore(folder, {}),
    )


def engine_seconds(batches: Premade) -> float:
    """Seconds of a whole training, including its only checkpoint at the end."""
    with tempfile.TemporaryDirectory(prefix="avion-engine-") as folder:
        ready = training(Path(folder), batches)
        start = time.monotonic()
        with contextlib.redirect_stderr(io.StringIO()):
            ready.run("engine")
        return time.monotonic() - start


def bare_seconds(batches: Premade) -> float:
    """Seconds of the same steps in a bare loop."""
    task, optimizer = fresh()
    start = time.monotonic()
    for step, batch in enumerate(batches.epoch(0)):
        SCHEDULE.apply(optimizer, step)
        optimizer.zero_grad(set_to_none=True)
        task.loss(batch).loss.backward()
        optimizer.step()
    return time.monotonic() - start


def resume_seconds(batches: Premade) -> float:
    """Seconds from a fresh process's model to the saved state."""
    with tempfile.TemporaryDirectory(prefix="avion-engine-") as folder:
        with contextlib.redirect_stderr(io.StringIO()):
            training(Path(folder), batches).run("engine")
            again = training(Path(folder), batches)
            start = time.monotonic()
            again.resume()
        assert again.step == STEPS
        return time.monotonic() - start


def main() -> None:
    torch.set_num_threads(1)
    batches = Premade()
    bare_seconds(batches)
    rounds = [(bare_seconds(batches), engine_seconds(batches)) for _ in range(ROUNDS)]
    resume = statistics.median(resume_seconds(batches) for _ in range(3))
    step = statistics.median(bare for bare, _ in rounds) / STEPS
    figures = {"bare_step_s": step, "resume_s": resume, "steps": STEPS, "rounds": rounds}
    overhead = statistics.median(engine / bare - 1 for bare, engine in rounds)
    write_result(
        "engine", figures=figures, ratios={"engine_overhead": overhead, "resume_in_steps": resume / step}
    )


if __name__ == "__main__":
    main()
