"""What only a GPU can show: `pytest tests/gpu` on a machine that has one; skipped where there is none.

The memory figure is printed (`-s` shows it) and stands in `--junit-xml` as a property.
"""

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from avion_core.models.dual_encoder import DualEncoder
from avion_core.models.layers import ATTENTION_BACKENDS, set_checkpointing
from avion_core.models.store import build_model
from avion_core.train.accumulation import Accumulation
from avion_core.train.averaging import averaged
from avion_core.train.checkpoint import CheckpointStore
from avion_core.train.distributed import World, alone, join_world
from avion_core.train.engine import PRECISIONS, LoopSettings, Training
from avion_core.train.optim import Schedule, make_optimizer, parameter_groups
from avion_core.train.tasks.contrastive import ContrastiveTask
from tests.unit.train.tiny_tasks import CLIPS, DUAL, FRAMES, SIZE_PX, STEPS, Batches, make_batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")

DEVICE = "cuda"
LEARNING_STEPS = 40


@pytest.fixture(autouse=True)
def _exact_products():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def heads(dtype: torch.dtype, tokens: int = 197) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(3, 2, tokens, 12, 64, generator=generator)
    return [part.to(DEVICE, dtype).requires_grad_() for part in drawn]


def attended(backend: str, dtype: torch.dtype, causal: bool) -> list[torch.Tensor]:
    """The output and the gradients of queries, keys and values, in 32-bit floats."""
    q, k, v = heads(dtype)
    out = ATTENTION_BACKENDS[backend](q, k, v, causal)
    out.float().square().sum().backward()
    return [part.float() for part in (out.detach(), q.grad, k.grad, v.grad)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_flash_attention_is_attention(dtype, causal):
    if importlib.util.find_spec("flash_attn") is None or torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("needs the package flash-attn and a GPU of compute capability 8.0")
    tolerance = 4e-3 if dtype == torch.float16 else 3e-2
    for flash, plain in zip(attended("flash", dtype, causal), attended("sdpa", dtype, causal), strict=True):
        torch.testing.assert_close(flash, plain, rtol=tolerance, atol=tolerance * plain.abs().max().item())


@pytest.mark.parametrize("causal", [False, True])
def test_the_fused_kernels_of_torch_are_plain_attention(causal):
    fused = attended("sdpa", torch.float32, causal)
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        plain = attended("sdpa", torch.float32, causal)
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


def small_training(folder: Path, precision: str, *, steps: int = LEARNING_STEPS) -> Training:
    torch.manual_seed(0)
    world = alone(DEVICE)
    model = DualEncoder(DUAL, frames=FRAMES, image_size_px=SIZE_PX).to(world.device)
    return Training(
        ContrastiveTask(model),
        Batches(alone()),
        make_optimizer("adamw", parameter_groups(model, weight_decay=0.01, layer_decay=1.0)),
        schedule=Schedule("constant", peak=3e-3, steps=steps),
        loop=LoopSettings(
            steps,
            seed=0,
            batch_size=CLIPS,
            log_every_steps=10,
            checkpoint_every_steps=STEPS,
            precision=precision,
        ),
        world=world,
        store=CheckpointStore(folder, {"precision": precision}),
    )


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_has_the_loss_and_gradient_norm_of_fp32(precision, tmp_path):
    found = {}
    for kind in (precision, "fp32"):
        training = small_training(tmp_path / kind, kind)
        update = training.update(make_batch(0))
        while update.skipped:  # fp16 until its scale fits; the weights have not moved
            update = training.update(make_batch(0))
        found[kind] = update
        assert {weight.dtype for weight in training.task.model.parameters()} == {torch.float32}
    assert found[precision].values["loss"] == pytest.approx(found["fp32"].values["loss"], rel=0.01)
    assert found[precision].gradient_norm == pytest.approx(found["fp32"].gradient_norm, rel=0.05)


def test_fp16_resumes_with_its_scale(tmp_path):
    training = small_training(tmp_path, "fp16")
    training.run("fp16")
    again = small_training(tmp_path, "fp16")
    again.resume()
    assert again.step == LEARNING_STEPS
    assert again.scaler.state_dict() == training.scaler.state_dict()


def world_gradient(world: World) -> dict[str, torch.Tensor]:
    """The averaged gradient of one contrastive step over all clips, in two micro-batches a process."""
    torch.manual_seed(0)
    task = ContrastiveTask(
        DualEncoder(DUAL, frames=FRAMES, image_size_px=SIZE_PX).to(world.device), gather=world.gather
    )
    share = CLIPS // world.size
    batch = {name: value.to(world.device) for name, value in make_batch(0, world=world).items()}
    result = Accumulation(
        parts=2 if share % 2 == 0 else 1,
        reseed=torch.manual_seed,
        autocast=lambda: torch.autocast(world.device.type, enabled=False),
        scale=lambda loss: loss,
        averaging=lambda: averaged(task.model.parameters(), world),
    ).backward(task, batch)
    weights = task.model.parameters()
    gradient = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])
    return {"loss": result.loss.cpu(), "gradient": gradient.cpu()}


