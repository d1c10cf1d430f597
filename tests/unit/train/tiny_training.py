"""A training small enough to repeat many times, with dropout so that its randomness matters.

As a program it trains in the folder it is given; the test that starts it says where it kills itself:
`python tiny_training.py FOLDER [KILL_AT_STEP [RANK [HOW]]]`, where HOW is another way to end: `raise`; `nan`,
a loss; `SIGTERM` or `SIGHUP` to itself; `launcher`, SIGUSR1 to its launcher; `Ctrl-C`, SIGINT to the whole
process group, and again; `orphan`, SIGKILL to its launcher; `validation`, SIGUSR1 to its launcher in its
first validation, which takes a minute.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from avion_core.train.checkpoint import CheckpointStore
from avion_core.train.distributed import World, alone, join_world
from avion_core.train.engine import LoopSettings, Training
from avion_core.train.optim import Schedule, make_optimizer, parameter_groups
from avion_core.train.preemption import PreemptedError, exit_preempted
from avion_core.train.protocols import StepLoss
from avion_core.train.validation import Validation

STEPS_PER_EPOCH, EPOCHS, BATCH = 5, 3, 4
STEPS = STEPS_PER_EPOCH * EPOCHS


class TinyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.dropout = nn.Dropout(0.5)
        self.last = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.dropout(torch.tanh(self.first(x))))

    def no_decay(self) -> set[str]:
        return set()

    def layer_of(self, parameter_name: str) -> int:
        return 0


class TinyTask:
    """Regression; notes every step it computes in a file, and can kill or stop its own process."""

    def __init__(
        self,
        folder: Path,
        *,
        signal_at: int | None = None,
        number: int | None = signal.SIGKILL,
        nan_at: int | None = None,
        whom: str = "self",
    ) -> None:
        self.model = TinyModel()
        folder.mkdir(parents=True, exist_ok=True)
        self.diary = folder / "steps-computed.txt"
        self.calls = 0
        self.signal_at, self.number, self.nan_at = signal_at, number, nan_at
        self.whom = whom

    def prepare(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return batch

    def loss(self, batch: dict[str, torch.Tensor]) -> StepLoss:
        step = int(batch["step"])
        if step == self.signal_at and self.number is None:
            raise RuntimeError("this rank has had enough")
        if step == self.signal_at:
            send(self.number, self.whom)
        with self.diary.open("a") as stream:
            stream.write(f"{step}\n")
        error = (self.model(batch["x"]) - batch["y"]).square().mean()
        if step == self.nan_at:
            error = error * float("nan")
        return StepLoss(error, {"size": batch["x"].abs().mean()})

    def after_update(self) -> None:
        self.calls += 1


def send(number: int, whom: str) -> None:
    """Signal this process, its launcher, or twice the whole group; others get time to react."""
    if whom == "self":
        os.kill(os.getpid(), number)
    elif whom == "launcher":
        os.kill(os.getppid(), number)
        time.sleep(2)
    else:
        for _ in range(2):
            os.killpg(os.getpgrp(), number)
            time.sleep(1)


@dataclass
class TinyBad:
    row: int
    reason: str


class TinyBatches:
    """Batches that depend on the epoch and the step alone; one clip of the first epoch is bad."""

    steps_per_epoch = STEPS_PER_EPOCH

    def __init__(self, world: World) -> None:
        self.world, self.bad = world, []

    def _met(self, clip: TinyBad) -> None:
        if clip not in self.bad:
            self.bad.append(clip)

    def epoch(self, epoch: int, *, first_step: int = 0):
        share = BATCH // self.world.size
        mine = slice(self.world.rank * share, (self.world.rank + 1) * share)
        for step in range(first_step, STEPS_PER_EPOCH):
            total = epoch * STEPS_PER_EPOCH + step
            if total in (2, 13):  # the same clip again in the last epoch
                self._met(TinyBad(row=9, reason="cut short"))
            generator = torch.Generator().manual_seed(1000 + total)
            x = torch.randn(BATCH, 6, generator=generator)
            yield {
                "x": x[mine],
                "y": x.sum(dim=1, keepdim=True)[mine],
                "rows": torch.arange(BATCH)[mine],
                "step": torch.tensor(total),
            }


def tiny_training(
    folder: Path,
    task: TinyTask | None = None,
    *,
    world: World | None = None,
    identity: str = "tiny",
    shard: bool = False,
    validation: Validation | None = None,
    **loop,
) -> Training:
    torch.set_num_threads(1)
    task = task or TinyTask(folder)
    torch.manual_seed(0)
    task.model = TinyModel()
    store = CheckpointStore(folder / "checkpoints", {"identity": identity})
    groups = parameter_groups(task.model, weight_decay=0.01, layer_decay=1.0)
    settings = {
        "steps": STEPS,
        "seed": 7,
        "batch_size": BATCH,
        "log_every_steps": 4,
        "checkpoint_every_steps": 3,
    }
    return Training(
        task,
        TinyBatches(world or alone()),
        make_optimizer("adamw", groups, shard=shard),
        schedule=Schedule("cosine", peak=0.05, steps=STEPS, warmup_steps=2),
        loop=LoopSettings(**{**settings, **loop}),
        world=world or alone(),
        store=store,
        validation=validation,
    )


def stop_and_dawdle() -> dict[str, float]:
    os.kill(os.getppid(), signal.SIGUSR1)
    time.sleep(60)
    return {}


def main() -> None:
    folder, at, rank = Path(sys.argv[1]), *(int(value) for value in [*sys.argv[2:4], "-1", "-1"][:2])
    endings = {
        "raise": (None, "self"),
        "SIGTERM": (signal.SIGTERM, "self"),
        "SIGHUP": (signal.SIGHUP, "self"),
        "launcher": (signal.SIGUSR1, "launcher"),
        "Ctrl-C": (signal.SIGINT, "group"),
        "orphan": (signal.SIGKILL, "launcher"),
    }
    number, whom = endings.get(sys.argv[-1], (signal.SIGKILL, "self"))
    preempted = False
    validates, breaks = (sys.argv[-1] == word for word in ("validation", "nan"))
    validation = Validation(stop_and_dawdle, every_steps=STEPS_PER_EPOCH) if validates else None
    with join_world(processes=int(os.environ.get("WORLD_SIZE", "1")), gpus=0) as world:
        own = at if rank in (-1, world.rank) else None
        task = TinyTask(
            folder,
            signal_at=None if validates or breaks else own,
            nan_at=own if breaks else None,
            number=number,
            whom=whom,
        )
        try:
            tiny_training(folder, task, world=world, validation=validation).run("tiny")
        except PreemptedError as stop:
            preempted = True
            print(stop, file=sys.stderr)
    if preempted:
        exit_preempted()


if __name__ == "__main__":
    main()
