"""VideoMAE's pretraining and classification models reproduce recorded outputs of the original code."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from avion_core.models.architecture import VideoMAEConfig
from avion_core.models.export import avion_state_dict
from avion_core.models.foreign import import_state_dict, our_name
from avion_core.models.videomae import VideoMAE, VideoMAEClassifier
from avion_core.models.weights import load_weights

DATA = Path(__file__).parent / "data"


def config(layers: int) -> VideoMAEConfig:
    return VideoMAEConfig(
        width=48, layers=layers, heads=4, patch_px=8, decoder_width=32, decoder_layers=2, decoder_heads=4
    )


def part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("name", ["videomae_attn_conv", "videomae_flash_channellast"])
def test_targets_prediction_loss_and_gradients_are_the_recorded_ones(name):
    tensors = load_file(DATA / f"{name}.safetensors")
    model = VideoMAE(config(2), frames=16, image_size_px=32)
    load_weights(model, import_state_dict(part(tensors, "weights."), model))
    pixels = tensors["inputs.video_BCTHW"].permute(0, 2, 3, 4, 1)
    mask = tensors["inputs.mask_BN"]
    frames = model.normalise(pixels)
    target, prediction = model.target(pixels, mask), model(frames, mask)
    torch.testing.assert_close(target, tensors["inputs.targets"], atol=1e-5, rtol=0)
    torch.testing.assert_close(model.target(frames, mask), tensors["inputs.targets"], atol=1e-5, rtol=0)
    torch.testing.assert_close(prediction, tensors["outputs.prediction"], atol=1e-5, rtol=0)
    loss = F.mse_loss(prediction, target)
    torch.testing.assert_close(loss, tensors["outputs.loss"], atol=1e-5, rtol=0)
    loss.backward()
    parameters = dict(model.named_parameters())
    gradients = import_state_dict(part(tensors, "grads."), model)
    assert len(gradients) == 28
    assert max(relative(parameters[name].grad, gradients[name]) for name in gradients) < 1e-4


@pytest.mark.parametrize(
    ("name", "kind", "flash"),
    [
        ("videomae_attn_conv", VideoMAE, False),
        ("videomae_flash_channellast", VideoMAE, True),
        ("videomae_finetune", VideoMAEClassifier, True),
    ],
)
def test_exported_weights_are_the_recorded_ones_by_name_shape_and_bit(name, kind, flash):
    theirs = part(load_file(DATA / f"{name}.safetensors"), "weights.")
    model = fine_tuned() if kind is VideoMAEClassifier else VideoMAE(config(2), frames=16, image_size_px=32)
    load_weights(model, import_state_dict(theirs, model))
    ours = avion_state_dict(model, flash=flash)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def fine_tuned() -> VideoMAEClassifier:
    return VideoMAEClassifier(config(3), classes=7, frames=16, image_size_px=32).eval()


def test_classification_logits_are_the_recorded_ones():
    tensors = load_file(DATA / "videomae_finetune.safetensors")
    model = fine_tuned()
    load_weights(model, import_state_dict(part(tensors, "weights."), model))
    logits = model(tensors["inputs.video_BCTHW"].float())
    torch.testing.assert_close(logits, tensors["outputs.logits"], atol=1e-5, rtol=0)


def test_layer_decay_groups_are_the_recorded_ones():
    recorded = json.loads((DATA / "reference.json").read_text())["videomae_finetune"]
    model = fine_tuned()
    ours = {
        name: {
            "lr_scale": recorded["layer_decay"] ** (model.num_layers - 1 - model.layer_of(name)),
            "weight_decay": 0.0 if name in model.no_decay() else 0.05,
        }
        for name, _ in model.named_parameters()
    }
    assert ours == {our_name(name, model): group for name, group in recorded["param_groups"].items()}
