"""What does training cost on this GPU? Clips a second, peak memory and utilisation, in under ten minutes.

`python -m benchmarks.gpu` needs a GPU and the packages torch, timm, av, numpy, pyarrow, pydantic, pyyaml,
safetensors, tqdm, pandas and psutil. A row whose kernel or package is missing is skipped with the reason, as
are the rows that would start after START_UNTIL_S. Every row trains through `Training.run` on batches in host
memory, on texts of TOKENS tokens, with the recipe's clips per GPU, halved until they fit. Exceptions:
rows with a loader read their batches from chunks that PyAV encodes here, the two rows `plain_…` are bare
steps, and `augmentation` is that of a batch alone.

Peak memory is that of the whole row, so of many steps. Utilisation is three times the forward pass's
operations over the peak of the data sheet (`train.meter`); recomputation does not count.

`--device cpu --tiny` runs every row at a tiny size, to show that it works; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, redirect_stderr
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from avion_core.data.dataset import ClipDataset
from avion_core.data.loader import BatchLoader
from avion_core.models.architecture import Architecture, load_architecture
from avion_core.models.base import VideoModel
from avion_core.models.layers import compile_blocks, set_attention, set_checkpointing
from avion_core.models.precision import autocast
from avion_core.models.store import build_model
from avion_core.train.checkpoint import CheckpointStore
from avion_core.train.distributed import alone
from avion_core.train.engine import LoopSettings, Training
from avion_core.train.memory import DeviceMemoryError
from avion_core.train.meter import flops_per_clip, peak_tflops
from avion_core.train.optim import Schedule, make_optimizer, parameter_groups
from avion_core.train.preemption import PreemptedError
from avion_core.train.protocols import Batch, BatchSource, Task
from avion_core.train.tasks.contrastive import ContrastiveTask
from avion_core.train.tasks.reconstruction import ReconstructionTask
from avion_core.train.texts import AnyText
from benchmarks import augmentation, footage_av, write_result
from benchmarks.gpu_rows import RATIOS, ROWS, TINY, Row
from benchmarks.plain_step import TOKENS, OpenClipVideo, Step, our_model

START_UNTIL_S = 480.0
"""Seconds after which no row is started."""
WARM_STEPS, WINDOWS, TINY_WARM_STEPS = 4, 3, 1
"""Steps before the measurement, and how many times as many are measured."""
TASKS: dict[str, Callable[[Any], Task]] = {
    "dual_encoder": ContrastiveTask,
    "videomae": lambda model: ReconstructionTask(model, mask_ratio=0.9),
}
"""Task by kind of model."""
MOST_WORKERS = 16
"""More would feed the measured steps from what they read ahead, or take minutes to use that up."""
NO_KERNEL = ("No available kernel", "No viable backend")
"""How torch says that the one kernel allowed to SDPA cannot run."""
SIDE_PX, TINY_PX, TINY_CLIPS = 224, 64, 2


class UnavailableError(Exception):
    """A row that this machine cannot run."""


class Premade:
    """The same batch, again and again, as a source of batches."""

    def __init__(self, batch: Batch, steps: int) -> None:
        self.bad: list[Any] = []
        self.steps_per_epoch, self._batch = steps, batch

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        """The batch, once for each step."""
        return (self._batch for _ in range(first_step, self.steps_per_epoch))


class Unsaved(Training):
    """A training without checkpoints."""

    def save(self) -> None:
        """Does nothing."""


class Clock:
    """A sink that notes when each line of the log was written, with all work on the device done."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: list[float] = []
        self.lines: list[Mapping[str, Any]] = []

    def __call__(self, line: Mapping[str, Any]) -> None:
        finish(self._device)
        self.seconds.append(time.perf_counter())
        self.lines.append(line)


