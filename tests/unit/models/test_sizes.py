"""Costs of a clip: published figures, and what a real step keeps."""

import pytest
import torch
from torch import Tensor

from avion_core.models.architecture import DualEncoderConfig, VideoMAEConfig
from avion_core.models.layers import set_checkpointing
from avion_core.models.sizes import measure
from avion_core.models.store import build_model
from avion_core.models.towers import TextConfig, VisionConfig


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
MAE = VideoMAEConfig(
    width=24, layers=3, heads=2, patch_px=8, decoder_width=12, decoder_layers=2, decoder_heads=2
)


def kept_bytes(model: torch.nn.Module, batch: int) -> int:
    """Of a real forward pass; equal addresses are one tensor."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = model(torch.randn(batch, 3, 4, 32, 32))
    assert result.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize(("kind", "config"), [("video_classifier", DUAL), ("videomae_classifier", MAE)])
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
