"""Heads for several labels: stored and found again, and no trace of them where there are none."""

import json

import pytest
import torch

from avion_core.models.architecture import load_architecture
from avion_core.models.export import export_avion
from avion_core.models.store import ModelDescription, build_model, load_model, save_model

SIZES = {"frames": 2, "image_size_px": 64}
KINDS = {"video_classifier": "toy_dual_encoder", "videomae_classifier": "toy_videomae"}
FURTHER = {"verb": 3, "noun": 4}


def fresh(kind: str, **arguments):
    torch.manual_seed(0)
    return build_model(kind, load_architecture(KINDS[kind]), **SIZES, classes=5, **arguments).eval()


@pytest.mark.parametrize("head", ["linear", "attentive"])
@pytest.mark.parametrize("kind", KINDS)
def test_several_heads_are_stored_and_found_again(kind, head, tmp_path):
    model = fresh(kind, head=head, further_classes=FURTHER)
    description = ModelDescription(kind, "any", **SIZES, classes=5, further_classes=FURTHER, label="action")
    save_model(tmp_path, model, description)
    again, found = load_model(tmp_path)
    assert found.heads == {"action": 5, "verb": 3, "noun": 4}
    frames = torch.randn(2, 3, 2, 64, 64)
    assert model(frames).shape == (2, 5 + 3 + 4)
    assert torch.equal(again(frames), model(frames))
    if kind == "videomae_classifier":
        with pytest.raises(ValueError, match="no format has names for heads of several labels"):
            export_avion(tmp_path, tmp_path / "out.pt")


@pytest.mark.parametrize("kind", KINDS)
def test_without_further_labels_names_draws_and_descriptions_are_as_before(kind, tmp_path):
    model, several = fresh(kind), fresh(kind, further_classes=FURTHER)
    assert {name for name in model.state_dict() if "head" in name} == {"head.weight", "head.bias"}
    if kind == "video_classifier":  # VideoMAE's weights are drawn once its heads are there
        assert torch.equal(model.head.weight, several.head.weight)
    save_model(tmp_path, model, ModelDescription(kind, "any", **SIZES, classes=5))
    assert "further_classes" not in json.loads((tmp_path / "model.json").read_text())


def test_each_head_has_its_own_dropout():
    model = fresh("video_classifier", head_dropout=0.5, further_classes={"verb": 5}).train()
    model.further_heads["verb"].load_state_dict(model.head.state_dict())
    logits = model(torch.randn(2, 3, 2, 64, 64))
    assert not torch.allclose(logits[:, :5], logits[:, 5:])
    model.eval()
    logits = model(torch.randn(2, 3, 2, 64, 64))
    assert torch.equal(logits[:, :5], logits[:, 5:])


@pytest.mark.parametrize("head", ["linear", "attentive"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_an_evaluation_are_not_rounded_to_half_precision(kind, head):
    """They would tie, and ties count as wrong; a training keeps its arithmetic."""
    model, frames = fresh(kind, head=head, further_classes=FURTHER), torch.randn(2, 3, 2, 64, 64)
    for training in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            logits = model.train(training)(frames).float()
        rounded = (logits == logits.bfloat16()).float().mean()
        assert rounded == 1 if training else rounded < 0.5
