"""Attention, blocks, patches and pixel normalisation against naive versions of themselves."""

import sys
from types import ModuleType
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode

from avion_core.config.jobs import StageJob
from avion_core.models import layers
from avion_core.models.layers import Attention, Block, Normalise, patchify, quick_gelu, set_attention


def naive_attention(module: Attention, x: torch.Tensor, *, causal: bool) -> torch.Tensor:
    """Head by head, with the softmax written out."""
    tokens, width = x.shape[1:]
    each = width // module.heads
    q, k, v = module.qkv(x).split(width, dim=-1)
    outputs = []
    for head in range(module.heads):
        part = slice(head * each, (head + 1) * each)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / each**0.5
        if causal:
            future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(future, float("-inf"))
        outputs.append(scores.softmax(-1) @ v[..., part])
    return module.proj(torch.cat(outputs, dim=-1))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("attend", [layers._sdpa, layers.in_half(None)], ids=["sdpa", "flash"])
def test_attention_equals_the_written_out_one(causal, attend):
    """Also where flash-attn is chosen and cannot be used: on the CPU, and in 32-bit floats."""
    attention, x = Attention(12, heads=3), torch.randn(2, 5, 12)
    attention.attend = attend
    torch.testing.assert_close(attention(x, causal=causal), naive_attention(attention, x, causal=causal))


def test_first_token_alone_is_the_whole_blocks_first_token_with_its_gradients():
    block, x = Block(12, heads=3, norm_eps=1e-6), torch.randn(2, 5, 12, requires_grad=True)
    weight = torch.randn(2, 12)
    gradients = []
    for output in (block(x)[:, :1], block(x, first_only=True)):
        loss = (output[:, 0] * weight).sum()
        gradients.append(torch.autograd.grad(loss, [x, *block.parameters()]))
        assert output.shape == (2, 1, 12)
    torch.testing.assert_close(block(x)[:, :1], block(x, first_only=True))
    for whole, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, alone, atol=1e-5, rtol=1e-4)


def test_patches_times_flattened_kernel_is_the_convolution():
    frames = torch.randn(2, 3, 4, 16, 24)
    kernel = torch.randn(5, 3, 2, 8, 8)
    wanted = F.conv3d(frames, kernel, stride=kernel.shape[2:]).flatten(2).transpose(1, 2)
    patches = patchify(frames, patch_px=8, tubelet_frames=2)
    torch.testing.assert_close(patches @ kernel.flatten(1).T, wanted, atol=1e-4, rtol=1e-4)


def test_normalise_and_back():
    pixels = torch.randint(0, 256, (1, 2, 4, 4, 3), dtype=torch.uint8)
    normalise = Normalise((100.0, 110.0, 120.0), (50.0, 60.0, 70.0))
    frames = normalise(pixels)
    assert frames.shape == (1, 3, 2, 4, 4)
    assert frames[0, 2, 1, 3, 0].item() == pytest.approx((int(pixels[0, 1, 3, 0, 2]) - 120) / 70)
    torch.testing.assert_close(normalise.undo(frames), pixels.permute(0, 4, 1, 2, 3).float())
    assert not normalise.state_dict()


def test_quick_gelu_known_values():
    torch.testing.assert_close(quick_gelu(torch.tensor([0.0, 1.0])), torch.tensor([0.0, 0.8457957]))


def test_drop_path_acts_in_training_only():
    block, x = Block(12, heads=3, norm_eps=1e-6, drop_path=0.5), torch.randn(32, 3, 12)
    kept = (block.train()(x) == x).flatten(1).all(1)
    assert 0 < kept.sum() < 32
    torch.testing.assert_close(block.eval()(x), block(x), atol=0, rtol=0)


def test_attention_is_chosen_by_name():
    block = Block(12, heads=3, norm_eps=1e-6)
    with pytest.raises(ValueError, match=r"'flesh'; known: sdpa, flash_cute, flash_2, flash$"):
        set_attention(block, "flesh")
    set_attention(block, "sdpa")
    assert block.attn.attend is layers._sdpa


