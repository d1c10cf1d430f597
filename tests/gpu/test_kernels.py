"""Kernels on the device: attention, and compiled blocks with checkpointing and drop path."""

import pytest
import torch
from torch import nn

from avion_core.models.layers import (
    ATTENTION_BACKENDS,
    Attention,
    compile_blocks,
    set_attention,
    set_checkpointing,
)
from avion_core.train.distributed import alone
from tests.support.compiling import trace_only
from tests.unit.train.tiny_tasks import make_batch, make_task

SDPA = ATTENTION_BACKENDS["sdpa"].load()


@pytest.fixture
def compiling(device, monkeypatch) -> str:
    """The device, on which compilation takes seconds."""
    torch._dynamo.reset()
    if device == "cpu":
        trace_only(monkeypatch)
    return device


def attended(attend, dtype: torch.dtype, causal: bool, device: str) -> list[torch.Tensor]:
    """The output and the gradients of queries, keys and values, in 32-bit floats."""
    drawn = torch.randn(3, 2, 197, 12, 64, generator=torch.Generator().manual_seed(0))
    q, k, v = (part.to(device, dtype).requires_grad_() for part in drawn)
    out = attend(q, k, v, causal)
    out.float().square().sum().backward()
    return [part.float() for part in (out.detach(), q.grad, k.grad, v.grad)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [name for name in ATTENTION_BACKENDS if name != "sdpa"])
def test_flash_attention_is_attention(name, dtype, causal, gpu):
    layer = Attention(768, heads=12)
    try:
        set_attention(layer, name)
    except ValueError as reason:
        pytest.skip(str(reason))
    tolerance = 4e-3 if dtype == torch.float16 else 3e-2
    pairs = zip(attended(layer.attend, dtype, causal, gpu), attended(SDPA, dtype, causal, gpu), strict=True)
    for flash, plain in pairs:
        torch.testing.assert_close(flash, plain, rtol=tolerance, atol=tolerance * plain.abs().max().item())


@pytest.mark.parametrize("causal", [False, True])
def test_the_fused_kernels_of_torch_are_plain_attention(causal, device):
    fused = attended(SDPA, torch.float32, causal, device)
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        plain = attended(SDPA, torch.float32, causal, device)
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


def gradients(
    device: str, *, drop_path: float, compiled: bool, checkpointing: bool
) -> dict[str, torch.Tensor]:
    """The gradients of one contrastive step, by the names of weights."""
    task = make_task("contrastive", world=alone(device), drop_path=drop_path)
    set_checkpointing(task.model, checkpointing)
    if compiled:
        compile_blocks(task.model)
    torch.manual_seed(1)
    task.loss({name: value.to(device) for name, value in make_batch(0).items()}).loss.backward()
    return {name: x.grad for name, x in task.model.named_parameters() if x.grad is not None}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        scale = other[name].abs().max().item()
        torch.testing.assert_close(gradient, other[name], rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=name)


def test_compiled_blocks_have_the_gradients_of_eager_ones_with_checkpointing_too(compiling):
    eager = gradients(compiling, drop_path=0.0, compiled=False, checkpointing=False)
    assert_same(gradients(compiling, drop_path=0.0, compiled=True, checkpointing=True), eager)


def test_compiled_blocks_repeat_their_drop_path_when_they_are_recomputed(compiling):
    kept = gradients(compiling, drop_path=0.5, compiled=True, checkpointing=False)
    assert_same(gradients(compiling, drop_path=0.5, compiled=True, checkpointing=True), kept)
    without = gradients(compiling, drop_path=0.0, compiled=False, checkpointing=False)
    assert any(not torch.allclose(kept[name], without[name], rtol=0.01) for name in kept), (
        "nothing was dropped"
    )
