"""The one training loop. It owns time: schedule, update, log, checkpoint, resume and the end.

What a step computes is the task's affair (`tasks.py`), what it is made of the stage's (`stages.py`). The
same loop serves one process and many (`distributed.World`).

Every step seeds torch's generators from (seed, step, rank) before it draws anything, and the loader's
batches depend on (seed, epoch) alone, so a training that was killed at any point ends in the same bits
as one that was not.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from avion_core.progress import Progress
from avion_core.train.checkpoint import CheckpointStore, State
from avion_core.train.distributed import World
from avion_core.train.log import BadClips, Stopwatch, TrainingLog
from avion_core.train.optim import Schedule, load_tensor_state, tensor_state

PREEMPTED_EXIT_CODE = 3
"""Exit code of a training that was asked to stop, has saved its state, and waits to be started again."""

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class StepLoss:
    """What a task makes of a batch."""

    loss: Tensor
    """0-d, with a gradient."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """0-d tensors to log, averaged over steps and processes."""


class Task(Protocol):
    """Joins a model and a loss."""

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""

    def loss(self, batch: Batch) -> StepLoss:
        """Loss of one step from a batch on the model's device."""

    def after_update(self) -> None:
        """Called after the optimiser's step, for bounds on parameters."""


class Batches(Protocol):
    """Where batches come from: `avion_core.data.loader.BatchLoader`."""

    bad: list[Any]
    """Clips that could not be decoded, in the order they were met: dataclasses of JSON-able fields."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one pass over the clips."""

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        """Batches of an epoch from `first_step` on."""


@dataclass(frozen=True)
class Plan:
    """How long to train and how often to write."""

    steps: int
    """Updates of the whole training."""
    seed: int
    batch_size: int
    """Clips a step over all processes."""
    log_every_steps: int
    checkpoint_every_steps: int
    gradient_clip: float | None = None
    """Largest gradient norm, None for no clipping."""
    precision: str = "fp32"
    """`fp32`, or `bf16` for autocast."""


class PreemptedError(Exception):
    """The training was asked to stop; its state is saved."""


@dataclass(frozen=True)
class Update:
    """What one step measured, the same on every process."""

    values: dict[str, float]
    """Loss and the task's metrics, means over the processes."""
    learning_rate: float
    gradient_norm: float
    """Of all gradients together, before clipping."""
    stop_requested: bool
    """Whether any process has been asked to stop."""


