"""The attentive head: what it computes, that it is stored and found again, and that no format takes it."""

import pytest
import torch

from avion_core.models.architecture import DualEncoderConfig, VideoMAEConfig
from avion_core.models.attentive_head import AttentiveHead
from avion_core.models.export import export_avion
from avion_core.models.store import ModelDescription, build_model, load_model, save_model, start_from
from avion_core.models.weights import ModelError

DUAL = DualEncoderConfig.model_validate(
    {
        "vision": {"width": 24, "layers": 2, "heads": 2, "patch_px": 8},
        "text": {"width": 16, "layers": 1, "heads": 2, "context_length": 8, "vocabulary": 20},
        "embed_dim": 8,
    }
)
MAE = VideoMAEConfig(width=24, layers=2, heads=2, patch_px=8, decoder_width=12, decoder_heads=2)
SIZES = {"frames": 2, "image_size_px": 16}
KINDS = {"video_classifier": DUAL, "videomae_classifier": MAE}


def probe(kind, **arguments):
    torch.manual_seed(0)
    return build_model(kind, KINDS[kind], **SIZES, classes=5, head="attentive", **arguments).eval()


def test_it_is_a_query_that_attends_to_all_tokens():
    torch.manual_seed(0)
    head = AttentiveHead(8, heads=2, classes=3, dropout=0.0, std=0.5).eval()
    tokens_BND = torch.randn(2, 7, 8)
    keys, values = head.to_kv(head.norm1(tokens_BND)).chunk(2, dim=-1)
    query = head.to_q(head.query)[0]
    parts = []
    for h in (slice(0, 4), slice(4, 8)):
        weights_BN = (keys[..., h] @ query[h] / 4**0.5).softmax(-1)
        parts.append((weights_BN[..., None] * values[..., h]).sum(1))
    x_BD = head.query + torch.cat(parts, -1)
    x_BD = x_BD + head.mlp(head.norm2(x_BD))
    torch.testing.assert_close(head(tokens_BND), head.linear(x_BD))
    torch.testing.assert_close(head(tokens_BND.flip(1)), head(tokens_BND))


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_of_every_frame_counts(kind):
    model = probe(kind)
    torch.nn.init.normal_(model.head.linear.weight)
    frames = torch.randn(1, 3, 2, 16, 16)
    frames.requires_grad_()
    model(frames)[0, 0].backward()
    assert (frames.grad.abs().amax(dim=(0, 1, 3, 4)) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_stored_and_found_again(kind, tmp_path):
    model, frames = probe(kind), torch.randn(1, 3, 2, 16, 16)
    description = ModelDescription(kind=kind, architecture="any", classes=5, **SIZES)
    save_model(tmp_path, model, description)
    again, _ = load_model(tmp_path)
    assert torch.equal(again(frames), model(frames))
    linear = build_model(kind, KINDS[kind], **SIZES, classes=5)
    with pytest.raises(ModelError, match=r"2 missing: head.weight, head.bias; 15 unexpected: head\."):
        start_from(linear, tmp_path)
    with pytest.raises(ValueError, match="no format has names for an attentive head"):
        export_avion(tmp_path, tmp_path / "out.pt")


def test_only_the_head_is_trained_where_the_tower_is_frozen():
    model = probe("video_classifier", head_dropout=0.5)
    model.freeze(["vision.*"])
    model.train()(torch.randn(2, 3, 2, 16, 16)).sum().backward()
    with_gradients = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert with_gradients == {name for name, _ in model.named_parameters() if name.startswith("head.")}


def test_a_linear_classifier_has_the_weights_it_always_had():
    named = build_model("video_classifier", DUAL, **SIZES, classes=5).state_dict()
    assert {name for name in named if not name.startswith("vision.")} == {"head.weight", "head.bias"}
