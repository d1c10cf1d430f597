"""Towers that a plug-in registers are trained, saved, measured, exported and read as our own are."""

import sys
from pathlib import Path

import pytest
import torch

from avion_core.config import StageSettings
from avion_core.data.tokenizer import TOKENIZERS
from avion_core.models import architecture
from avion_core.models.architecture import load_architecture, model_kind, parse_architecture
from avion_core.models.export import export_avion, export_open_clip
from avion_core.models.foreign import check_weights, start_from_foreign
from avion_core.models.sizes import measure
from avion_core.models.store import build_model, load_model, start_from
from avion_core.models.towers import TEXT_TOWERS, VISION_TOWERS
from avion_core.models.weights import ModelError
from avion_core.plugins import PLUGINS_VARIABLE, load_plugins
from tests.support.training import train

RECIPE = {
    "task": "contrastive",
    "dataset": "any",
    "model": "stub",
    "frames": 2,
    "image_size_px": 32,
    "epochs": 1,
    "batch_size": 4,
    "layer_decay": 0.9,
    "gradient_checkpointing": True,
}
CLASSIFICATION = {**RECIPE, "task": "classification", "label": "action", "waive_missing": ["head.*"]}
SIZES = {"frames": 2, "image_size_px": 32}


@pytest.fixture(scope="module", autouse=True)
def _plugin():
    with pytest.MonkeyPatch.context() as patch:
        for registry in (VISION_TOWERS, TEXT_TOWERS, TOKENIZERS):
            patch.setattr(registry, "_records", dict(registry._records))
        patch.setattr(architecture, "FOLDERS", [*architecture.FOLDERS])
        patch.syspath_prepend(Path(__file__).parent / "plugin")
        patch.setenv(PLUGINS_VARIABLE, "stub_towers")
        load_plugins([])
        yield
        for name in ("stub_towers", "stub_modules"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def pretrained(kitchen, tmp_path_factory):
    return train(kitchen, tmp_path_factory.mktemp("run") / "pretrain", RECIPE)


def test_a_plan_needs_the_fields_alone():
    settings = StageSettings.model_validate(RECIPE)
    assert model_kind(settings) == "dual_encoder"
    assert model_kind(StageSettings.model_validate(CLASSIFICATION)) == "video_classifier"
    with pytest.raises(ValueError, match="'stub' cannot leave out patches"):
        model_kind(settings.model_copy(update={"patch_dropout": 0.5}))
    assert (load_architecture("stub").context_length, load_architecture("stub").tokenizer) == (10, "bytes")


def test_what_is_written_names_the_tower_unless_it_is_clips():
    config = load_architecture("stub")
    written = config.model_dump(mode="json")
    assert written["vision"] == {"kind": "stub", "width": 16, "layers": 2, "heads": 2, "patch_px": 16}
    assert parse_architecture(written, where="here") == config
    assert "kind" not in load_architecture("toy_dual_encoder").model_dump()["vision"]
    explicit = {**written, "vision": {**written["vision"], "kind": "clip"}}
    assert parse_architecture(explicit, where="here").vision.kind == "clip"


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"kind": "stab"}, r"here: .*vision: .*unknown kind of vision tower 'stab'; did you mean 'stub'\?"),
        ({"wdith": 3}, "here: .*vision: .*wdith"),
        ({"heads": 3}, r"here: .*vision: .*heads \(3\) must divide the width \(16\)"),
    ],
)
def test_a_towers_bad_values_are_refused_by_name(vision, message):
    written = load_architecture("stub").model_dump()
    with pytest.raises(ValueError, match=message):
        parse_architecture({**written, "vision": {**written["vision"], **vision}}, where="here")


