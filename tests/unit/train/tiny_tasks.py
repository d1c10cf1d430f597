"""Every task over small models and generated clips: what accumulation and kills are tested with.

Weights are drawn from a fixed seed, and the batches depend on the step alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from avion_core.models.architecture import (
    DualEncoderConfig,
    LanguageModelConfig,
    NarratorConfig,
    VideoMAEConfig,
)
from avion_core.models.classifier import VideoClassifier
from avion_core.models.dual_encoder import DualEncoder
from avion_core.models.narrator import Narrator
from avion_core.models.towers import TextConfig, VisionConfig
from avion_core.models.videomae import VideoMAE
from avion_core.train.checkpoint import CheckpointStore
from avion_core.train.distributed import World, alone
from avion_core.train.engine import LoopSettings, Training
from avion_core.train.losses import symmetric_multi_similarity
from avion_core.train.optim import Schedule, make_optimizer, parameter_groups
from avion_core.train.protocols import Task
from avion_core.train.tasks.captioning import CaptioningTask
from avion_core.train.tasks.classification import ClassificationTask
from avion_core.train.tasks.contrastive import ContrastiveTask
from avion_core.train.tasks.reconstruction import ReconstructionTask
from avion_core.train.tasks.relevancy import RelevancyTask
from tests.support.gates import open_gates

SIZE_PX, FRAMES, CLIPS, CLASSES, WORDS = 16, 2, 8, 3, 20
STEPS_PER_EPOCH, STEPS = 4, 8

VISION = VisionConfig(width=16, layers=2, heads=2, patch_px=8)
TEXT = TextConfig(width=16, layers=1, heads=2, context_length=8, vocabulary=WORDS)
DUAL = DualEncoderConfig(vision=VISION, text=TEXT, embed_dim=8)
MASKED = VideoMAEConfig(width=16, layers=1, heads=2, patch_px=8, decoder_width=8, decoder_heads=2)
WRITER = LanguageModelConfig(
    width=16, layers=2, heads=2, vocabulary=WORDS, begin_token=1, end_token=2, context_length=8, positions=8
)
NARRATOR = NarratorConfig(vision=VISION, language_model=WRITER, queries=3, pool_heads=2, pool_head_width=8)
LABELS = torch.arange(CLIPS) % CLASSES
RELEVANCY = torch.rand(CLIPS, CLIPS, generator=torch.Generator().manual_seed(5)).fill_diagonal_(1)
"""Of every clip to every sentence; a clip's own sentence has its number."""


def _dual(drop_path: float, *, learn_temperature: bool) -> DualEncoder:
    return DualEncoder(
        DUAL,
        frames=FRAMES,
        image_size_px=SIZE_PX,
        drop_path=drop_path,
        learn_temperature=learn_temperature,
    )


def contrastive(world: World, drop_path: float) -> Task:
    return ContrastiveTask(_dual(drop_path, learn_temperature=True), gather=world.gather)


def relevancy(world: World, drop_path: float) -> Task:
    known = RELEVANCY.to(world.device)
    return RelevancyTask(
        _dual(drop_path, learn_temperature=False),
        ranking=partial(symmetric_multi_similarity, margin=0.6, relaxation=0.1),
        relevancy=lambda rows, text_ids: known.to(rows.device)[rows][:, text_ids],
        gather=world.gather,
    )


def classification(world: World, drop_path: float) -> Task:
    model = VideoClassifier(
        DUAL,
        frames=FRAMES,
        image_size_px=SIZE_PX,
        classes=CLASSES,
        drop_path=drop_path,
        head_dropout=drop_path,
    )
    return ClassificationTask(
        model, labels=LABELS.to(world.device), classes=CLASSES, mixup=0.8, cutmix=1.0, label_smoothing=0.1
    )


def reconstruction(world: World, drop_path: float) -> Task:
    model = VideoMAE(MASKED, frames=FRAMES, image_size_px=SIZE_PX, drop_path=drop_path)
    return ReconstructionTask(model, mask_ratio=0.5)


def captioning(world: World, drop_path: float) -> Task:
    """With open gates, and dropout in place of drop path."""
    model = Narrator(NARRATOR, frames=FRAMES, image_size_px=SIZE_PX, dropout=drop_path)
    return CaptioningTask(open_gates(model), gather=world.gather)


TASKS: dict[str, Callable[[World, float], Task]] = {
    "contrastive": contrastive,
    "relevancy": relevancy,
    "classification": classification,
    "reconstruction": reconstruction,
    "captioning": captioning,
}


def make_task(name: str, *, world: World | None = None, drop_path: float = 0.0) -> Task:
    torch.manual_seed(0)
    world = world or alone()
    task = TASKS[name](world, drop_path)
    task.model.to(world.device)
    return task


def make_batch(step: int, *, world: World | None = None) -> dict[str, torch.Tensor]:
    """This process's share of the step's clips."""
    world = world or alone()
    generator = torch.Generator().manual_seed(1000 + step)
    frames = torch.randint(256, (CLIPS, FRAMES, SIZE_PX, SIZE_PX, 3), dtype=torch.uint8, generator=generator)
    tokens = torch.randint(1, WORDS, (CLIPS, 8), generator=generator)
    tokens[torch.arange(8) >= 8 - torch.arange(CLIPS)[:, None] % 5] = 0  # texts of 4 to 8 tokens
    share = CLIPS // world.size
    mine = slice(world.rank * share, (world.rank + 1) * share)
    rows = torch.arange(CLIPS)[mine]
    return {"frames": frames[mine], "tokens": tokens[mine], "rows": rows, "text_ids": rows}


class Batches:
    steps_per_epoch = STEPS_PER_EPOCH

    def __init__(self, world: World) -> None:
        self.world, self.bad = world, []

    def epoch(self, epoch: int, *, first_step: int = 0):
        for step in range(first_step, STEPS_PER_EPOCH):
            yield make_batch(epoch * STEPS_PER_EPOCH + step, world=self.world)


def make_training(
    folder: Path,
    name: str,
    *,
    world: World | None = None,
    drop_path: float = 0.0,
    optimizer: str = "adamw",
    shard: bool = False,
    **loop: Any,
) -> Training:
    torch.set_num_threads(1)
    world = world or alone()
    task = make_task(name, world=world, drop_path=drop_path)
    settings = {
        "steps": STEPS,
        "seed": 7,
        "batch_size": CLIPS,
        "log_every_steps": 1,
        "checkpoint_every_steps": 3,
    }
    return Training(
        task,
        Batches(world),
        make_optimizer(
            optimizer, parameter_groups(task.model, weight_decay=0.01, layer_decay=1.0), shard=shard
        ),
        schedule=Schedule("cosine", peak=0.01, steps=STEPS, warmup_steps=2),
        loop=LoopSettings(**{**settings, **loop}),
        world=world,
        store=CheckpointStore(folder / "checkpoints", {"task": name}),
    )