def test_nccl_over_all_gpus_has_the_gradient_of_one(tmp_path):
    gpus = next(count for count in (8, 4, 2, 1) if count <= torch.cuda.device_count())
    if gpus == 1:
        pytest.skip("needs two GPUs")
    repository = Path(__file__).parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}"]
    subprocess.run(
        [*command, __file__, str(tmp_path), str(gpus)],
        env={**os.environ, "PYTHONPATH": str(repository)},
        check=True,
        timeout=300,
    )
    many, one = load_file(tmp_path / "world.safetensors"), world_gradient(alone(DEVICE))
    torch.testing.assert_close(many["loss"], one["loss"], rtol=1e-4, atol=0)
    largest = one["gradient"].abs().max().item()
    torch.testing.assert_close(many["gradient"], one["gradient"], rtol=1e-4, atol=1e-4 * largest)


def peak_mb(batch_size: int, *, parts: int = 1, checkpointing: bool = False) -> float:
    """Peak memory of one bf16 or fp16 step of CLIP ViT-B/16 with 4 frames, AdamW's state included."""
    model = build_model("dual_encoder", "clip_vit_b_16", frames=4, image_size_px=224, drop_path=0.0)
    set_checkpointing(model, checkpointing)
    task = ContrastiveTask(model.to(DEVICE))
    optimizer = make_optimizer("adamw", parameter_groups(model, weight_decay=0.01, layer_decay=1.0))
    half = PRECISIONS["bf16" if torch.cuda.is_bf16_supported() else "fp16"]
    batch = {
        "frames": torch.randint(256, (batch_size, 4, 224, 224, 3), dtype=torch.uint8, device=DEVICE),
        "tokens": torch.randint(1, 49408, (batch_size, 77), device=DEVICE),
    }
    torch.cuda.reset_peak_memory_stats()
    Accumulation(
        parts=parts,
        reseed=torch.manual_seed,
        autocast=lambda: torch.autocast(DEVICE, dtype=half),
        scale=lambda loss: loss,
    ).backward(task, batch)
    optimizer.step()
    return torch.cuda.max_memory_allocated() / 2**20


def test_memory_of_batch_256_of_vit_b_at_four_frames(record_property):
    """Checkpointed is how `configs/avion.yaml` trains it, on GPUs of 24 GB."""
    ways = {
        "checkpointed": {"checkpointing": True},
        "in_8_micro_batches": {"parts": 8},
        "plain": {},
    }
    found = {}
    for name, how in ways.items():
        torch.cuda.empty_cache()
        try:
            found[name] = peak_mb(256, **how)
        except torch.OutOfMemoryError:
            print(f"ViT-B/16, 4 frames, batch 256, {name}: does not fit this GPU")
            continue
        record_property(f"peak_mb_{name}", found[name])
        print(f"ViT-B/16, 4 frames, batch 256, {name}: {found[name]:.0f} MiB")
    assert found["checkpointed"] < 22_000
    assert max(found["checkpointed"], found["in_8_micro_batches"]) < found.get("plain", math.inf) / 2


def main() -> None:
    folder, gpus = Path(sys.argv[1]), int(sys.argv[2])
    with join_world(processes=gpus, gpus=gpus) as world:
        found = world_gradient(world)
        if world.leads:
            save_file(found, folder / "world.safetensors")


if __name__ == "__main__":
    main()
