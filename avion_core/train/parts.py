"""Build a stage's parts from its settings: kernels, data, loader, optimiser, schedule, loop, validation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from avion_core.config import StageSettings
from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import ClipTable
from avion_core.data.dataset import ChooseText, ClipDataset, Entries, View
from avion_core.data.device_augment import lacking
from avion_core.data.loader import BatchLoader
from avion_core.data.neighbours import Neighbours
from avion_core.models.base import VideoModel
from avion_core.models.layers import compile_blocks, set_attention, set_checkpointing
from avion_core.models.sizes import stage_size
from avion_core.models.store import ModelDescription
from avion_core.progress import say
from avion_core.train.distributed import World
from avion_core.train.engine import LoopSettings
from avion_core.train.memory import choose_checkpointing
from avion_core.train.meter import peak_tflops
from avion_core.train.optim import Schedule, make_optimizer, parameter_groups
from avion_core.train.validation import Validation, ValidationData


def fix_arithmetic(threads: int, world: World) -> None:
    """Set threads, deterministic algorithms on the CPU, and fp32 sums of fp16 products on GPUs."""
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    if world.device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        # filling new tensors is slow and not needed here
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def choose_kernels(
    settings: StageSettings,
    model: VideoModel,
    model_arguments: Mapping[str, Any],
    *,
    title: str,
    world: World,
) -> None:
    """Set the model's kernels, which affect its results only by rounding; every rank must call this.

    `model_arguments` are those with which the model was built, besides its architecture.
    """
    attention = set_attention(model, settings.attention)
    if world.leads and attention != settings.attention:
        say(f"{title}: attention {attention}")
    checkpointing = choose_checkpointing(
        settings, lambda: stage_size(settings, **model_arguments), title=title, world=world
    )
    set_checkpointing(model, checkpointing)
    if settings.compile:
        compile_blocks(model)


def view_of(settings: StageSettings, device: torch.device) -> View:
    """The training view of a clip for a model on `device`."""
    return View(
        frames=settings.frames,
        sampling=settings.sampling,
        stride=settings.stride,
        image_size_px=settings.image_size_px,
        crop=settings.crop,
        crop_scale=settings.crop_scale,
        horizontal_flip=settings.horizontal_flip,
        rand_augment=settings.rand_augment,
        rand_augment_interpolation=settings.rand_augment_interpolation,
        rand_augment_whole_frame=settings.rand_augment_whole_frame,
        random_erasing=settings.random_erasing,
        augment_on_device=augments_on_device(settings, device),
        training=True,
    )


def augments_on_device(settings: StageSettings, device: torch.device) -> bool:
    """Whether clips are augmented on `device` rather than by the loader: `augment_on`, if any are."""
    policy = settings.rand_augment
    if policy is None and settings.random_erasing == 0:
        return False
    if settings.augment_on != "auto":
        return settings.augment_on == "device"
    fits = policy is None or not (settings.rand_augment_whole_frame or lacking(policy))
    return device.type == "cuda" and fits


def dataset_of(
    settings: StageSettings,
    clips: ClipTable,
    chunks: Path,
    model: VideoModel,
    choose_text: ChooseText | None,
    entries: Entries | None,
) -> ClipDataset:
    """The clips in the training view, each with a text from `choose_text` and with `entries`."""
    return ClipDataset(
        clips,
        ChunkIndex.load(chunks),
        view_of(settings, next(model.parameters()).device),
        choose_text=choose_text,
        entries=entries,
        context_length=model.config.context_length,
        tokenizer=model.config.tokenizer,
    )


def loader_of(settings: StageSettings, dataset: ClipDataset, *, seed: int, world: World) -> BatchLoader:
    """This process's share of each epoch's batches."""
    cell_s = settings.cell_seconds
    return BatchLoader(
        dataset,
        batch_size=settings.batch_size // world.size,
        seed=seed,
        rank=world.rank,
        world_size=world.size,
        workers=settings.loader_workers,
        shuffle=True,
        drop_last=True,
        max_bad_share=settings.max_bad_share,
        clip_timeout_s=settings.clip_timeout_seconds,
        pin_memory=world.device.type == "cuda",
        neighbours=None if cell_s is None else Neighbours(dataset.clips, seconds=cell_s),
    )


def groups_of(settings: StageSettings, model: VideoModel) -> list[dict[str, Any]]:
    """The model's trainable weights by rate and decay. Raises ValueError for a pattern without a match."""
    return parameter_groups(
        model,
        weight_decay=settings.weight_decay,
        layer_decay=settings.layer_decay,
        no_decay=settings.no_weight_decay,
        force_decay=settings.force_weight_decay,
    )


def optimizer_of(settings: StageSettings, model: VideoModel, world: World) -> torch.optim.Optimizer:
    """The optimizer of the model's trainable weights."""
    return make_optimizer(
        settings.optimizer,
        groups_of(settings, model),
        betas=settings.betas,
        momentum=settings.momentum,
        shard=settings.shard_optimizer and world.size > 1,
    )


def schedule_of(settings: StageSettings, *, steps_per_epoch: int) -> Schedule:
    """The stage's rates, scaled by batch_size / learning_rate_batch if that is set."""
    factor = settings.batch_size / settings.learning_rate_batch if settings.learning_rate_batch else 1.0
    return Schedule(
        shape=settings.schedule,
        peak=settings.learning_rate * factor,
        steps=settings.epochs * steps_per_epoch,
        warmup_steps=int(settings.warmup_epochs * steps_per_epoch),
        start=settings.warmup_start_rate * factor,
        final=settings.final_rate * factor,
    )


def loop_settings(
    settings: StageSettings, steps_per_epoch: int, *, seed: int, device: torch.device
) -> LoopSettings:
    """Length of the training, intervals of logs and checkpoints, and arithmetic."""
    return LoopSettings(
        steps=settings.epochs * steps_per_epoch,
        seed=seed,
        batch_size=settings.batch_size,
        clips_per_row=settings.clips_per_row,
        log_every_steps=settings.log_every_steps,
        checkpoint_every_steps=settings.checkpoint_every_steps,
        checkpoint_every_minutes=settings.checkpoint_every_minutes,
        accumulation_steps=settings.accumulation_steps,
        ema_decay=settings.ema_decay,
        gradient_clip=settings.gradient_clip,
        precision=settings.precision,
        peak_tflops=settings.peak_tflops or peak_tflops(device, settings.precision),
    )


def validation_of(
    settings: StageSettings,
    data: ValidationData | None,
    model: VideoModel,
    description: ModelDescription,
    *,
    title: str,
    device: torch.device,
    steps_per_epoch: int,
) -> Validation | None:
    """The stage's validation, on its schedule; None without `data`."""
    if data is None:
        return None
    return Validation(
        measure=lambda: data.measure(
            model,
            description,
            title=title,
            device=device,
            clip_timeout_seconds=settings.clip_timeout_seconds,
            max_bad_share=settings.max_bad_share,
        ),
        every_steps=settings.validate_every_epochs * steps_per_epoch,
        best_metric=settings.best_metric,
    )