def test_the_setting_has_the_names_of_the_kernels():
    assert get_args(StageJob.model_fields["attention"].annotation) == tuple(layers.ATTENTION_CHOICES)


@pytest.mark.parametrize(
    ("name", "package", "others"),
    [
        ("flash_2", r"flash-attn \(.+\)", "sdpa, flash_cute, flash"),
        ("flash_cute", r"flash-attn-4 \(.+\)", "sdpa, flash_2, flash"),
        ("flash", r"flash-attn-4 \(.+\), or the package flash-attn \(.+\)", "sdpa"),
    ],
)
def test_flash_without_its_package_says_what_to_do(name, package, others, monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    monkeypatch.delitem(sys.modules, "flash_attn.cute", raising=False)
    with pytest.raises(ValueError, match=rf"needs the package {package}; or use one of: {others}$"):
        set_attention(Block(12, heads=3, norm_eps=1e-6), name)


@pytest.fixture
def installed(monkeypatch) -> list[dict]:
    """Stand-ins for both packages, and what their functions were called with."""
    calls = []

    def function(answer):
        def flash_attn_func(q, k, v, **options):
            calls.append(options)
            return answer(q)

        return flash_attn_func

    two, cute = ModuleType("flash_attn"), ModuleType("flash_attn.cute")
    two.flash_attn_func, cute.flash_attn_func = function(lambda q: q), function(lambda q: (q, None))
    two.cute = cute
    monkeypatch.setitem(sys.modules, "flash_attn", two)
    monkeypatch.setitem(sys.modules, "flash_attn.cute", cute)
    return calls


@pytest.mark.parametrize(
    ("name", "wanted", "next_lower"),
    [("flash_2", (8, 0), (7, 5)), ("flash", (8, 0), (7, 5)), ("flash_cute", (9, 0), (8, 9))],
)
def test_flash_needs_a_gpu_that_it_supports(name, wanted, next_lower, installed, monkeypatch):
    block = Block(12, heads=3, norm_eps=1e-6)
    version = rf"compute capability {wanted[0]}\.{wanted[1]}"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=version):
        set_attention(block, name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: next_lower)
    with pytest.raises(ValueError, match=version):
        set_attention(block, name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: wanted)
    set_attention(block, name)
    assert block.attn.attend is not layers._sdpa


@pytest.mark.parametrize(
    ("capability", "missing", "chosen"),
    [
        ((9, 0), (), "flash_cute"),
        ((8, 6), (), "flash_2"),
        ((9, 0), ("flash_attn.cute",), "flash_2"),
        ((10, 0), ("flash_attn",), "flash_cute"),
    ],
)
def test_flash_is_the_first_form_that_runs(capability, missing, chosen, installed, monkeypatch):
    """flash-attn-4 alone leaves a package `flash_attn` without flash-attn 2's functions."""
    if "flash_attn.cute" in missing:
        monkeypatch.setitem(sys.modules, "flash_attn.cute", None)
    if "flash_attn" in missing:
        monkeypatch.delattr(sys.modules["flash_attn"], "flash_attn_func")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert set_attention(Block(12, heads=3, norm_eps=1e-6), "flash") == chosen


@pytest.mark.parametrize("name", ["flash_2", "flash_cute"])
def test_flash_gets_half_precision_tensors_on_a_gpu(name, installed):
    """The CuTe form answers with a pair."""
    attend = layers.ATTENTION_BACKENDS[name].load()
    with FakeTensorMode():
        q, k, v = torch.zeros(3, 2, 5, 3, 4, device="cuda", dtype=torch.bfloat16)
        assert attend(q, k, v, True) is q
        assert installed == [{"causal": True}]
        assert attend(q.float(), k.float(), v.float(), True).dtype == torch.float32
    assert len(installed) == 1