def test_both_models_are_trained_saved_and_loaded(kitchen, pretrained, tmp_path):
    model, description = load_model(pretrained)
    assert (description.kind, description.sampling) == ("dual_encoder", "segments")
    assert type(model.vision).__name__ == "StubVision"
    assert model.layer_of("vision.class_embedding") == 0
    assert [model.layer_of(f"vision.blocks.{i}.norm1.bias") for i in range(2)] == [1, 2]
    torch.manual_seed(0)
    fresh = build_model("dual_encoder", "stub", **SIZES).state_dict()
    assert not torch.equal(model.state_dict()["text.projection.weight"], fresh["text.projection.weight"])
    longer, _ = load_model(pretrained, frames=8)
    assert longer.vision.temporal_embedding.shape == (8, 16)
    classifier, description = load_model(train(kitchen, tmp_path, CLASSIFICATION, start=pretrained))
    assert (description.kind, classifier.head.weight.shape) == ("video_classifier", (9, 16))


def test_a_start_from_another_tower_is_refused(pretrained):
    other = load_architecture("toy_dual_encoder")
    with pytest.raises(ModelError, match=r"was made with vision.kind stub, this model has clip"):
        start_from(build_model("dual_encoder", other, **SIZES), pretrained, waive_missing=["*"])


def test_its_names_are_written_and_read(pretrained, tmp_path):
    out = tmp_path / "out.pt"
    export_avion(pretrained, out)
    theirs = torch.load(out, weights_only=False)["state_dict"]
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.items()}
    assert shapes["video_model.cls_token"] == (1, 1, 16)
    assert shapes["video_model.temporal_embed"] == (1, 2, 16)
    assert shapes["video_model.patch_embed.proj.weight"] == (16, 3, 16, 16)
    assert shapes["text_model.transformer.layer.0.attention.k_lin.weight"] == (8, 8)
    assert not any(name.startswith(("vision.", "text.")) for name in theirs)
    model, (source, _) = build_model("dual_encoder", "stub", **SIZES), load_model(pretrained)
    report = start_from_foreign(model, out)
    assert report.missing == report.unexpected == report.adapted == ()
    assert all(torch.equal(x, source.state_dict()[name]) for name, x in model.state_dict().items())
    longer = build_model("video_classifier", "stub", frames=4, image_size_px=32, classes=3)
    report = start_from_foreign(
        longer, out, waive_missing=["head.*"], waive_unexpected=["vision.projection.*"]
    )
    assert report.adapted == ("vision.temporal_embedding",)
    check_weights(StageSettings.model_validate({**RECIPE, "start_weights": str(out)}), out)


@pytest.mark.parametrize("other", [None, torch.zeros(()), torch.zeros(8, 8)])
def test_pieces_that_make_no_whole_are_named(pretrained, tmp_path, other):
    export_avion(pretrained, tmp_path / "out.pt")
    content = torch.load(tmp_path / "out.pt", weights_only=False)
    key = "text_model.transformer.layer.0.attention.k_lin.bias"
    content["state_dict"] |= {key: other}
    content["state_dict"] = {name: x for name, x in content["state_dict"].items() if x is not None}
    torch.save(content, tmp_path / "other.pt")
    unexpected = 2 if other is None else 3
    message = rf"1 missing: text.blocks.0.attn.qkv.bias; {unexpected} unexpected: .*q_lin.bias"
    with pytest.raises(ModelError, match=message):
        start_from_foreign(build_model("dual_encoder", "stub", **SIZES), tmp_path / "other.pt")


def test_a_format_without_its_names_is_refused(pretrained, tmp_path):
    with pytest.raises(ModelError, match=r"avion_flash has no names for this dual_encoder.*: avion"):
        export_avion(pretrained, tmp_path / "out.pt", flash=True)
    with pytest.raises(ModelError, match="open_clip has no names for this dual_encoder"):
        export_open_clip(pretrained, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_its_size_is_computed_without_running_it():
    size = measure("dual_encoder", "stub", **SIZES)
    with torch.device("meta"):
        model = build_model("dual_encoder", "stub", **SIZES)
    assert size.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert size.multiply_adds > 0 < size.checkpointed_bytes < size.activation_bytes
