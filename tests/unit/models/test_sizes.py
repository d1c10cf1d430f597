"""Costs of a clip: published figures, and what a real step keeps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from avion_core.models.architecture import DualEncoderConfig, VideoMAEConfig
from avion_core.models.clip import ClipText
from avion_core.models.layers import Block, set_checkpointing
from avion_core.models.sizes import measure
from avion_core.models.store import build_model
from avion_core.models.towers import TextConfig, TimeSformerConfig, VisionConfig
from avion_core.models.videomae import split_mask


@pytest.mark.parametrize(("architecture", "billions"), [("videomae_vit_b", 180), ("videomae_vit_l", 597)])
def test_multiply_adds_are_the_papers(architecture, billions):
    """As the VideoMAE paper lists them for one clip of 16 frames at 224 px."""
    size = measure("videomae_classifier", architecture, frames=16, image_size_px=224, classes=400)
    assert round(size.multiply_adds / 1e9) == billions


def test_openais_clip_has_its_published_number_of_weights():
    size = measure("dual_encoder", "openai_clip_vit_b_16", frames=1, image_size_px=224)
    assert size.parameters == 149_620_737 + 768  # the temporal embedding of one frame


DUAL = DualEncoderConfig(
    vision=VisionConfig(width=24, layers=3, heads=2, patch_px=8),
    text=TextConfig(width=16, layers=2, heads=2, context_length=12, vocabulary=50),
    embed_dim=8,
)
DIVIDED = DUAL.model_copy(update={"vision": TimeSformerConfig(width=24, layers=3, heads=2, patch_px=8)})
MAE = VideoMAEConfig(
    width=24, layers=3, heads=2, patch_px=8, decoder_width=12, decoder_layers=2, decoder_heads=2
)


def kept_bytes(forward: Callable[[Tensor], Tensor], batch: int) -> int:
    """Of a real forward pass; equal addresses are one tensor."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward(torch.randn(batch, 3, 4, 32, 32))
    assert result.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize(
    ("kind", "config"),
    [("video_classifier", DUAL), ("video_classifier", DIVIDED), ("videomae_classifier", MAE)],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_those_a_real_step_keeps(kind, config, checkpointing):
    arguments = {"frames": 4, "image_size_px": 32, "classes": 5}
    model = build_model(kind, config, **arguments)
    set_checkpointing(model, checkpointing)
    size = measure(kind, config, **arguments)
    wanted = kept_bytes(model, 2) - kept_bytes(model, 1)
    assert wanted == pytest.approx(
        size.checkpointed_bytes if checkpointing else size.activation_bytes, rel=0.01
    )


def test_checkpointing_keeps_one_input_a_block():
    deep = MAE.model_copy(update={"layers": 7})
    arguments = {"frames": 4, "image_size_px": 32, "classes": 5}
    sizes = [measure("videomae_classifier", c, **arguments).checkpointed_bytes for c in (MAE, deep)]
    tokens, width, float32 = 2 * 16, 24, 4
    assert sizes[1] - sizes[0] == 4 * tokens * width * float32


@pytest.mark.parametrize("mask_ratio", [0.5, 0.9])
def test_masking_is_that_of_the_stage(mask_ratio):
    model = build_model("videomae", MAE, frames=4, image_size_px=32)

    def step(frames: Tensor) -> Tensor:
        mask_BN = model.tube_mask(len(frames), mask_ratio, torch.default_generator)
        return model.reconstruct(frames, *split_mask(mask_BN))

    size = measure("videomae", MAE, frames=4, image_size_px=32, dry_run={"mask_ratio": mask_ratio})
    assert size.activation_bytes == pytest.approx(kept_bytes(step, 2) - kept_bytes(step, 1), rel=0.01)


def test_what_the_decoder_leaves_out_is_not_predicted():
    sizes = [
        measure("videomae", MAE, frames=8, image_size_px=32, decoder_mask_ratio=ratio) for ratio in (0, 0.5)
    ]
    hidden, width = 4 * 14, MAE.decoder_width
    assert sizes[0].multiply_adds - sizes[1].multiply_adds > hidden // 2 * MAE.decoder_layers * 12 * width**2


def test_the_largest_block_is_that_of_the_decoder_where_most_is_masked():
    """The encoder sees 4 of the 32 tokens."""
    block = Block(MAE.decoder_width, heads=2, norm_eps=1e-6, train_key_bias=False)
    tokens = 2 * 16

    def alone(frames: Tensor) -> Tensor:
        return block(torch.randn(len(frames), tokens, MAE.decoder_width, requires_grad=True))

    size = measure("videomae", MAE, frames=4, image_size_px=32)
    assert size.block_bytes == pytest.approx(kept_bytes(alone, 2) - kept_bytes(alone, 1), rel=0.05)


def test_a_tower_that_needs_values_is_one_error(monkeypatch):
    """As a plug-in's may, whose `dry_run` is its forward pass."""
    monkeypatch.setattr(ClipText, "dry_run", ClipText.forward)
    with pytest.raises(ValueError, match=r"size of this dual_encoder is not known.* shapes, or set"):
        measure("dual_encoder", "toy_dual_encoder", frames=2, image_size_px=32)
