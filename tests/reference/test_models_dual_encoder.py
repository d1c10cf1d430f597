"""The dual encoder and the video classifier reproduce recorded outputs of AVION's code."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from avion_core.models.architecture import DualEncoderConfig
from avion_core.models.classifier import VideoClassifier
from avion_core.models.dual_encoder import DualEncoder
from avion_core.models.export import avion_state_dict
from avion_core.models.foreign import import_state_dict, our_name
from avion_core.models.towers import TextConfig, VisionConfig
from avion_core.models.weights import load_weights

DATA = Path(__file__).parent / "data"
CONFIG = DualEncoderConfig(
    vision=VisionConfig(width=64, layers=2, heads=4, patch_px=8),
    text=TextConfig(width=48, layers=2, heads=4, context_length=16, vocabulary=100),
    embed_dim=24,
)


def part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.fixture(params=["clip_attn_conv", "clip_flash_fastconv"])
def recorded(request):
    tensors = load_file(DATA / f"{request.param}.safetensors")
    model = DualEncoder(CONFIG, frames=4, image_size_px=32, learn_temperature=True)
    load_weights(model, import_state_dict(part(tensors, "weights."), model))
    return tensors, model


def test_embeddings_loss_and_gradients_are_the_recorded_ones(recorded):
    tensors, model = recorded
    video, text, scale = model(tensors["inputs.frames_BCTHW"], tensors["inputs.tokens_BL"])
    torch.testing.assert_close(video, tensors["outputs.video_embed_BD"], atol=1e-5, rtol=0)
    torch.testing.assert_close(text, tensors["outputs.text_embed_BD"], atol=1e-5, rtol=0)
    torch.testing.assert_close(scale, tensors["outputs.logit_scale"], atol=1e-5, rtol=0)
    logits, pairs = scale * video @ text.T, torch.arange(len(video))
    loss = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
    torch.testing.assert_close(loss, tensors["outputs.clip_loss"], atol=1e-5, rtol=0)
    loss.backward()
    parameters = dict(model.named_parameters())
    gradients = import_state_dict(part(tensors, "grads."), model)
    assert len(gradients) == 30
    assert max(relative(parameters[name].grad, gradients[name]) for name in gradients) < 1e-4


def test_a_module_prefix_makes_no_difference(recorded):
    tensors, model = recorded
    theirs = part(tensors, "weights.")
    prefixed = import_state_dict({f"module.{name}": tensor for name, tensor in theirs.items()}, model)
    assert prefixed.keys() == import_state_dict(theirs, model).keys() == model.state_dict().keys()


def test_exported_weights_are_the_recorded_ones_by_name_shape_and_bit(recorded):
    tensors, model = recorded
    theirs = part(tensors, "weights.")
    ours = avion_state_dict(model, flash="visual.transformer.resblocks.0.attn.Wqkv.weight" in theirs)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_weights_without_decay_are_the_recorded_ones():
    recorded = json.loads((DATA / "reference.json").read_text())["clip_train_curve"]["no_decay"]
    model = DualEncoder(CONFIG, frames=4, image_size_px=32)
    assert model.no_decay() == {our_name(name, model) for name in recorded}


def test_classifier_logits_are_the_recorded_ones():
    tensors = load_file(DATA / "classifier.safetensors")
    model = VideoClassifier(CONFIG, classes=11, frames=4, image_size_px=32, head_dropout=0.5).eval()
    load_weights(model, import_state_dict(part(tensors, "weights."), model))
    logits = model(tensors["inputs.frames_BCTHW"])
    torch.testing.assert_close(logits, tensors["outputs.logits"], atol=1e-5, rtol=0)
    exported, theirs = avion_state_dict(model, flash=True), part(tensors, "weights.")
    assert exported.keys() == theirs.keys()
    assert all(torch.equal(exported[name], theirs[name]) for name in theirs)
