"""The training loop: schedule, update, log, checkpoint, resume and end.

Tasks define what a step computes (`tasks/`), stages its parts (`stages.py`). The same loop serves one
process and many (`distributed.World`).

Every step seeds torch's generators from (seed, step, rank) before it draws anything, and the loader's
batches depend only on (seed, epoch), so a training that was killed at any point ends in the same bits as an
uninterrupted one.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avion_core.models.precision import autocast
from avion_core.progress import Progress, say
from avion_core.train.accumulation import Accumulation
from avion_core.train.average import WeightAverage, evaluated
from avion_core.train.averaging import averaged
from avion_core.train.checkpoint import MODEL, BackgroundWriter, CheckpointStore, State, to_memory
from avion_core.train.distributed import World
from avion_core.train.log import BadClips, Stopwatch, TrainingLog
from avion_core.train.memory import memory_advice
from avion_core.train.meter import Meter
from avion_core.train.optim import Schedule, broadcast_bytes, load_tensor_state, tensor_state
from avion_core.train.preemption import Interrupt, PreemptedError, StopFlag, stop_requests
from avion_core.train.prefetch import Prefetch
from avion_core.train.protocols import Batch, BatchSource, Task, on_device
from avion_core.train.sinks import Sink
from avion_core.train.validation import Validation


@dataclass(frozen=True)
class LoopSettings:
    """How long to train and how often to write."""

    steps: int
    """Updates of the whole training."""
    seed: int
    batch_size: int
    """Rows of the clip tables per step over all processes."""
    log_every_steps: int
    checkpoint_every_steps: int
    checkpoint_every_minutes: float | None = None
    """None: by steps only."""
    clips_per_row: int = 1
    """Clips that a step has for each row: 2 with neighbours in time."""
    accumulation_steps: int = 1
    """Micro-batches of a process's share of a step's clips."""
    ema_decay: float | None = None
    """Decay of the running average of the weights; None for no average."""
    peak_tflops: float | None = None
    """Of one device, for the logged utilisation; None if unknown."""
    gradient_clip: float | None = None
    """Largest gradient norm; None for no clipping."""
    precision: str = "fp32"
    """One of `models.precision.PRECISIONS`; `fp16` scales the loss, or small gradients would be lost."""


@dataclass(frozen=True)
class Update:
    """Measurements of one step, the same on every process."""

    values: dict[str, float]
    """Loss and the task's metrics, averaged over the processes."""
    learning_rate: float
    gradient_norm: float
    """Of all gradients together, before clipping; not finite if the update was skipped."""
    skipped: bool
    """Whether scaled fp16 gradients overflowed, so that the weights stayed and the scale was lowered."""
    stop_requested: bool
    """Whether any process has been asked to stop."""
    checkpoint_due: bool
    """Whether the last checkpoint is `checkpoint_every_minutes` old."""