class Training:
    """A training in progress: model, optimiser, and how far they are."""

    def __init__(
        self,
        task: Task,
        batches: Batches,
        optimizer: torch.optim.Optimizer,
        *,
        schedule: Schedule,
        plan: Plan,
        world: World,
        store: CheckpointStore,
    ) -> None:
        self.task, self.batches, self.optimizer = task, batches, optimizer
        self.schedule, self.plan, self.world, self.store = schedule, plan, world, store
        self.log = TrainingLog(store.log_path)
        self.step = 0
        self._bad = BadClips()

    def run(self, title: str) -> None:
        """Train from the newest checkpoint, if there is one, to the end.

        Raises ValueError when a loss or gradient is not finite, before it reaches the weights, and
        PreemptedError after SIGTERM, when the state is saved.
        """
        self.resume()
        with _stop_requests() as stop, _progress(title, self.plan.steps, self.step, self.world) as advance:
            for batch, wait_seconds in self._remaining_batches(stop):
                watch = Stopwatch()
                update = self.update(batch, stop)
                self.log.add(
                    update.values, clips=self.plan.batch_size, wait_s=wait_seconds, work_s=watch.lap()
                )
                if self._due(self.plan.log_every_steps):
                    self._write_log(update)
                if self._due(self.plan.checkpoint_every_steps):
                    self.save()
                advance(f"loss {update.values['loss']:.4f}")
                if update.stop_requested:
                    break
            if self.step < self.plan.steps:
                self.save()
                raise PreemptedError(
                    f"{title}: asked to stop; saved after step {self.step} of {self.plan.steps}"
                )

    def update(self, batch: Batch, stop: StopFlag | None = None) -> Update:
        """One step: rate, forward, backward, average, check, and move the weights."""
        rate = self.schedule.apply(self.optimizer, self.step)
        _seed_step(self.plan.seed, self.step, self.world.rank)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(
            self.world.device.type, dtype=torch.bfloat16, enabled=self.plan.precision == "bf16"
        ):
            result = self.task.loss(_on_device(batch, self.world.device))
        result.loss.backward()
        weights = [weight for weight in self.task.model.parameters() if weight.grad is not None]
        self.world.average_gradients(weights)
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        asked = torch.tensor(stop is not None and stop.requested)
        measured = {"loss": result.loss, **result.metrics, "norm": norm, "stop": asked}
        values = dict(zip(measured, self.world.mean(list(measured.values())), strict=True))
        gradient_norm, stop_share = values.pop("norm"), values.pop("stop")
        if not (math.isfinite(values["loss"]) and math.isfinite(gradient_norm)):
            raise ValueError(self._not_finite(batch, values["loss"], gradient_norm))
        if self.plan.gradient_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(weights, self.plan.gradient_clip, norm)
        self.optimizer.step()
        self.task.after_update()
        self.step += 1
        return Update(values, rate, gradient_norm, stop_requested=stop_share > 0)

    def save(self) -> None:
        """Publish the state after `self.step` updates; all processes take part, rank 0 writes."""
        self._bad.take_in(self.batches.bad)
        bad_by_rank = self.world.collect(self._bad.state())
        if self.world.leads and self.step not in self.store.steps():
            self.store.save(
                State(
                    step=self.step,
                    model=self.task.model.state_dict(),
                    optimizer=tensor_state(self.optimizer),
                    notes={"log": self.log.state(), "bad_by_rank": bad_by_rank},
                )
            )
        self.world.wait()

    def resume(self) -> None:
        """Take up the newest state of the store, or start at step 0."""
        if self.world.leads:
            self.store.open()
        state = self.store.newest() if self.world.leads else None
        step = self.world.from_leader(state.step if state else None)
        if step is not None:
            state = state or self.store.load(step)
            self.task.model.load_state_dict(state.model)
            load_tensor_state(self.optimizer, state.optimizer)
            self.step = step
            self._bad.restore(state.notes["bad_by_rank"], rank=self.world.rank, size=self.world.size)
        if self.world.leads:
            self.log.restore(state.notes["log"] if state else None)
            if state:
                print(f"resumed after step {step} of {self.plan.steps}", file=sys.stderr, flush=True)

    def _remaining_batches(self, stop: StopFlag) -> Iterator[tuple[Batch, float]]:
        """Batches from the present step to the end, each with the seconds it was waited for."""
        while self.step < self.plan.steps:
            epoch, first = divmod(self.step, self.batches.steps_per_epoch)
            watch = Stopwatch()
            try:
                for batch in self.batches.epoch(epoch, first_step=first):
                    yield batch, watch.lap()
                    watch = Stopwatch()
            except RuntimeError:  # a signal to the whole process group ends the loader's workers too
                if stop.requested and self.world.size == 1:
                    return
                raise

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.plan.steps

    def _write_log(self, update: Update) -> None:
        self._bad.take_in(self.batches.bad)
        bad_clips = [clip for clips in self.world.collect(self._bad.not_yet_logged()) for clip in clips]
        if self.world.leads:
            self.log.write(
                step=self.step,
                epoch=(self.step - 1) // self.batches.steps_per_epoch,
                learning_rate=update.learning_rate,
                gradient_norm=update.gradient_norm,
                bad_clips=bad_clips,
            )

    def _not_finite(self, batch: Batch, loss: float, gradient_norm: float) -> str:
        rows = ", ".join(str(row) for row in batch["rows"].tolist())
        epoch = self.step // self.batches.steps_per_epoch
        return (
            f"step {self.step + 1} (epoch {epoch}): the loss is {loss} and the gradient's norm "
            f"{gradient_norm}; the weights were not moved. Rows of the clip tables in this batch: {rows}. "
            "Look at these clips, lower learning_rate, or set gradient_clip"
        )


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's generators for one step of one process: dropout, drop path, masks, mixup."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]))


def _on_device(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    return {name: value.pin_memory().to(device, non_blocking=True) for name, value in batch.items()}


@contextmanager
def _progress(title: str, steps: int, done: int, world: World) -> Iterator[Callable[[str], None]]:
    """What to call after each step with a note; only rank 0 shows anything."""
    if not world.leads:
        yield lambda note: None
        return
    with Progress(title, steps, unit="steps", done=done) as progress:
        yield lambda note: progress.advance(note=note)


@dataclass
class StopFlag:
    """Whether the queue or the user has asked this process to stop."""

    requested: bool = False


@contextmanager
def _stop_requests() -> Iterator[StopFlag]:
    """Turn SIGTERM into a flag that is looked at after each step."""
    flag, owner = StopFlag(), os.getpid()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            flag.requested = True
        else:  # a forked loader worker that inherited this handler
            os._exit(128 + number)

    previous = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGTERM, previous)
