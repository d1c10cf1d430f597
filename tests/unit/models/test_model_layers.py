"""Attention, blocks, patches and pixel normalisation against naive versions of themselves."""

import pytest
import torch
import torch.nn.functional as F

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
@pytest.mark.parametrize("backend", sorted(layers.ATTENTION_BACKENDS))
def test_attention_equals_the_written_out_one(causal, backend):
    attention, x = Attention(12, heads=3), torch.randn(2, 5, 12)
    attention.backend = backend
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
    with pytest.raises(ValueError, match="unknown attention 'flesh'; known: sdpa, flash"):
        set_attention(block, "flesh")
    set_attention(block, "sdpa")
    assert block.attn.backend == "sdpa"


def test_flash_where_it_cannot_run_says_why(monkeypatch):
    block = Block(12, heads=3, norm_eps=1e-6)
    monkeypatch.setattr(layers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package flash-attn"):
        set_attention(block, "flash")
    monkeypatch.setattr(layers.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(layers.torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"compute capability 8\.0"):
        set_attention(block, "flash")
