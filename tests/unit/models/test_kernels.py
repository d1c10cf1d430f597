"""Ways to compute a model that change nothing but time and memory: checkpointing and compilation."""

import copy
import shutil

import pytest
import torch
from torch import Tensor

from avion_core.models.architecture import DualEncoderConfig, TextConfig, VideoMAEConfig, VisionConfig
from avion_core.models.base import VideoModel
from avion_core.models.layers import compile_blocks, set_checkpointing
from avion_core.models.store import build_model

DUAL = DualEncoderConfig(
    vision=VisionConfig(width=24, layers=3, heads=2, patch_px=8),
    text=TextConfig(width=16, layers=2, heads=2, context_length=12, vocabulary=50),
    embed_dim=8,
)
MAE = VideoMAEConfig(
    width=24, layers=3, heads=2, patch_px=8, decoder_width=12, decoder_layers=2, decoder_heads=2
)
TOKENS = torch.tensor([[1, 7, 9, 49, 0, 0, 0], [1, 8, 3, 4, 49, 0, 0]])
MODELS = {
    "dual_encoder": (DUAL, {"patch_dropout": 0.5}),
    "video_classifier": (DUAL, {"classes": 5, "head_dropout": 0.5}),
    "videomae": (MAE, {}),
    "videomae_classifier": (MAE, {"classes": 5, "head_dropout": 0.5}),
}


def model_of(kind: str) -> VideoModel:
    torch.manual_seed(0)
    config, arguments = MODELS[kind]
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


@needs_compiler
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_give_the_same_loss_and_gradients(checkpointing):
    model = build_model("dual_encoder", DUAL, frames=4, image_size_px=32)
    set_checkpointing(model, checkpointing)
    names = list(model.state_dict())
    loss, gradients = step(model)
    compile_blocks(model)
    again, compiled = step(model)
    torch.testing.assert_close(again, loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(compiled, gradients, atol=1e-5, rtol=1e-4)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    assert list(model.state_dict()) == names


@needs_compiler
def test_a_copy_of_a_compiled_model_computes_with_its_own_weights():
    model = build_model("video_classifier", DUAL, classes=5, frames=4, image_size_px=32).eval()
    compile_blocks(model)
    frames, twin = torch.randn(1, 3, 4, 32, 32), copy.deepcopy(model)
    before = model(frames)
    with torch.no_grad():
        for parameter in twin.vision.blocks.parameters():
            parameter.add_(0.1)
    assert torch.equal(model(frames), before)
    assert not torch.allclose(twin(frames), before, atol=1e-3)


def test_without_a_compiler_one_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="compile needs a C\\+\\+ compiler"):
        compile_blocks(model_of("videomae"))
