"""Model folders: exact round trips, starts from other stages, and clear errors for what does not fit."""

import json

import pytest
import torch

from avion_core.models.architecture import DualEncoderConfig, VideoMAEConfig
from avion_core.models.positions import interpolate_frames, interpolate_places
from avion_core.models.store import ModelDescription, build_model, load_model, save_model, start_from
from avion_core.models.towers import TextConfig, VisionConfig
from avion_core.models.weights import ModelError, load_weights

DUAL = DualEncoderConfig(
    vision=VisionConfig(width=24, layers=2, heads=2, patch_px=8),
    text=TextConfig(width=16, layers=1, heads=2, context_length=12, vocabulary=50),
    embed_dim=8,
)
MAE = VideoMAEConfig(
    width=24, layers=2, heads=2, patch_px=8, decoder_width=12, decoder_layers=1, decoder_heads=2
)
SIZES = {"frames": 4, "image_size_px": 16}


def saved(folder, kind="dual_encoder", config=DUAL, seed=0, **arguments):
    torch.manual_seed(seed)
    model = build_model(kind, config, **{**SIZES, **arguments})
    sizes = {"frames": model.frames, "image_size_px": model.image_size_px}
    seen = {"task": "any", "sampling": "window", "stride": 3}
    classes = arguments.get("classes", 0)
    save_model(folder, model, ModelDescription(kind, "tiny", **sizes, classes=classes, **seen))
    return model


@pytest.mark.parametrize(
    ("kind", "config", "heads"),
    [
        ("dual_encoder", DUAL, {}),
        ("dual_encoder", DUAL, {"logit_bias": -3.0}),
        ("dual_encoder", DUAL, {"narrated_temperature": 0.2}),
        ("video_classifier", DUAL, {"classes": 5}),
        ("videomae", MAE, {}),
        ("videomae_classifier", MAE, {"classes": 5}),
    ],
)
def test_round_trip_is_exact(tmp_path, kind, config, heads):
    model = saved(tmp_path / "m", kind, config, **heads)
    loaded, description = load_model(tmp_path / "m")
    assert not loaded.training
    assert (description.kind, description.classes) == (kind, heads.get("classes", 0))
    assert (description.task, description.sampling, description.stride) == ("any", "window", 3)
    assert loaded.config == model.config
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["model.json", "model.safetensors"]


def test_a_description_of_an_earlier_version_is_read(tmp_path):
    """It kept under `extras` how frames were sampled."""
    saved(tmp_path)
    path = tmp_path / "model.json"
    now = json.loads(path.read_text())
    extras = {name: now.pop(name) for name in ("task", "sampling", "stride")}
    path.write_text(json.dumps({**now, "extras": {**extras, "note": "any"}}))
    _, description = load_model(tmp_path)
    assert (description.task, description.sampling, description.stride) == ("any", "window", 3)
    path.write_text(json.dumps({**now, "extras": {}}))
    _, description = load_model(tmp_path)
    assert (description.task, description.sampling, description.stride) == ("", None, None)


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_file_cut_short_is_one_clear_error(tmp_path, kept):
    saved(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(
        ModelError, match=r"model\.safetensors: cut short or not a safetensors file"
    ) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a model description"),
        ('{"kind": "dual_encoder"}', "not a model description"),
        ('{"config": {"kind": "resnet"}}', "not a known architecture"),
    ],
)
def test_a_bad_description_is_one_clear_error(tmp_path, content, message):
    saved(tmp_path)
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(tmp_path)
    assert "model.json" in str(caught.value)


def test_an_unknown_kind_is_refused(tmp_path):
    saved(tmp_path)
    path = tmp_path / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "kind": "dual_encoders"}))
    with pytest.raises(ValueError, match="did you mean 'dual_encoder'"):
        load_model(tmp_path)


def test_an_empty_folder_says_what_is_missing(tmp_path):
    with pytest.raises(ModelError, match=r"no model\.json here"):
        load_model(tmp_path)
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors: no such file"):
        load_model(tmp_path)


def test_the_same_encoder_starts_with_more_frames(tmp_path):
    source = saved(tmp_path)
    model = build_model("dual_encoder", DUAL, frames=16, image_size_px=16)
    report = start_from(model, tmp_path)
    assert report.adapted == ("vision.temporal_embedding",)
    wanted = torch.nn.functional.interpolate(
        source.vision.temporal_embedding.detach()[None, None], size=(16, 24), mode="bilinear"
    )[0, 0]
    torch.testing.assert_close(model.vision.temporal_embedding.detach(), wanted)
    assert torch.equal(model.vision.projection, source.vision.projection)


def test_frames_are_interpolated_linearly_by_hand():
    table = torch.tensor([[0.0, 8.0], [4.0, 0.0]])
    wanted = torch.tensor([[0.0, 8.0], [1.0, 6.0], [3.0, 2.0], [4.0, 0.0]])
    torch.testing.assert_close(interpolate_frames(table, torch.empty(4, 2)), wanted)


def test_places_keep_the_class_row_and_a_constant_stays_constant():
    table = torch.cat([torch.full((1, 3), 9.0), torch.full((4, 3), 2.0)])
    wider = interpolate_places(table, torch.empty(1 + 9, 3))
    torch.testing.assert_close(wider, torch.cat([table[:1], torch.full((9, 3), 2.0)]))
    ramp = torch.arange(16.0).view(4, 4)
    table = torch.cat([torch.zeros(1, 1), ramp.reshape(-1, 1)])
    grid = interpolate_places(table, torch.empty(1 + 64, 1))[1:].view(8, 8)
    assert (grid.diff(dim=0) > 0).all()
    assert (grid.diff(dim=1) > 0).all()