@dataclass(frozen=True)
class Bench:
    """Where and at which size the rows run."""

    device: torch.device
    tiny: bool
    folder: Path
    """For chunks and logs."""

    def measure(self, row: Row) -> dict[str, Any]:
        """A row's figures, with the recipe's clips or the largest half, quarter … that fits.

        Raises UnavailableError or ImportError if this machine cannot run it.
        """
        clips = wanted = TINY_CLIPS if self.tiny else row.clips
        while True:
            release(self.device)
            try:
                found = self._plain(row, clips) if row.plain else self._trained(row, clips)
                entry = {"clips": clips, "wanted_clips": wanted, **found, "peak_mb": peak_mb(self.device)}
                return {**entry, "row": asdict(row)}
            except (DeviceMemoryError, torch.OutOfMemoryError):
                if clips == 1:
                    raise
            clips //= 2

    def _plain(self, row: Row, clips: int) -> dict[str, Any]:
        """A bare step of our model or of open_clip's blocks with the same weights, or the augmentation."""
        step: Callable[[], None]
        if row.plain == "augmentation":
            step = augmentation.Augmentation(
                clips=clips, frames=row.frames, side_px=self._side_px, device=self.device
            )
        else:
            ours = our_model(self._architecture(row), frames=row.frames, image_size_px=self._side_px)
            model = OpenClipVideo(ours) if row.plain == "open_clip" else ours
            bf16 = row.precision == "bf16"
            step = Step(model, ours, clips=clips, bf16=bf16, device=self.device.type)
        for _ in range(self._warm):
            step()
        finish(self.device)
        start = time.perf_counter()
        for _ in range(self._warm * WINDOWS):
            step()
        finish(self.device)
        return {"clips_per_s": clips * self._warm * WINDOWS / (time.perf_counter() - start)}

    def _trained(self, row: Row, clips: int) -> dict[str, Any]:
        """A training through the engine."""
        torch.manual_seed(0)
        model = self._model(row)
        task = TASKS[model.config.kind](model)
        # a loader must have used up what its workers read ahead before the steps are measured
        workers = loader_workers(self.tiny) if row.loader else 0
        warm, windows = (2 * workers + self._warm, 1) if row.loader else (self._warm, WINDOWS)
        steps = warm * (1 + windows)
        batch = self._batch(model, clips)
        batches = self._loader(row, clips, steps, workers) if row.loader else Premade(batch, steps)
        flops = self._flops_per_clip(row, task, batch)
        choose_kernels(row, model)
        clock = Clock(self.device)
        with ExitStack() as stack:
            if row.sdpa is not None:
                stack.enter_context(sdpa_kernel(getattr(SDPBackend, row.sdpa)))
            stack.enter_context(redirect_stderr(io.StringIO()))
            self._train(row, task, batches, clips=clips, steps=steps, log_every=warm, clock=clock)
        seconds = clock.seconds[-1] - clock.seconds[0]
        clips_per_s = clips * warm * windows / seconds
        peak = peak_tflops(self.device, row.precision)
        return {
            "clips_per_s": clips_per_s,
            "tflops": flops * clips_per_s / 1e12,
            "utilisation": flops * clips_per_s / 1e12 / peak if peak else None,
            "wait_share": sum(line["data_wait_share"] for line in clock.lines[1:]) / windows,
        }

    def _train(
        self,
        row: Row,
        task: Task,
        batches: BatchSource,
        *,
        clips: int,
        steps: int,
        log_every: int,
        clock: Clock,
    ) -> None:
        groups = parameter_groups(task.model, weight_decay=0.01, layer_decay=1.0)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            Unsaved(
                task,
                batches,
                make_optimizer("adamw", groups),
                schedule=Schedule("constant", peak=1e-6, steps=steps),
                loop=LoopSettings(
                    steps,
                    seed=0,
                    batch_size=clips,
                    log_every_steps=log_every,
                    checkpoint_every_steps=steps,
                    precision=row.precision,
                ),
                world=alone(self.device.type),
                store=CheckpointStore(Path(folder), {}),
                sinks=[clock],
            ).run("gpu")

    def _model(self, row: Row) -> VideoModel:
        config = self._architecture(row)
        model = build_model(config.kind, config, frames=row.frames, image_size_px=self._side_px)
        return model.to(self.device)

    def _flops_per_clip(self, row: Row, task: Task, batch: Batch) -> float:
        few = {name: value[:2].to(self.device) for name, value in batch.items()}
        return flops_per_clip(task, few, lambda: autocast(self.device, row.precision))

    def _batch(self, model: VideoModel, clips: int) -> Batch:
        """Random frames and texts of TOKENS tokens in host memory."""
        random = torch.Generator().manual_seed(0)
        side = model.image_size_px
        shape = (clips, model.frames, 3, side, side)
        planes = torch.randint(256, shape, dtype=torch.uint8, generator=random)
        batch = {"frames": planes.movedim(2, -1), "rows": torch.arange(clips)}  # as the loader stores them
        if length := model.config.context_length:
            texts = [f"clip {number}" for number in range(clips)]
            tokens = footage_av.stand_in_tokens(texts, length)[:, :TOKENS]
            batch |= {"tokens": tokens.contiguous(), "text_ids": torch.arange(clips)}
        if self.device.type == "cuda":  # as the loader's
            return {name: value.pin_memory() for name, value in batch.items()}
        return batch

    def _loader(self, row: Row, clips: int, steps: int, workers: int) -> BatchLoader:
        chunks = self.folder / "chunks"
        tiny = {"videos": 1, "seconds": 2, "width": 64, "height": 48}
        index = footage_av.chunks(chunks, **(tiny if self.tiny else {"videos": 2, "seconds": 30}))
        table = footage_av.clips(index, clips * steps)
        view = augmentation.VIEW if row.augment_on else footage_av.RECIPE_VIEW
        view = replace(view, frames=row.frames, image_size_px=self._side_px)
        dataset = ClipDataset(
            table,
            index,
            replace(view, augment_on_device=row.augment_on == "device"),
            choose_text=AnyText(table),
            context_length=self._architecture(row).context_length,
            tokenizer=footage_av.TOKENIZER,
        )
        return BatchLoader(
            dataset,
            batch_size=clips,
            seed=0,
            workers=workers,
            shuffle=True,
            drop_last=True,
            clip_timeout_s=60.0,
            pin_memory=self.device.type == "cuda",
        )

    def _architecture(self, row: Row) -> Architecture:
        config = load_architecture(row.architecture)
        return TINY[config.kind] if self.tiny else config

    @property
    def _warm(self) -> int:
        return TINY_WARM_STEPS if self.tiny else WARM_STEPS

    @property
    def _side_px(self) -> int:
        return TINY_PX if self.tiny else SIDE_PX


