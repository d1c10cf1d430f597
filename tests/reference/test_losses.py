"""The losses' values against those of the public implementations, on one small batch."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from avion_core.models.next_token import mean_losses, token_losses
from avion_core.train import losses

RECORDED = json.loads((Path(__file__).parent / "data" / "losses.json").read_text())


@pytest.fixture
def video() -> torch.Tensor:
    return torch.tensor(RECORDED["video_embed"])


@pytest.fixture
def text() -> torch.Tensor:
    return torch.tensor(RECORDED["text_embed"])


def test_info_nce(video, text):
    value = losses.info_nce(video, text, scale=RECORDED["logit_scale"])
    assert value.item() == pytest.approx(RECORDED["clip_loss"], abs=1e-5)


def test_max_margin(video, text):
    value = losses.max_margin(video, text, margin=0.2)
    assert value.item() == pytest.approx(RECORDED["max_margin_0.2"], abs=1e-6)


def test_adaptive_max_margin(video, text):
    relevancy = torch.diag(torch.tensor(RECORDED["pair_relevancy"]))
    value = losses.adaptive_max_margin(video, text, relevancy, margin=0.4)
    assert value.item() == pytest.approx(RECORDED["adaptive_max_margin_0.4"], abs=1e-6)


def test_symmetric_multi_similarity(video, text):
    matrix = torch.tensor(RECORDED["relevancy_matrix_video_by_sentence"])
    relevancy = matrix[RECORDED["video_rows"]][:, RECORDED["sentence_columns"]]
    value = losses.symmetric_multi_similarity(video, text, relevancy, margin=0.6, relaxation=0.1)
    assert value.item() == pytest.approx(RECORDED["symmetric_multi_similarity_0.6_tau_0.1"], abs=1e-6)


def test_soft_targets_that_are_one_hot_give_plain_cross_entropy():
    logits, labels = torch.randn(5, 7), torch.tensor([0, 3, 6, 2, 2])
    soft = losses.soft_target_cross_entropy(logits, F.one_hot(labels, 7).float())
    assert soft.item() == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-6)


def test_soft_targets_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    value = losses.soft_target_cross_entropy(logits, torch.tensor([[0.5, 0.5, 0.0]]))
    assert value.item() == pytest.approx(1.5 * 0.6931472, abs=1e-6)


def test_losses_keep_32_bits_under_autocast(video, text):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = losses.info_nce(video, text, scale=RECORDED["logit_scale"])
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(RECORDED["clip_loss"], abs=1e-5)


def test_a_batch_of_one_is_refused():
    one = torch.ones(1, 4)
    with pytest.raises(ValueError, match="batch_size"):
        losses.max_margin(one, one, margin=0.2)


def test_captions():
    """LaViLa's mean is over all places, padding counted as zero."""
    recorded = load_file(Path(__file__).parent / "data" / "lavila_losses.safetensors")
    logits_BVL = recorded["inputs.caption_logits_BVL"].requires_grad_()
    labels = recorded["inputs.caption_labels_BL"]
    found = token_losses(logits_BVL.transpose(1, 2), labels)
    assert found.mean().item() == pytest.approx(recorded["outputs.caption_loss"].item(), rel=1e-5)
    found.mean().backward()
    torch.testing.assert_close(logits_BVL.grad, recorded["grads.caption_logits_BVL"], atol=1e-6, rtol=0)
    perplexity = mean_losses(found, labels).exp().mean().item()
    assert perplexity == pytest.approx(recorded["outputs.caption_perplexity"].item(), rel=1e-5)
