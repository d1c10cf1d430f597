"""timm's Perception Encoder as a vision tower: its outputs, its weights in and out, its place in models."""

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from avion_core.models.architecture import (
    DualEncoderConfig,
    NarratorConfig,
    load_architecture,
    parse_architecture,
)
from avion_core.models.foreign import start_from_foreign
from avion_core.models.layers import set_checkpointing
from avion_core.models.names import to_theirs
from avion_core.models.sizes import measure
from avion_core.models.store import build_model

NAME = "vit_pe_core_tiny_patch16_384"
VISION = {"kind": "timm", "name": NAME, "width": 32, "layers": 2, "heads": 2, "patch_px": 8}
TEXT = {"width": 16, "layers": 1, "heads": 2, "context_length": 8, "vocabulary": 20}
DUAL = DualEncoderConfig.model_validate({"vision": VISION, "text": TEXT, "embed_dim": 8})
SIZES = {"frames": 3, "image_size_px": 16}
TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 16, "num_classes": 0}


@pytest.fixture(scope="module")
def image_model():
    torch.manual_seed(0)
    return timm.create_model(NAME, **TINY).eval()


@pytest.fixture(scope="module")
def file(image_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("timm") / "model.safetensors"
    save_file(image_model.state_dict(), path)
    return path


def clip(batch=2):
    return torch.randn(batch, 3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_a_clip_is_the_mean_of_timms_frames(image_model, file):
    model = build_model("video_classifier", DUAL, **SIZES, classes=4).eval()
    start_from_foreign(model, file, waive_missing=["head.*"])
    frames = clip()
    with torch.no_grad():
        wanted = torch.stack([image_model(frames[:, :, t]) for t in range(3)]).mean(0)
        tokens = [image_model.forward_features(frames[:, :, t]) for t in range(3)]
        torch.testing.assert_close(model.vision(frames), wanted, rtol=0, atol=1e-5)
        torch.testing.assert_close(model.vision.tokens(frames), torch.cat(tokens, 1), rtol=0, atol=1e-5)


def test_timms_weights_come_in_and_go_out_bit_for_bit(file):
    waived = ["vision.projection", "text.*", "logit_scale"]
    model = build_model("dual_encoder", DUAL, **SIZES)
    start_from_foreign(model, file, waive_missing=waived)
    parts = [part for part in model.names(DUAL) if part.prefix == "vision."]
    tower = {n: x for n, x in model.state_dict().items() if n.startswith("vision.encoder.")}
    out, given = to_theirs(tower, parts, "timm"), load_file(file)
    assert out.keys() == given.keys()
    assert all(torch.equal(out[name], given[name]) for name in given)


@pytest.mark.parametrize("kind", ["dual_encoder", "video_classifier", "attentive", "narrator"])
def test_every_model_trains_with_it_and_recomputes_its_blocks(kind):
    config, arguments = DUAL, {"classes": 4} if kind in ("video_classifier", "attentive") else {}
    if kind == "attentive":
        kind, arguments = "video_classifier", {**arguments, "head": "attentive"}
    if kind == "narrator":
        language = {**TEXT, "positions": 8, "begin_token": 1, "end_token": 2}
        config = NarratorConfig.model_validate(
            {"vision": VISION, "language_model": language, "queries": 2, "pool_heads": 2}
        )
    model = build_model(kind, config, **SIZES, **arguments)
    gradients = []
    for checkpointing in (False, True):
        set_checkpointing(model, checkpointing)
        model.zero_grad()
        if kind == "video_classifier":
            model(clip()).square().sum().backward()
        else:
            output = model(clip(), torch.tensor([[1, 5, 3, 2], [1, 4, 2, 0]]))
            (output if kind == "narrator" else output[0] @ output[1].T).square().sum().backward()
        gradients.append({n: w.grad for n, w in model.named_parameters() if w.grad is not None})
    torch.testing.assert_close(gradients[0], gradients[1])
    assert any(name.startswith("vision.encoder.blocks.0.") for name in gradients[0]) == (kind != "narrator")
    size = measure(kind, config, **SIZES, **arguments)
    assert size.multiply_adds > 0
    if kind != "narrator":
        assert size.checkpointed_bytes < size.activation_bytes
        frozen = measure(kind, config, **SIZES, **arguments, freeze=["vision.*"])
        assert frozen.activation_bytes < 0.5 * size.activation_bytes


def test_layers_are_counted_as_in_other_towers():
    model = build_model("video_classifier", DUAL, **SIZES, classes=4)
    layers = {name: model.layer_of(name) for name, _ in model.named_parameters()}
    assert layers["vision.encoder.pos_embed"] == layers["vision.encoder.patch_embed.proj.weight"] == 0
    assert [layers[f"vision.encoder.blocks.{i}.norm1.bias"] for i in range(2)] == [1, 2]
    assert layers["vision.encoder.norm.weight"] == layers["head.weight"] == 3
    assert {"vision.encoder.pos_embed", "vision.encoder.cls_token"} <= model.no_decay()


def test_deeper_blocks_are_dropped_more_often():
    model = build_model("video_classifier", DUAL, **SIZES, classes=4, drop_path=0.4)
    assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.vision.blocks] == pytest.approx(
        [0, 0.4]
    )


def test_the_base_model_is_timms():
    with torch.device("meta"):
        ours = build_model("video_classifier", "pe_core_b_16", frames=2, image_size_px=224, classes=1)
        theirs = timm.create_model("vit_pe_core_base_patch16_224", num_classes=0)
    shapes = {f"vision.encoder.{name}": x.shape for name, x in theirs.state_dict().items()}
    assert {n: x.shape for n, x in ours.state_dict().items() if n.startswith("vision.")} == shapes
    config = load_architecture("pe_core_b_16")
    assert config.pixel_mean == tuple(255 * x for x in theirs.default_cfg["mean"])
    assert config.pixel_std == tuple(255 * x for x in theirs.default_cfg["std"])


@pytest.mark.parametrize(
    ("vision", "changes", "message"),
    [
        ({"name": "vit_pe_core_bse_patch16_224"}, {}, "timm has no model.*vit_pe_core_base_patch16_224"),
        ({}, {"patch_dropout": 0.5}, "patch_dropout"),
    ],
)
def test_what_it_cannot_do_is_refused(vision, changes, message):
    config = DualEncoderConfig.model_validate({"vision": {**VISION, **vision}, "text": TEXT, "embed_dim": 8})
    with pytest.raises(ValueError, match=message):
        build_model("dual_encoder", config, **SIZES, **changes)


def test_another_activation_is_refused_with_its_architecture():
    raw = {"kind": "dual_encoder", "vision": VISION, "text": TEXT, "embed_dim": 8, "activation": "quick_gelu"}
    with pytest.raises(ValueError, match=r"^mine: .*: the tower timm has gelu only"):
        parse_architecture(raw, where="mine")
