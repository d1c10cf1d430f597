"""Peak memory of a training step; `-s` prints the figures, and `--junit-xml` has them as properties."""

import math

import pytest
import torch

from avion_core.config import StageSettings
from avion_core.models.architecture import load_architecture
from avion_core.models.dual_encoder import TEXT_TOKENS
from avion_core.models.layers import set_checkpointing
from avion_core.models.precision import autocast
from avion_core.models.sizes import measure
from avion_core.models.store import build_model
from avion_core.train import memory
from avion_core.train.accumulation import Accumulation
from avion_core.train.distributed import alone
from avion_core.train.memory import USABLE, choose_checkpointing, step_bytes
from avion_core.train.optim import make_optimizer, parameter_groups
from avion_core.train.tasks.contrastive import ContrastiveTask
from tests.unit.train.tiny_tasks import DUAL

FRAMES, STEPS = 4, 2
"""The first of the steps has no optimiser state yet."""
GPU_OF_24_GB = 23e9
"""Bytes that such a GPU has at least, by its driver."""


def model_of(device: str):
    """Architecture, image size, clips of the recipe and half precision; tiny on the CPU."""
    if device == "cpu":
        return DUAL, 16, 8, "bf16"
    half = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return load_architecture("clip_vit_b_16"), 224, 256, half


def peak_mb(device: str, *, clips: int | None = None, parts: int = 1, checkpointing: bool = False) -> float:
    """Peak memory of STEPS half-precision steps of the recipe's ViT-B/16; 0 for the tiny one on the CPU."""
    tiny = device == "cpu"
    config, side, of_the_recipe, half = model_of(device)
    clips = clips or of_the_recipe
    model = build_model("dual_encoder", config, frames=FRAMES, image_size_px=side, drop_path=0.0)
    set_checkpointing(model, checkpointing)
    task = ContrastiveTask(model.to(device))
    optimizer = make_optimizer("adamw", parameter_groups(model, weight_decay=0.01, layer_decay=1.0))
    length = min(TEXT_TOKENS, config.context_length)
    batch = {
        "frames": torch.randint(256, (clips, FRAMES, side, side, 3), dtype=torch.uint8, device=device),
        "tokens": torch.randint(1, config.text.vocabulary, (clips, length), device=device),
    }
    step = Accumulation(
        parts=parts,
        reseed=torch.manual_seed,
        autocast=lambda: autocast(torch.device(device), half),
        scale=lambda loss: loss,
    )
    if not tiny:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        step.backward(task, batch)
        optimizer.step()
    assert optimizer.state, "the peak is that of a step with the optimiser's state"
    return 0.0 if tiny else torch.cuda.max_memory_allocated() / 2**20


def test_memory_of_batch_256_of_vit_b_at_four_frames(device, record_property):
    """Checkpointed is how `configs/avion.yaml` trains it, on GPUs of 24 GB."""
    ways = {"checkpointed": {"checkpointing": True}, "in_8_micro_batches": {"parts": 8}, "plain": {}}
    found = {}
    for name, how in ways.items():
        try:
            found[name] = peak_mb(device, **how)
        except torch.OutOfMemoryError:
            print(f"ViT-B/16, 4 frames, batch 256, {name}: does not fit this GPU")
            continue
        finally:
            torch.cuda.empty_cache()
        record_property(f"peak_mb_{name}", found[name])
        print(f"ViT-B/16, 4 frames, batch 256, {name}: {found[name]:.0f} MiB")
    if device == "cpu":
        assert found.keys() == ways.keys()
        return
    if "checkpointed" not in found and memory.device_bytes(torch.device(device)) < GPU_OF_24_GB:
        pytest.skip("needs a GPU of 24 GB")
    assert found["checkpointed"] < 22_000
    assert max(found["checkpointed"], found["in_8_micro_batches"]) < found.get("plain", math.inf) / 2


def test_auto_recomputes_where_the_estimate_says_so_and_the_step_fits(device, monkeypatch, record_property):
    config, side, clips, half = model_of(device)
    size = measure("dual_encoder", config, bf16=True, frames=FRAMES, image_size_px=side)

    def stage(clips: int) -> StageSettings:
        named = {"task": "contrastive", "dataset": "any", "model": "clip_vit_b_16"}
        return StageSettings.model_validate({**named, "batch_size": clips, "precision": half})

    def chosen(clips: int) -> bool:
        return choose_checkpointing(stage(clips), lambda: size, title="auto", world=alone(device))

    if device == "cpu":
        room = step_bytes(stage(clips), size, checkpointing=False) / USABLE + 1
        monkeypatch.setattr(memory, "device_bytes", lambda device: room)
    usable = USABLE * memory.device_bytes(torch.device(device))
    weights = step_bytes(stage(2), size, checkpointing=False) - 2 * size.activation_bytes
    most = int((usable - weights) / size.activation_bytes)
    for clips, checkpointing in ((most, False), (most + 1, True)):
        assert chosen(clips) is checkpointing
        try:
            peak = peak_mb(device, clips=clips, checkpointing=checkpointing)  # out of memory fails
        finally:
            torch.cuda.empty_cache()
        estimate = step_bytes(stage(clips), size, checkpointing=checkpointing) / 2**20
        record_property(f"auto_{clips}_clips", f"{peak:.0f} MiB, estimated {estimate:.0f}")
        print(f"{clips} clips, checkpointing {checkpointing}: {peak:.0f} MiB, estimated {estimate:.0f} MiB")