class Training:
    """A training in progress: model, optimiser and current step."""

    def __init__(
        self,
        task: Task,
        batches: BatchSource,
        optimizer: torch.optim.Optimizer,
        *,
        schedule: Schedule,
        loop: LoopSettings,
        world: World,
        store: CheckpointStore,
        sinks: Sequence[Sink] = (),
        validation: Validation | None = None,
    ) -> None:
        """`sinks` receive rank 0's log lines."""
        self.task, self.batches, self.optimizer = task, batches, optimizer
        self.schedule, self.loop, self.world, self.store = schedule, loop, world, store
        self.log = TrainingLog(store.log_path)
        self.step = 0
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=loop.precision == "fp16")
        self.average = WeightAverage(task.model, loop.ema_decay) if loop.ema_decay is not None else None
        self._accumulation = Accumulation(
            parts=loop.accumulation_steps,
            reseed=lambda part: self._seed(part + 1),
            autocast=self._autocast,
            scale=self.scaler.scale,
            averaging=lambda: averaged(task.model.parameters(), world),
        )
        self.sinks, self.validation = sinks, validation
        self._best: dict[str, float] | None = None
        self._meter = Meter(device=world.device, processes=world.size, peak_tflops=loop.peak_tflops)
        self.writer = BackgroundWriter(store)
        self._saved_at = time.monotonic()
        self._saved_step: int | None = None
        self._bad = BadClips()

    def run(self, title: str) -> None:
        """Train from the newest checkpoint, if there is one, to the end.

        Raises ValueError if a loss or gradient is not finite, before it reaches the weights, if a step does
        not fit the device (DeviceMemoryError), and if a checkpoint could not be written; PreemptedError after
        one of STOP_SIGNALS, once the state is saved.
        """
        self.resume()
        with (
            stop_requests() as stop,
            self.writer,
            _progress(title, self.loop.steps, self.step, self.world) as advance,
            closing(self._remaining_batches()) as remaining,
        ):
            batches = Prefetch(remaining, self.world.device)
            first, stopped = self.step + 1, not self._validate(stop)
            while self.step < self.loop.steps and not stopped:
                watch = Stopwatch()
                with self._memory_advice():
                    update = self.update(batches.next(), stop, batches.ahead)
                if self.step == first and not update.stop_requested:
                    self._show_traffic()
                wait_s = batches.waited()
                self.log.add(
                    update.values,
                    clips=self.loop.batch_size * self.loop.clips_per_row,
                    skipped=update.skipped,
                    wait_s=wait_s,
                    work_s=watch.lap() - wait_s,
                )
                if self._due(self.loop.log_every_steps):
                    self._write_log(update)
                due = self._due(self.loop.checkpoint_every_steps) or update.checkpoint_due
                if due or self._validation_due():  # validation may take longer than a queue waits
                    self.save()
                self.writer.check()
                stopped = (update.stop_requested and self.step < self.loop.steps) or not self._validate(stop)
                if not (stopped or update.stop_requested):  # otherwise the reader may have ended too
                    advance(f"loss {update.values['loss']:.4f}")
            if stopped:
                self._save_and_meet()
                raise PreemptedError(
                    f"{title}: asked to stop; saved after step {self.step} of {self.loop.steps}"
                )

    def update(
        self, batch: Batch, stop: StopFlag | None = None, meanwhile: Callable[[], None] | None = None
    ) -> Update:
        """One step: rate, forward, backward, average, check, and update the weights.

        `meanwhile` is called while the device computes, unless a stop is requested.
        """
        stop = stop or StopFlag()
        rate = self.schedule.apply(self.optimizer, self.step)
        moved = on_device(batch, self.world.device)
        self._meter.see(self.task, moved, self._autocast)
        self._seed()
        self.world.traffic.clear()
        self.optimizer.zero_grad(set_to_none=True)
        result = self._accumulation.backward(self.task, moved)
        trained = (weight for group in self.optimizer.param_groups for weight in group["params"])
        weights = [weight for weight in trained if weight.grad is not None]
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        if meanwhile is not None and not stop.requested:
            meanwhile()
        asked = {
            "stop": self.world.flag(stop.requested),
            "checkpoint": self.world.flag(self.world.leads and self._minutes_are_up()),
        }
        measured = {"loss": result.loss, **result.metrics, "norm": norm, **asked}
        values = dict(zip(measured, self.world.mean(list(measured.values())), strict=True))
        gradient_norm, stop_share, checkpoint_share = (values.pop(name) for name in ("norm", *asked))
        skipped = self._overflowed(values["loss"], gradient_norm)
        if not skipped:
            if not (math.isfinite(values["loss"]) and math.isfinite(gradient_norm)):
                self._save_and_meet()
                raise ValueError(self._not_finite(batch, result.loss, values["loss"], gradient_norm))
            if self.loop.gradient_clip is not None:
                torch.nn.utils.clip_grads_with_norm_(weights, self.loop.gradient_clip, norm)
            self._move_weights()
        if self.scaler.is_enabled():
            self.scaler.update()
        self.step += 1
        return Update(
            values,
            rate,
            gradient_norm,
            skipped=skipped,
            stop_requested=stop_share > 0,
            checkpoint_due=checkpoint_share > 0,
        )

    def save(self) -> None:
        """Pass the state after `self.step` updates to the writer; every rank must call this."""
        self._bad.take_in(self.batches.bad)
        bad_by_rank = self.world.collect(self._bad.state())
        optimizer = tensor_state(self.optimizer)
        self._saved_at = time.monotonic()
        if self.world.leads and self.step != self._saved_step:
            self.writer.wait()
            self._saved_step = self.step
            self.writer.save(
                State(
                    step=self.step,
                    model=to_memory(self.task.model.state_dict()),
                    optimizer=to_memory(optimizer),
                    average=to_memory(self.average.weights) if self.average else {},
                    notes={
                        "log": self.log.state(),
                        "bad_by_rank": bad_by_rank,
                        "scaler": self.scaler.state_dict(),
                        "best": self._best,
                    },
                )
            )

    def _show_traffic(self) -> None:
        """Show how much a step communicates, after one."""
        if self.world.leads and self.world.size > 1:
            traffic = self.world.traffic
            counts = [traffic.reduced, traffic.gathered, broadcast_bytes(self.optimizer)]
            reduced, gathered, broadcast = (f"{1e-6 * count:.6g} MB" for count in counts)
            say(f"a step all-reduces {reduced}, gathers {gathered} and broadcasts {broadcast}")

    def _save_and_meet(self) -> None:
        """Save, then wait for all ranks, or torchrun kills the writer."""
        self.save()
        self.writer.wait()
        self.world.wait()

    def resume(self) -> None:
        """Resume from the newest state of the store, or start at step 0."""
        if self.world.leads:
            self.store.open()
        state = self.store.newest() if self.world.leads else None
        step = self.world.from_leader(state.step if state else None)
        if step is not None:
            state = state or self.store.load(step)
            self.task.model.load_state_dict(state.model)
            load_tensor_state(self.optimizer, state.optimizer)
            self.scaler.load_state_dict(dict(state.notes["scaler"]))
            if self.average:
                self.average.load(state.average)
            self.step = self._saved_step = step
            self._best = state.notes["best"]
            self._bad.restore(state.notes["bad_by_rank"], rank=self.world.rank, size=self.world.size)
        if self.world.leads:
            self.log.restore(state.notes["log"] if state else None)
            if state:
                print(f"resumed after step {step} of {self.loop.steps}", file=sys.stderr, flush=True)

    def _remaining_batches(self) -> Generator[Batch]:
        """Batches from the present step to the end."""
        epoch, first = divmod(self.step, self.batches.steps_per_epoch)
        while epoch * self.batches.steps_per_epoch < self.loop.steps:
            yield from self.batches.epoch(epoch, first_step=first)
            epoch, first = epoch + 1, 0

    def result(self) -> Mapping[str, Tensor]:
        """The weights to publish, on rank 0: the best by validation, else the average, else the last."""
        if self._best is not None:
            return self.store.load_best(int(self._best["step"]))
        return self.average.weights if self.average else self.task.model.state_dict()

    def _validation_due(self) -> bool:
        return self.validation is not None and self.step > 0 and self._due(self.validation.every_steps)

    def _validate(self, stop: StopFlag) -> bool:
        """If due, validate the averaged weights, or else the weights, on rank 0; the others wait.

        Returns False if a request to stop interrupted it. The state of this step was saved before, without
        the figures; a resumed training measures them.
        """
        if not self._validation_due():
            return True
        return bool(self.world.from_leader(self._measure(stop) if self.world.leads else None))

    def _measure(self, stop: StopFlag) -> bool:
        validation = self.validation
        assert validation is not None
        with evaluated(self.task.model, self.average):
            try:
                with stop.interrupting():
                    figures = validation.measure()
            except Interrupt:
                return False
            rank = validation.rank(figures)
            if rank is not None and (self._best is None or rank > self._best["value"]):
                self._best = {"step": self.step, "value": rank}
                self.store.save_best(self.step, self.task.model.state_dict())
        self.log.write_validation(self.step, figures)
        for sink in self.sinks:
            sink({"step": self.step, **{f"validation/{name}": value for name, value in figures.items()}})
        return True

    def _move_weights(self) -> None:
        self.optimizer.step()
        self.task.after_update()
        if self.average:
            self.average.take_in(self.task.model)

    def _overflowed(self, loss: float, gradient_norm: float) -> bool:
        """Whether the scaler made the gradient overflow; at a scale of 1 the loss itself is not finite."""
        fine = math.isfinite(gradient_norm) or not math.isfinite(loss)
        return self.scaler.is_enabled() and not fine and self.scaler.get_scale() > 1

    def _seed(self, part: int = 0) -> None:
        """Seed torch's generators for one step of one process: dropout, drop path, masks, mixup.

        Part 0 is the whole batch; the micro-batches are parts 1 and up.
        """
        entropy = [self.loop.seed, self.step, self.world.rank, part]
        seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
        # torch.manual_seed formats a stack trace for unused GPUs, a millisecond each time
        torch.default_generator.manual_seed(seed)
        if self.world.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _memory_advice(self) -> AbstractContextManager[None]:
        loop = self.loop
        return memory_advice(
            self.task.model, batch_size=loop.batch_size, accumulation_steps=loop.accumulation_steps
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.world.device, self.loop.precision)

    def _minutes_are_up(self) -> bool:
        every = self.loop.checkpoint_every_minutes
        return every is not None and time.monotonic() - self._saved_at >= 60 * every

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.loop.steps

    def _write_log(self, update: Update) -> None:
        self._bad.take_in(self.batches.bad)
        bad_clips = [clip for clips in self.world.collect(self._bad.not_yet_logged()) for clip in clips]
        if self.world.leads:
            line = self.log.write(
                step=self.step,
                epoch=(self.step - 1) // self.batches.steps_per_epoch,
                learning_rate=update.learning_rate,
                gradient_norm=update.gradient_norm,
                bad_clips=bad_clips,
                steps_left=self.loop.steps - self.step,
                meter=self._meter,
            )
            for sink in self.sinks:
                sink(line)

    def _not_finite(self, batch: Batch, own_loss: Tensor, loss: float, gradient_norm: float) -> str:
        """Message for the user, with the rows of those processes whose own loss is not finite."""
        shares = self.world.collect((batch["rows"].tolist(), math.isfinite(own_loss)))
        broken = [share for share, fine in shares if not fine] or [share for share, _ in shares]
        rows = ", ".join(str(row) for share in broken for row in share)
        epoch, state = self.step // self.batches.steps_per_epoch, self.store.path(self.step)
        return (
            f"step {self.step + 1} (epoch {epoch}): the loss is {loss} and the gradient's norm "
            f"{gradient_norm}. Rows of the clip tables in this batch: {rows}. Look at these clips, lower "
            "learning_rate, or set gradient_clip, and training starts anew; or go on with the weights before "
            f"this step: copy {state / MODEL} and name it as start_weights"
        )


@contextmanager
def _progress(title: str, steps: int, done: int, world: World) -> Iterator[Callable[[str], None]]:
    """Function to call after each step with a note; only rank 0 shows anything."""
    if not world.leads:
        yield lambda note: None
        return
    with Progress(title, steps, unit="steps", done=done) as progress:
        yield lambda note: progress.advance(note=note)