def test_places_are_resized_bicubically_and_smoothed_before_they_shrink():
    def resized(grid, side):
        table = torch.cat([torch.zeros(1, 1), grid.reshape(-1, 1)])
        return interpolate_places(table, torch.empty(1 + side**2, 1))[1:].view(side, side)

    point = torch.zeros(8, 8)
    point[4, 4] = 1.0
    assert resized(point, 16).min() < 0  # which nothing linear has
    stripes = torch.tensor([0.0, 1.0]).repeat(8).expand(16, 16)
    inner = resized(stripes, 5)[:, 1:-1]  # which takes every third column as it is
    torch.testing.assert_close(inner, torch.full_like(inner, 0.5), rtol=0, atol=0.1)


def test_a_model_loads_at_another_size(tmp_path):
    saved(tmp_path)
    model, description = load_model(tmp_path, frames=8, image_size_px=32)
    assert (description.frames, description.image_size_px) == (8, 32)
    assert model.encode_video(torch.zeros(1, 3, 8, 32, 32)).shape == (1, 8)


def test_a_shorter_context_takes_the_first_rows(tmp_path):
    source = saved(tmp_path)
    short = DUAL.model_copy(update={"text": DUAL.text.model_copy(update={"context_length": 6})})
    model = build_model("dual_encoder", short, **SIZES)
    start_from(model, tmp_path)
    tokens = torch.tensor([[1, 7, 49, 0, 0, 0]])
    torch.testing.assert_close(model.encode_text(tokens), source.encode_text(tokens))


def test_a_classifier_takes_the_vision_tower_and_waives_its_head(tmp_path):
    source = saved(tmp_path)
    model = build_model("video_classifier", DUAL, classes=5, **SIZES)
    head = model.head.weight.detach().clone()
    with pytest.raises(ModelError, match=r"2 missing: head\.weight, head\.bias"):
        start_from(model, tmp_path)
    report = start_from(model, tmp_path, waive_missing=["head.*"])
    assert report.missing == ("head.bias", "head.weight")
    assert torch.equal(model.head.weight, head)
    tower = source.vision.state_dict()
    assert all(torch.equal(tensor, tower[name]) for name, tensor in model.vision.state_dict().items())


def test_a_videomae_classifier_takes_the_encoder(tmp_path):
    source = saved(tmp_path, "videomae", MAE)
    model = build_model("videomae_classifier", MAE, classes=5, **SIZES)
    with pytest.raises(ModelError, match="4 missing"):
        start_from(model, tmp_path)
    start_from(model, tmp_path, waive_missing=["head.*", "fc_norm.*"])
    tower = source.encoder.state_dict()
    assert all(torch.equal(tensor, tower[name]) for name, tensor in model.encoder.state_dict().items())


def test_kinds_that_do_not_fit_are_refused(tmp_path):
    saved(tmp_path, "videomae", MAE)
    model = build_model("video_classifier", DUAL, classes=5, **SIZES)
    with pytest.raises(
        ModelError, match="cannot start from a videomae; it can from: video_classifier, dual_encoder"
    ):
        start_from(model, tmp_path)


def test_another_activation_is_noticed_although_the_shapes_fit(tmp_path):
    saved(tmp_path)
    model = build_model("dual_encoder", DUAL.model_copy(update={"activation": "quick_gelu"}), **SIZES)
    with pytest.raises(ModelError, match="made with activation gelu, this model has quick_gelu"):
        start_from(model, tmp_path)


def test_everything_that_differs_is_listed_and_nothing_is_loaded():
    model = build_model("dual_encoder", DUAL, **SIZES)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {name: tensor + 1 for name, tensor in before.items()}
    del tensors["text.ln_final.bias"]
    tensors["vision.projection"] = torch.zeros(24, 9)
    tensors["extra"] = torch.zeros(1)
    with pytest.raises(ModelError) as caught:
        load_weights(model, tensors, source="somewhere")
    assert str(caught.value) == (
        "somewhere: its weights do not fit this dual_encoder: 1 missing: text.ln_final.bias; "
        "1 unexpected: extra; 1 of another shape: vision.projection (24×9 for 24×8)"
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(ModelError, match=r"name them in waive_missing and waive_unexpected$"):
        load_weights(model, tensors, is_start=True)
    waived = ["text.ln_final.*", "vision.projection"]
    report = load_weights(model, tensors, waive_missing=waived, waive_unexpected=["ext*"])
    assert report.missing == ("text.ln_final.bias", "vision.projection")
    assert report.unexpected == ("extra",)
    assert torch.equal(model.state_dict()["text.ln_final.weight"], tensors["text.ln_final.weight"])
    assert torch.equal(model.vision.projection, before["vision.projection"])


def test_weights_of_something_else_are_called_so():
    model = build_model("dual_encoder", DUAL, **SIZES)
    with pytest.raises(ModelError, match="none of its weights belongs to a dual_encoder"):
        load_weights(model, {"conv.weight": torch.zeros(3)})


def test_a_description_of_another_kind_is_not_saved(tmp_path):
    model = build_model("dual_encoder", DUAL, **SIZES)
    with pytest.raises(ValueError, match="the description says 'videomae'"):
        save_model(tmp_path, model, ModelDescription("videomae", "tiny", 4, 16))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("vision.patch.weight", None, "1 missing: vision.patch.weight"),
        ("extra", torch.zeros(1), "1 unexpected: extra"),
        ("vision.ln_pre.bias", torch.zeros(9), "1 of another shape: vision.ln_pre.bias"),
    ],
)
def test_any_one_difference_fails(name, change, message):
    model = build_model("dual_encoder", DUAL, **SIZES)
    tensors = {
        key: tensor for key, tensor in {**model.state_dict(), name: change}.items() if tensor is not None
    }
    with pytest.raises(ModelError, match=message):
        load_weights(model, tensors)
