"""Every setting of a stage reaches what it is a setting of; none of these values is a default."""

import pytest
import torch

from avion_core.config import StageSettings
from avion_core.models.layers import Block
from avion_core.train import parts, stages
from avion_core.train.checkpoint import CheckpointStore
from avion_core.train.distributed import World, alone
from avion_core.train.parts import choose_kernels
from avion_core.train.tasks import classification, reconstruction, relevancy
from tests.support.recipes import CLASSIFICATION, CONTRASTIVE, MASKED
from tests.support.training import stage_files

VIEW = {
    "frames": 3,
    "sampling": "jittered_window",
    "stride": 2,
    "image_size_px": 48,
    "crop": "multi_scale",
    "crop_scale": (0.3, 0.9),
    "horizontal_flip": 0.5,
    "rand_augment": "rand-m7-n4",
    "rand_augment_interpolation": "bicubic",
    "rand_augment_whole_frame": True,
    "random_erasing": 0.25,
}
LOOP = {
    "log_every_steps": 3,
    "checkpoint_every_steps": 5,
    "checkpoint_every_minutes": 3.0,
    "accumulation_steps": 2,
    "ema_decay": 0.9,
    "gradient_clip": 2.5,
    "precision": "bf16",
    "peak_tflops": 7.0,
}
MODEL = {"drop_path": 0.25, "head_dropout": 0.35, "patch_dropout": 0.5}
TARGETS = {"mixup": 0.4, "cutmix": 0.6, "label_smoothing": 0.2}
OTHERS = {
    "optimizer": "sgd",
    "momentum": 0.7,
    "weight_decay": 0.3,
    "layer_decay": 0.5,
    "learning_rate": 0.1,
    "schedule": "cosine",
    "warmup_epochs": 1,
    "max_bad_share": 0.4,
    "clip_timeout_seconds": 9.0,
    "gradient_checkpointing": True,
    "wandb_project": "lab",
}


def build(home, out, recipe, monkeypatch, *recorded):
    """A stage's training, and what these callables, (module, name), were given."""
    given = {}

    def note(module, name):
        made = getattr(module, name)

        def call(*positional, **named):
            given[name] = named
            return made(*positional, **named)

        monkeypatch.setattr(module, name, call)

    for module, name in recorded:
        note(module, name)
    settings = StageSettings.model_validate(recipe)
    files = stage_files(home, settings)
    stage = stages._Stage(settings, files, None, title="run/stage", seed=4, out=out, world=alone())
    model = stage.fresh_model()
    choose_kernels(settings, model, stage.setup.model_arguments(), title=stage.title, world=stage.world)
    return stage.training(model, CheckpointStore(out / "checkpoints", {})), given


def part(values, names):
    return {name: values[name] for name in names}


def test_of_a_classifier(kitchen, tmp_path, monkeypatch):
    recipe = {**CLASSIFICATION, **VIEW, **LOOP, **MODEL, **TARGETS, **OTHERS}
    monkeypatch.setattr(stages, "open_sinks", lambda folder, **named: [named["wandb_project"]])
    names = ((stages, "build_model"), (parts, "BatchLoader"), (classification, "ClassificationTask"))
    training, given = build(kitchen, tmp_path, recipe, monkeypatch, *names)
    assert part(vars(training.loop), LOOP) == LOOP
    assert training.loop.seed == given["BatchLoader"]["seed"] == 4
    assert part(given["build_model"], MODEL) == MODEL
    assert part(given["ClassificationTask"], TARGETS) == TARGETS
    assert given["BatchLoader"]["max_bad_share"] == 0.4
    assert given["BatchLoader"]["clip_timeout_s"] == 9.0
    assert training.sinks == ["lab"]
    assert isinstance(training.optimizer, torch.optim.SGD)
    groups = training.optimizer.param_groups
    assert {group["momentum"] for group in groups} == {0.7}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.3}
    assert {0.5, 1.0} < {group["rate_scale"] for group in groups}
    assert part(vars(training.schedule), ("shape", "peak", "warmup_steps")) == {
        "shape": "cosine",
        "peak": 0.1,
        "warmup_steps": training.batches.steps_per_epoch,
    }
    assert all(layer.checkpointing for layer in training.task.model.modules() if isinstance(layer, Block))


def test_of_the_view():
    view = parts.view_of(StageSettings.model_validate({**CLASSIFICATION, **VIEW}), torch.device("cpu"))
    assert part(vars(view), VIEW) == VIEW
    assert view.training


@pytest.mark.parametrize(
    ("changes", "on_cpu", "on_gpu"),
    [
        ({}, False, True),
        ({"rand_augment": None}, False, True),
        ({"rand_augment": None, "random_erasing": 0.0, "augment_on": "device"}, False, False),
        ({"rand_augment_whole_frame": True}, False, False),
        ({"rand_augment": "rand-m9-t3a"}, False, False),
        ({"augment_on": "loader"}, False, False),
        ({"augment_on": "device"}, True, True),
    ],
)
def test_where_clips_are_augmented(changes, on_cpu, on_gpu):
    recipe = {**CLASSIFICATION, **VIEW, "rand_augment_whole_frame": False, **changes}
    settings = StageSettings.model_validate(recipe)
    views = [parts.view_of(settings, torch.device(name)) for name in ("cpu", "cuda")]
    assert [view.augment_on_device for view in views] == [on_cpu, on_gpu]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_memory_is_pinned_for_a_stage_on_a_gpu_only(monkeypatch, device):
    monkeypatch.setattr(parts, "BatchLoader", lambda dataset, **named: named["pin_memory"])
    settings, world = StageSettings.model_validate(CONTRASTIVE), World(0, 1, torch.device(device))
    assert parts.loader_of(settings, None, seed=0, world=world) == (device == "cuda")


def test_products_of_fp16_matrices_are_summed_in_fp32():
    matmul = torch.backends.cuda.matmul
    matmul.allow_fp16_reduced_precision_reduction = True
    parts.fix_arithmetic(1, alone())
    assert matmul.allow_fp16_reduced_precision_reduction is False


def test_of_the_other_tasks(kitchen, tmp_path, monkeypatch):
    masked = {**MASKED, "mask_ratio": 0.6, "target_epsilon": 0.5, "no_weight_decay": ["mask_token"]}
    training, given = build(kitchen, tmp_path, masked, monkeypatch, (reconstruction, "ReconstructionTask"))
    assert given["ReconstructionTask"] == {"mask_ratio": 0.6, "target_epsilon": 0.5}
    decay = {name: g["weight_decay"] for g in training.optimizer.param_groups for name in g["names"]}
    assert decay["mask_token"] == 0.0
    ranked = {**CONTRASTIVE, "task": "relevancy", "loss": "adaptive_max_margin", "margin": 0.3}
    ranked |= {"min_relevancy": 0.2, "optimizer": "lion", "betas": (0.8, 0.95)}
    names = ((relevancy, "RelevantSentence"), (relevancy, "RelevancyTask"))
    training, given = build(kitchen, tmp_path, ranked, monkeypatch, *names)
    assert given["RelevantSentence"] == {"min_relevancy": 0.2}
    assert given["RelevancyTask"]["ranking"].keywords == {"margin": 0.3}
    assert {group["betas"] for group in training.optimizer.param_groups} == {(0.8, 0.95)}
