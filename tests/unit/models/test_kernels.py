"""Ways to compute a model that change nothing but time and memory: checkpointing and compilation."""

import shutil

import pytest
import torch
from torch import Tensor

from avion_core.models.architecture import DualEncoderConfig, VideoMAEConfig
from avion_core.models.base import VideoModel
from avion_core.models.layers import Block, compile_blocks, run_blocks, set_checkpointing
from avion_core.models.store import build_model
from avion_core.models.towers import DistilBertConfig, TextConfig, TimeSformerConfig, VisionConfig

DUAL = DualEncoderConfig(
    vision=VisionConfig(width=24, layers=3, heads=2, patch_px=8),
    text=TextConfig(width=16, layers=2, heads=2, context_length=12, vocabulary=50),
    embed_dim=8,
)
MAE = VideoMAEConfig(
    width=24, layers=3, heads=2, patch_px=8, decoder_width=12, decoder_layers=2, decoder_heads=2
)
DIVIDED = DualEncoderConfig(
    vision=TimeSformerConfig(width=24, layers=3, heads=2, patch_px=8),
    text=DistilBertConfig(width=16, layers=2, heads=2, hidden=32, context_length=12, vocabulary=50),
    embed_dim=8,
)
TOKENS = torch.tensor([[1, 7, 9, 49, 0, 0, 0], [1, 8, 3, 4, 49, 0, 0]])
MODELS = {
    "dual_encoder": (DUAL, {"patch_dropout": 0.5}),
    "divided": (DIVIDED, {}),
    "video_classifier": (DUAL, {"classes": 5, "head_dropout": 0.5}),
    "videomae": (MAE, {}),
    "videomae_classifier": (MAE, {"classes": 5, "head_dropout": 0.5}),
}


def model_of(kind: str) -> VideoModel:
    torch.manual_seed(0)
    config, arguments = MODELS[kind]
    kind = "dual_encoder" if kind == "divided" else kind
    return build_model(kind, config, frames=4, image_size_px=32, drop_path=0.4, **arguments).train()


def step(model: VideoModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of one training step with randomness of its own seed."""
    torch.manual_seed(7)
    model.zero_grad()
    frames = torch.randn(2, 3, 4, 32, 32)
    if model.kind == "dual_encoder":
        video, text, scale = model(frames, TOKENS)
        loss = (scale * video @ text.T).square().mean()
    elif model.kind == "videomae":
        loss = model(frames, model.tube_mask(2, 0.5, torch.default_generator)).square().mean()
    else:
        loss = model(frames).square().mean()
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


@pytest.mark.parametrize("kind", MODELS)
def test_checkpointing_changes_no_bit_of_loss_and_gradients(kind):
    model = model_of(kind)
    loss, gradients = step(model)
    set_checkpointing(model, True)
    again, recomputed = step(model)
    assert torch.equal(loss, again)
    assert gradients.keys() == recomputed.keys()
    assert all(torch.equal(gradients[name], recomputed[name]) for name in gradients)


def kept_bytes(model: VideoModel) -> int:
    """What a step's forward pass keeps for its backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.randn(2, 3, 4, 32, 32))
    return sum(kept.values())


def test_checkpointing_keeps_less():
    model = model_of("videomae_classifier")
    plain = kept_bytes(model)
    set_checkpointing(model, True)
    assert kept_bytes(model) < plain / 3


needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "clang++", "c++")), reason="no C++ compiler"
)


@pytest.mark.slow
@needs_compiler
def test_compiled_blocks_give_the_same_loss_and_gradients():
    """One size of block only: the C++ compiler takes seconds for each."""
    blocks = torch.nn.ModuleList(Block(16, heads=2, norm_eps=1e-6) for _ in range(2))
    names, x_BND = list(blocks.state_dict()), torch.randn(2, 5, 16, requires_grad=True)

    def once() -> list[Tensor]:
        loss = run_blocks(blocks, x_BND).square().sum()
        return [loss.detach(), *torch.autograd.grad(loss, list(blocks.parameters()))]

    plain = once()
    torch._dynamo.utils.counters.clear()
    compile_blocks(blocks)
    torch.testing.assert_close(once(), plain, atol=1e-4, rtol=1e-4)
    set_checkpointing(blocks, True)
    torch.testing.assert_close(once(), plain, atol=1e-4, rtol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert list(blocks.state_dict()) == names


def test_without_a_compiler_one_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="compile needs a C\\+\\+ compiler"):
        compile_blocks(model_of("videomae"))