def loader_workers(tiny: bool) -> int:
    """One for each core of this process, MOST_WORKERS at most."""
    return 1 if tiny else min(MOST_WORKERS, len(os.sched_getaffinity(0)))


def choose_kernels(row: Row, model: VideoModel) -> None:
    """Set attention, checkpointing and compilation. Raises UnavailableError if this machine lacks one."""
    try:
        set_attention(model, row.attention)
        if row.compile:
            compile_blocks(model, mode="reduce-overhead" if row.graphs else None)
    except ValueError as error:
        raise UnavailableError(str(error)) from None
    set_checkpointing(model, row.checkpointing)
    on_gpu = next(model.parameters()).is_cuda
    if row.precision == "bf16" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UnavailableError("this GPU has no bf16")


def finish(device: torch.device) -> None:
    """Wait for all work on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mb(device: torch.device) -> int | None:
    """Most memory allocated since the last `release`; None on the CPU."""
    return torch.cuda.max_memory_allocated(device) // 2**20 if device.type == "cuda" else None


def release(device: torch.device) -> None:
    """Drop what an earlier row left: compiled code, and memory on the device."""
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def run(bench: Bench, rows: Mapping[str, Row]) -> dict[str, dict[str, Any]]:
    """Every row's figures, or why it was `skipped` or `failed`; prints a line for each."""
    found: dict[str, dict[str, Any]] = {}
    start = time.monotonic()
    print(
        f"{'':30}{'clips':>6}{'clips/s':>9}{'peak MB':>9}{'TFLOP/s':>9}{'MFU':>7}{'waiting':>9}", flush=True
    )
    for name, row in rows.items():
        try:
            if time.monotonic() - start > START_UNTIL_S:
                raise UnavailableError(f"{START_UNTIL_S:.0f} seconds are over")
            found[name] = bench.measure(row)
        except (ImportError, UnavailableError) as reason:
            found[name] = {"skipped": str(reason)}
        except PreemptedError:  # asked to stop, as by `timeout`
            raise
        except Exception as error:  # the other rows' figures are not lost with this one
            kind = "skipped" if row.sdpa and any(text in str(error) for text in NO_KERNEL) else "failed"
            found[name] = {kind: f"{type(error).__name__}: {str(error).splitlines()[0]}"}
        print(line(name, found[name]), flush=True)
    return found


def line(name: str, entry: Mapping[str, Any]) -> str:
    """A row of the table."""
    for reason in ("skipped", "failed"):
        if reason in entry:
            return f"{name:30}{reason}: {entry[reason]}"
    columns = [f"{name:30}{entry['clips']:6}{entry['clips_per_s']:9.1f}"]
    for key, width, digits in (
        ("peak_mb", 9, 0),
        ("tflops", 9, 1),
        ("utilisation", 7, 2),
        ("wait_share", 9, 3),
    ):
        value = entry.get(key)
        columns.append(" " * (width - 1) + "–" if value is None else f"{value:{width}.{digits}f}")
    if entry["clips"] < entry["wanted_clips"]:
        columns.append(f"   {entry['wanted_clips']} clips do not fit")
    return "".join(columns)


def description(device: torch.device) -> dict[str, Any]:
    """The device and what drives it."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_mb": properties.total_memory // 2**20,
        "capability": f"{properties.major}.{properties.minor}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def main(arguments: list[str] | None = None) -> None:
    """Exits with 1 if a row failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models, a few clips; writes no result")
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="only these rows; writes no result")
    options = parser.parse_args(arguments)
    if options.device == "cpu" and not options.tiny:
        parser.error("on the CPU only with --tiny")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; `--device cpu --tiny` runs every row at a tiny size")
    if options.tiny:
        torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False  # as in training
    device = torch.device(options.device)
    rows = {name: ROWS[name] for name in options.rows or ROWS}
    with tempfile.TemporaryDirectory(prefix="avion-gpu-") as folder:
        found = run(Bench(device, options.tiny, Path(folder)), rows)
    if device.type == "cuda" and not options.tiny and not options.rows:
        rates = {name: entry["clips_per_s"] for name, entry in found.items() if "clips_per_s" in entry}
        ratios = {
            name: rates[one] / rates[other]
            for name, (one, other) in RATIOS.items()
            if one in rates and other in rates
        }
        write_result("gpu", figures={"device": description(device), "rows": found}, ratios=ratios)
    sys.exit(any("failed" in entry for entry in found.values()))


if __name__ == "__main__":
    main()
