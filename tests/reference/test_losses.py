"""The losses' values against those of the public implementations, on one small batch."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from avion_core.models.next_token import mean_losses, token_losses
from avion_core.train import losses

DATA = Path(__file__).parent / "data"
RECORDED = json.loads((DATA / "losses.json").read_text())
EGOVLP = load_file(DATA / "egovlp_losses.safetensors")
LAVILA = load_file(DATA / "lavila_losses.safetensors")


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
    recorded = LAVILA
    logits_BVL = recorded["inputs.caption_logits_BVL"].clone().requires_grad_()
    labels = recorded["inputs.caption_labels_BL"]
    found = token_losses(logits_BVL.transpose(1, 2), labels)
    assert found.mean().item() == pytest.approx(recorded["outputs.caption_loss"].item(), rel=1e-5)
    found.mean().backward()
    torch.testing.assert_close(logits_BVL.grad, recorded["grads.caption_logits_BVL"], atol=1e-6, rtol=0)
    perplexity = mean_losses(found, labels).exp().mean().item()
    assert perplexity == pytest.approx(recorded["outputs.caption_perplexity"].item(), rel=1e-5)


def assert_recorded(value, inputs, tensors, name, gradients):
    """The value and the gradients by these inputs, within a share of the largest value."""
    assert value.item() == pytest.approx(tensors[name].item(), rel=1e-5)
    for ours, key in zip(torch.autograd.grad(value, inputs), gradients, strict=True):
        theirs = tensors[key]
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def leaves(tensors, *names):
    """In 64 bits, as 32 of a sum of logits are not enough for a small loss."""
    return [tensors[name].double().requires_grad_() for name in names]


@pytest.mark.parametrize("group", ["egonce", "egonce_neighbours"])
@pytest.mark.parametrize(
    ("variant", "tags", "temperature"),
    [
        ("both", ("verb", "noun"), 0.05),
        ("verb_only", ("verb",), 0.05),
        ("noun_only", ("noun",), 0.05),
        ("tau_0.1", ("verb", "noun"), 0.1),
    ],
)
def test_egonce(group, variant, tags, temperature):
    inputs = leaves(EGOVLP, f"{group}.inputs.video_MD", f"{group}.inputs.text_MD")
    kept = {"verb": "verbs_MV", "noun": "nouns_MN"}
    given = {f"{word}_tags": EGOVLP[f"{group}.inputs.{kept[word]}"].bool() for word in tags}
    embeddings = [F.normalize(x, dim=1) for x in inputs]
    value = losses.ego_nce(*embeddings, scale=1 / temperature, **given)
    gradients = [f"{group}.grads.{variant}.{name}" for name in ("video_MD", "text_MD")]
    assert_recorded(value, inputs, EGOVLP, f"{group}.outputs.{variant}", gradients)


@pytest.mark.parametrize(
    ("variant", "loss"),
    [
        ("max_margin_0.2", partial(losses.max_margin, margin=0.2)),
        ("infonce_sum_tau_0.05", partial(losses.ego_nce, scale=20.0)),
        ("infonce_sum_tau_0.05", lambda *pair: 2 * losses.info_nce(*pair, scale=20.0)),
        (
            "adaptive_max_margin_0.4",
            lambda *pair: losses.adaptive_max_margin(
                *pair, torch.diag(EGOVLP["margin.inputs.relevancy_M"]), margin=0.4
            ),
        ),
    ],
)
def test_egovlps_fine_tuning_losses(variant, loss):
    inputs = leaves(EGOVLP, "margin.inputs.video_MD", "margin.inputs.text_MD")
    value = loss(*(F.normalize(x, dim=1) for x in inputs))
    gradients = [f"margin.grads.{variant}.{name}" for name in ("video_MD", "text_MD")]
    assert_recorded(value, inputs, EGOVLP, f"margin.outputs.{variant}", gradients)


@pytest.mark.parametrize(
    ("variant", "temperatures"),
    [("human_0.05_pseudo_0.2", (0.05, 0.2)), ("published_both_0.07", (0.07, 0.07))],
)
def test_a_temperature_per_source_of_text(variant, temperatures):
    """LaViLa's, of embeddings of unit length."""
    embeddings = leaves(LAVILA, "inputs.video_BE", "inputs.text_BE")
    log_scales = [torch.tensor(1 / t).log().requires_grad_() for t in temperatures]
    value = losses.info_nce(
        *embeddings,
        scale=log_scales[0].exp(),
        narrated=LAVILA["inputs.human_B"] == 0,
        narrated_scale=log_scales[1].exp(),
    )
    name = f"source_temperature.{variant}"
    gradients = ("video_BE", "text_BE", "log_scale", "log_scale_pseudo")
    inputs = [*embeddings, *log_scales]
    assert_recorded(value, inputs, LAVILA, f"outputs.{name}", [f"grads.{name}.{x}" for x in gradients])


@pytest.mark.parametrize("name", ["clip_loss_0.07", "max_margin_0.2", "adaptive_max_margin_0.4"])
def test_lavilas_other_losses(name):
    pair = leaves(LAVILA, "inputs.video_BE", "inputs.text_BE")
    value = {
        "clip_loss_0.07": lambda: losses.info_nce(*pair, scale=1 / 0.07),
        "max_margin_0.2": lambda: losses.max_margin(*pair, margin=0.2),
        "adaptive_max_margin_0.4": lambda: losses.adaptive_max_margin(
            *pair, torch.diag(LAVILA["inputs.relevancy_B"]), margin=0.4
        ),
    }[name]()
    assert value.item() == pytest.approx(LAVILA[f"outputs.{name}"].item(), rel=1e-5)
