"""What the log says of utilisation: the operations of a clip, and the peak they are held against."""

from contextlib import nullcontext

import pytest
import torch

from avion_core.config import StageSettings
from avion_core.models.architecture import model_kind
from avion_core.models.layers import Attention
from avion_core.models.sizes import measure, stage_size, training_flops
from avion_core.models.store import build_model
from avion_core.train.meter import Meter, flops_per_clip, peak_tflops
from avion_core.train.tasks.captioning import CaptioningTask
from avion_core.train.tasks.classification import ClassificationTask
from avion_core.train.tasks.contrastive import ContrastiveTask
from avion_core.train.tasks.reconstruction import ReconstructionTask
from tests.support.recipes import CAPTIONING, CLASSIFICATION, CONTRASTIVE, MASKED
from tests.unit.train.tiny_tasks import CLASSES, DUAL, FRAMES, SIZE_PX, TASKS, make_batch, make_task


def test_a_clips_operations_are_three_forward_passes_attention_included():
    task = make_task("classification")
    size = measure("video_classifier", DUAL, frames=FRAMES, image_size_px=SIZE_PX, classes=CLASSES)
    assert flops_per_clip(task, make_batch(0), nullcontext) == 3 * 2 * size.multiply_adds


@pytest.mark.parametrize("name", TASKS)
def test_the_size_of_the_batch_makes_no_difference(name):
    batch = make_batch(0)
    two = {key: value[:2] for key, value in batch.items()}
    task = make_task(name)
    assert flops_per_clip(task, batch, nullcontext) == flops_per_clip(task, two, nullcontext) > 0


@pytest.mark.parametrize(
    ("recipe", "further", "task_of"),
    [
        (CONTRASTIVE, {}, ContrastiveTask),
        (
            CLASSIFICATION,
            {"classes": CLASSES},
            lambda model: ClassificationTask(model, labels=torch.zeros(2, dtype=torch.long), classes=CLASSES),
        ),
        (
            {**MASKED, "mask_ratio": 0.75},
            {},
            lambda model: ReconstructionTask(model, mask_ratio=0.75),
        ),
        (
            {**MASKED, "frames": 8, "mask_ratio": 0.75, "decoder_mask_ratio": 0.5},
            {},
            lambda model: ReconstructionTask(model, mask_ratio=0.75),
        ),
        (CAPTIONING, {}, CaptioningTask),
    ],
    ids=["contrastive", "classification", "reconstruction", "running cells", "captioning"],
)
def test_they_are_known_from_the_settings_of_the_stage(recipe, further, task_of):
    stage = StageSettings.model_validate(recipe)
    model = build_model(model_kind(stage), stage.model, **stage.model_arguments(), **further)
    side, length = stage.image_size_px, 12
    batch = {
        "frames": torch.zeros(2, stage.frames, side, side, 3, dtype=torch.uint8),
        "tokens": torch.arange(1, length + 1).repeat(2, 1),
        "rows": torch.arange(2),
    }
    counted = flops_per_clip(task_of(model), batch, nullcontext)
    once_a_batch = 2e-3 if stage.task == "captioning" else 0  # the projection of its queries
    assert training_flops(stage, **further) == pytest.approx(counted, rel=1e-4 + once_a_batch)
    forward, backward = size_of_parts(model, stage, **further)
    assert training_flops(stage, **further) == 2 * forward + 4 * backward


def size_of_parts(model, stage, **further) -> tuple[int, int]:
    """Multiply-adds of the forward pass, and of the part of it that has gradients."""
    whole = stage_size(stage, **further).multiply_adds
    if stage.task != "captioning":
        return whole, whole
    patches, width = stage.frames * (stage.image_size_px // 16) ** 2, 192
    tokens, patch = patches + 1, 3 * 16**2
    block = 12 * tokens * width**2 + 2 * tokens**2 * width
    return whole, whole - patches * patch * width - 4 * block


def test_a_process_with_one_clip_counts_that():
    task, batch = make_task("contrastive"), make_batch(0)
    one = {key: value[:1] for key, value in batch.items()}
    twice = {key: torch.cat([value, value]) for key, value in one.items()}  # texts are cut to the longest
    assert flops_per_clip(task, one, nullcontext) == flops_per_clip(task, twice, nullcontext) > 0


def test_another_attention_is_counted_as_torchs_own_and_stays_chosen():
    """torch knows no formula for flash-attn's kernels and would count nothing."""

    def flash(q, k, v, causal):
        return v

    task, batch = make_task("classification"), make_batch(0)
    plain = flops_per_clip(task, batch, nullcontext)
    layers = [layer for layer in task.model.modules() if isinstance(layer, Attention)]
    for layer in layers:
        layer.attend = flash
    assert flops_per_clip(task, batch, nullcontext) == plain
    assert {layer.attend for layer in layers} == {flash}


def test_the_clips_of_all_processes_are_held_against_the_peak_of_all():
    task, batch = make_task("classification"), make_batch(0)
    clips_per_s = 0.25e12 / flops_per_clip(task, batch, nullcontext)

    def utilisation(processes):
        meter = Meter(device=torch.device("cpu"), processes=processes, peak_tflops=0.5)
        meter.see(task, batch, nullcontext)
        return meter.readings(clips_per_s=clips_per_s, seconds_left=0.0)["model_flops_utilisation"]

    assert (utilisation(1), utilisation(2)) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.0),
        ("NVIDIA H100 PCIe", "fp16", 756.0),
        ("NVIDIA H100 NVL", "bf16", 835.5),
        ("NVIDIA H200", "bf16", 989.0),
        ("NVIDIA H200 NVL", "bf16", 835.5),
        ("NVIDIA A100-SXM4-80GB", "fp16", 312.0),
        ("NVIDIA L40S", "bf16", 362.0),
        ("NVIDIA RTX A5000", "fp16", 111.1),
        ("NVIDIA RTX A5000", "fp32", None),
        ("NVIDIA RTX A1000", "bf16", None),
        ("Some other device", "bf16", None),
    ],
)
def test_the_peak_is_looked_up_by_the_devices_name(monkeypatch, name, precision, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_tflops(torch.device("cuda"), precision) == peak


def test_a_processor_has_no_known_peak():
    assert peak_tflops(torch.device("cpu"), "bf16") is None
