"""Import of others' checkpoints: names, files, and files that are not what they say."""

import argparse
import warnings
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from avion_core.config import StageSettings
from avion_core.models.architecture import DualEncoderConfig, VideoMAEConfig
from avion_core.models.checkpoint_file import read_checkpoint
from avion_core.models.classifier import VideoClassifier
from avion_core.models.dual_encoder import DualEncoder
from avion_core.models.export import avion_state_dict
from avion_core.models.foreign import (
    check_weights,
    import_state_dict,
    our_name,
    start_from_foreign,
)
from avion_core.models.store import build_model
from avion_core.models.towers import TextConfig, VisionConfig
from avion_core.models.videomae import VideoMAE, VideoMAEClassifier
from avion_core.models.weights import ModelError, load_weights

CLIP = DualEncoderConfig(
    vision=VisionConfig(width=64, layers=2, heads=2, patch_px=8, norm_eps=1e-5),
    text=TextConfig(width=32, layers=2, heads=2, context_length=12, vocabulary=50),
    embed_dim=8,
    activation="quick_gelu",
)
MAE = VideoMAEConfig(
    width=24, layers=2, heads=2, patch_px=8, decoder_width=12, decoder_layers=1, decoder_heads=2
)
MODELS = {
    "dual_encoder": (CLIP, {}),
    "video_classifier": (CLIP, {"classes": 3}),
    "videomae": (MAE, {}),
    "videomae_classifier": (MAE, {"classes": 3}),
}


def open_clip_model(*, quick_gelu: bool = True) -> open_clip.CLIP:
    torch.manual_seed(0)
    return open_clip.CLIP(
        embed_dim=8,
        vision_cfg={"layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 16},
        text_cfg={"context_length": 12, "vocab_size": 50, "width": 32, "heads": 2, "layers": 2},
        quick_gelu=quick_gelu,
    ).eval()


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_one_frame_of_an_open_clip_model_gives_its_embeddings(quick_gelu):
    """An independent implementation with the same weights, QuickGELU included."""
    theirs = open_clip_model(quick_gelu=quick_gelu)
    config = CLIP.model_copy(update={"activation": "quick_gelu" if quick_gelu else "gelu"})
    model = DualEncoder(config, frames=1, image_size_px=16).eval()
    tensors = import_state_dict(theirs.state_dict(), model)
    report = load_weights(
        model,
        tensors,
        waive_missing=["vision.temporal_embedding"],
        waive_unexpected=["attn_mask"],
    )
    assert report.missing == ("vision.temporal_embedding",)
    image, tokens = torch.randn(2, 3, 16, 16), torch.tensor([[1, 7, 49, 0], [1, 8, 3, 49]])
    padded = torch.nn.functional.pad(tokens, (0, 8))
    torch.testing.assert_close(
        model.encode_video(image[:, :, None]), theirs.encode_image(image, normalize=True), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        model.encode_text(tokens), theirs.encode_text(padded, normalize=True), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("kind", "theirs", "ours"),
    [
        (
            "dual_encoder",
            "module.visual.transformer.resblocks.3.attn.Wqkv.weight",
            "vision.blocks.3.attn.qkv.weight",
        ),
        (
            "dual_encoder",
            "textual.transformer.resblocks.0.attn.in_proj_bias",
            "text.blocks.0.attn.qkv.bias",
        ),
        ("dual_encoder", "transformer.resblocks.0.mlp.c_proj.bias", "text.blocks.0.mlp.fc2.bias"),
        ("dual_encoder", "visual.proj", "vision.projection"),
        ("video_classifier", "fc_cls.weight", "head.weight"),
        ("dual_encoder", "_orig_mod.module.logit_scale", "logit_scale"),
        ("dual_encoder", "module._orig_mod.model.visual.proj", "vision.projection"),
        (
            "dual_encoder",
            "_fsdp_wrapped_module.visual.transformer.resblocks.0._checkpoint_wrapped_module._orig_mod.ln_1.bias",
            "vision.blocks.0.norm1.bias",
        ),
        ("videomae", "encoder.patch_embed.proj.weight", "encoder.patch.weight"),
        ("videomae", "encoder.norm.bias", "norm.bias"),
        ("videomae_classifier", "blocks.1.attn.out_proj.bias", "encoder.blocks.1.attn.proj.bias"),
        ("videomae_classifier", "something.else", "something.else"),
    ],
)
def test_names(kind, theirs, ours):
    config, arguments = MODELS[kind]
    with torch.device("meta"):
        model = build_model(kind, config, frames=4, image_size_px=16, **arguments)
    assert our_name(theirs, model) == ours


def tiny() -> DualEncoder:
    config = DualEncoderConfig(
        vision=VisionConfig(width=8, layers=1, heads=1, patch_px=8),
        text=TextConfig(width=8, layers=1, heads=1, vocabulary=9),
        embed_dim=4,
    )
    return DualEncoder(config, frames=1, image_size_px=8)


def test_two_weights_for_one_place_are_refused():
    tensor = torch.zeros(8, 4)
    with pytest.raises(ModelError, match=r"two of the given weights mean vision\.projection"):
        import_state_dict({"visual.proj": tensor, "visual.image_projection": tensor}, tiny())


def test_weights_of_eight_bits_are_read(tmp_path):
    tensors = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tiny().state_dict().items()}
    save_file(tensors, tmp_path / "c.safetensors")
    model = tiny()
    start_from_foreign(model, tmp_path / "c.safetensors")
    assert torch.equal(model.vision.projection, tensors["vision.projection"].float())


def publish_clip(path: Path, form: str) -> None:
    """The open_clip model above in one of the forms in which such models are published."""
    model = open_clip_model()
    if form == "safetensors":
        save_file(model.state_dict(), path)
    elif form == "torchscript":  # OpenAI's: half precision, and numbers beside the weights
        model.half().register_buffer("input_resolution", torch.tensor(16))
        given = torch.zeros(1, 3, 16, 16).half(), torch.ones(1, 12, dtype=torch.long)
        with warnings.catch_warnings(action="ignore"):
            torch.jit.save(torch.jit.trace(model, given, check_trace=False), path)
    else:
        torch.save({"state_dict": {f"module.{name}": t for name, t in model.state_dict().items()}}, path)


@pytest.mark.parametrize(
    ("name", "form"), [("c.safetensors", "safetensors"), ("c.pt", "torchscript"), ("c.pt", "module")]
)
def test_a_stage_starts_from_a_published_clip_in_each_of_its_forms(tmp_path, name, form):
    publish_clip(tmp_path / name, form)
    model = DualEncoder(CLIP, frames=4, image_size_px=24)
    temporal = model.vision.temporal_embedding.detach().clone()
    with pytest.raises(ModelError, match=r"1 missing: vision\.temporal_embedding"):
        start_from_foreign(model, str(tmp_path / name))
    report = start_from_foreign(model, str(tmp_path / name), waive_missing=["vision.temporal_embedding"])
    assert report.missing == ("vision.temporal_embedding",)
    assert report.adapted == ("vision.positional_embedding",)
    assert torch.equal(model.vision.temporal_embedding, temporal)
    theirs, places = open_clip_model(), 3 if form == "torchscript" else 6
    assert model.logit_scale.item() == pytest.approx(theirs.logit_scale.item(), rel=10**-places)
    wanted = theirs.visual.transformer.resblocks[1].mlp.c_fc.weight
    torch.testing.assert_close(model.vision.blocks[1].mlp.fc1.weight, wanted, atol=10**-places, rtol=1e-3)


def test_projections_and_temperature_begin_fresh_where_the_recipe_says_so(tmp_path):
    publish_clip(tmp_path / "c.safetensors", "safetensors")
    fresh, missing = ["*.projection", "logit_scale"], ["vision.temporal_embedding"]
    for embed_dim in (8, 6):  # CLIP's own size, and another
        config = CLIP.model_copy(update={"embed_dim": embed_dim})
        model = DualEncoder(config, frames=4, image_size_px=16, temperature=0.07)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        start_from_foreign(model, str(tmp_path / "c.safetensors"), fresh=fresh, waive_missing=missing)
        for name in ("vision.projection", "text.projection", "logit_scale"):
            assert torch.equal(model.state_dict()[name], before[name])
        assert not torch.equal(model.vision.patch.weight, before["vision.patch.weight"])


def test_a_projection_of_another_size_is_refused_unless_waived(tmp_path):
    publish_clip(tmp_path / "c.safetensors", "safetensors")
    model = DualEncoder(CLIP.model_copy(update={"embed_dim": 6}), frames=1, image_size_px=16)
    waived = ["vision.temporal_embedding"]
    with pytest.raises(ModelError, match=r"2 of another shape: vision\.projection \(64×8 for 64×6\), text"):
        start_from_foreign(model, str(tmp_path / "c.safetensors"), waive_missing=waived)
    start_from_foreign(model, str(tmp_path / "c.safetensors"), waive_missing=[*waived, "*.projection"])


def test_avions_checkpoint_starts_a_classifier_with_more_frames(tmp_path):
    source = DualEncoder(CLIP, frames=4, image_size_px=16)
    args = argparse.Namespace(lr=3e-5)
    tensors = {f"module.{name}": tensor for name, tensor in avion_state_dict(source, flash=True).items()}
    torch.save({"state_dict": tensors, "args": args, "epoch": 5}, tmp_path / "avion.pt")
    model = VideoClassifier(CLIP, classes=3, frames=16, image_size_px=16)
    report = start_from_foreign(model, str(tmp_path / "avion.pt"), waive_missing=["head.*"])
    assert report.adapted == ("vision.temporal_embedding",)
    assert report.unexpected == ()
    assert torch.equal(model.vision.blocks[1].attn.qkv.bias, source.vision.blocks[1].attn.qkv.bias)


@pytest.mark.parametrize("length", [6, 20])
def test_a_context_of_another_length_keeps_its_first_places(tmp_path, length):
    source = DualEncoder(CLIP, frames=4, image_size_px=16)
    torch.save({"state_dict": avion_state_dict(source)}, tmp_path / "avion.pt")
    other = CLIP.model_copy(update={"text": CLIP.text.model_copy(update={"context_length": length})})
    model = DualEncoder(other, frames=4, image_size_px=16)
    new = model.text.positional_embedding[12:].clone()
    assert start_from_foreign(model, str(tmp_path / "avion.pt")).adapted == ("text.positional_embedding",)
    assert torch.equal(model.text.positional_embedding[12:], new)
    tokens_BL = torch.tensor([[1, 7, 49, 0, 0, 0], [1, 8, 3, 9, 2, 49]])
    assert torch.equal(model.eval().encode_text(tokens_BL), source.eval().encode_text(tokens_BL))


def test_videomaes_pretraining_starts_its_classifier(tmp_path):
    source = VideoMAE(MAE, frames=4, image_size_px=16)
    torch.save({"model": avion_state_dict(source), "epoch": 799}, tmp_path / "checkpoint-799.pth")
    model = VideoMAEClassifier(MAE, classes=3, frames=4, image_size_px=16)
    start_from_foreign(model, str(tmp_path / "checkpoint-799.pth"), waive_missing=["head.*", "fc_norm.*"])
    assert torch.equal(model.encoder.patch.weight, source.encoder.patch.weight)
    assert torch.equal(model.encoder.blocks[1].mlp.fc2.weight, source.encoder.blocks[1].mlp.fc2.weight)


def test_a_class_list_that_does_not_match_the_head_is_one_clear_error(tmp_path):
    source = VideoMAEClassifier(MAE, classes=4, frames=4, image_size_px=16)
    torch.save({"module": avion_state_dict(source)}, tmp_path / "c.pth")
    model = VideoMAEClassifier(MAE, classes=3, frames=4, image_size_px=16)
    with pytest.raises(ModelError, match=r"2 of another shape: head\.weight \(4×24 for 3×24\), head\.bias"):
        start_from_foreign(model, str(tmp_path / "c.pth"))
    report = start_from_foreign(model, str(tmp_path / "c.pth"), waive_missing=["head.*"])
    assert report.missing == ("head.bias", "head.weight")


def test_weights_of_another_experiment_are_called_so(tmp_path):
    publish_clip(tmp_path / "c.safetensors", "safetensors")
    with pytest.raises(ModelError, match="none of its weights belongs to a videomae"):
        start_from_foreign(VideoMAE(MAE, frames=4, image_size_px=16), str(tmp_path / "c.safetensors"))
    torch.save({"state_dict": {"visual.blocks.0.timeattn.qkv.weight": torch.zeros(1)}}, tmp_path / "t.pt")
    with pytest.raises(ModelError, match="a TimeSformer such as LaViLa's"):
        start_from_foreign(tiny(), str(tmp_path / "t.pt"))


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_torchscript_archive_cut_short_is_one_clear_error(tmp_path, share):
    path = tmp_path / "cut.pt"
    publish_clip(path, "torchscript")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ModelError, match=r"cut\.pt: cut short"):
        read_checkpoint(path)


def stage(model: str = "toy_dual_encoder", task: str = "contrastive", **settings) -> StageSettings:
    common = {"task": task, "dataset": "ego4d", "model": model, "image_size_px": 64, "start_weights": "x.pt"}
    return StageSettings.model_validate({**common, **settings})


def published(path: Path, change=lambda tensors: tensors, *, kind: str = "dual_encoder", **arguments) -> Path:
    """A toy model in AVION's layout, changed."""
    model = build_model(kind, "toy_dual_encoder", **{"frames": 4, "image_size_px": 64, **arguments})
    torch.save({"state_dict": change(avion_state_dict(model))}, path)
    return path


CHANGES = {
    "as it is": (lambda tensors: tensors, None),
    "half": (lambda tensors: {name: tensor.half() for name, tensor in tensors.items()}, None),
    "a row of one number": (lambda tensors: {**tensors, "logit_scale": torch.ones(1)}, None),
    "one missing": (lambda tensors: dict(list(tensors.items())[1:]), r"1 missing: "),
    "one more": (lambda tensors: {**tensors, "extra": torch.zeros(1)}, "1 unexpected: extra"),
    "another shape": (lambda t: {**t, "visual.ln_pre.bias": torch.zeros(9)}, r"ln_pre\.bias \(9 for 192\)"),
    "integers": (
        lambda t: {**t, "visual.ln_pre.bias": torch.zeros(192, dtype=torch.int8)},
        r"1 not floating-point: vision\.ln_pre\.bias",
    ),
    "not a number": (
        lambda t: {**t, "visual.ln_pre.bias": t["visual.ln_pre.bias"] * float("nan")},
        r"1 with nan or inf in them: vision\.ln_pre\.bias",
    ),
    "too large": (
        lambda t: {**t, "visual.ln_pre.bias": torch.full((192,), 1e300, dtype=torch.float64)},
        r"1 with nan or inf in them: vision\.ln_pre\.bias",
    ),
    "another model": (
        lambda tensors: {"conv.weight": torch.zeros(3)},
        "none of its weights belongs to a dual",
    ),
    "twice": (
        lambda t: {**t, "module.logit_scale": torch.ones(())},
        "x.pt: two of the given weights mean logit",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_is_checked_as_it_would_be_read(tmp_path, name):
    change, message = CHANGES[name]
    path = published(tmp_path / "x.pt", change)
    model = build_model("dual_encoder", "toy_dual_encoder", frames=4, image_size_px=64)
    if message is None:
        check_weights(stage(), path)
        start_from_foreign(model, path)
        return
    for refuses in (lambda: check_weights(stage(), path), lambda: start_from_foreign(model, path)):
        with pytest.raises(ModelError, match=message):
            refuses()


def test_waived_and_fresh_weights_are_not_missed_in_the_check(tmp_path):
    def without_time(tensors):
        return {n: t for n, t in tensors.items() if n != "visual.temporal_embedding"} | {
            "extra": torch.ones(1)
        }

    path = published(tmp_path / "x.pt", without_time)
    with pytest.raises(ModelError, match=r"1 missing: vision\.temporal_embedding; 1 unexpected: extra"):
        check_weights(stage(), path)
    check_weights(stage(waive_missing=["vision.temporal_embedding"], waive_unexpected=["extra"]), path)
    check_weights(stage(start_fresh=["*.temporal_embedding"], waive_unexpected=["extra"]), path)


def test_the_check_knows_position_tables_biases_and_heads(tmp_path):
    path = published(tmp_path / "x.pt")
    check_weights(stage(frames=16, image_size_px=96), path)
    with pytest.raises(ModelError, match="1 missing: logit_bias"):
        check_weights(stage(loss="sigmoid"), path)
    with pytest.raises(ModelError, match="2 missing: head"):
        check_weights(stage(task="classification"), path)
    check_weights(stage(task="classification", waive_missing=["head.*"]), path)
    path = published(tmp_path / "c.pt", kind="video_classifier", classes=7)
    check_weights(stage(task="classification"), path)
    with pytest.raises(ModelError, match=r"head\.weight \(7×192 for 5×192\)"):
        check_weights(stage(task="classification"), path, classes={"label": 5})


def test_the_check_reads_all_heads_of_a_file_for_several_labels_and_one_for_a_single_label(tmp_path):
    def numbered(tensors):
        tower = {name: t for name, t in tensors.items() if "fc_cls" not in name}
        heads = {f"fc_cls.{place}.weight": torch.ones(count, 192) for place, count in enumerate((2, 3, 7))}
        return tower | heads | {name.replace("weight", "bias"): t[:, 0] for name, t in heads.items()}

    path = published(tmp_path / "c.pt", numbered, kind="video_classifier", classes=7)
    several = stage(task="classification", label="action", further_labels=["verb", "noun"])
    check_weights(several, path)
    check_weights(several, path, classes={"action": 7, "verb": 2, "noun": 3})
    with pytest.raises(ModelError, match=r"further_heads\.noun\.weight \(3×192 for 4×192\)"):
        check_weights(several, path, classes={"action": 7, "verb": 2, "noun": 4})
    check_weights(stage(task="classification", label="verb"), path, classes={"verb": 2})
    check_weights(stage(task="classification", label="action"), path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused_by_name(tmp_path, bad):
    path = published(tmp_path / "x.pt", lambda t: {**t, "logit_scale": torch.tensor(bad)})
    model = build_model("dual_encoder", "toy_dual_encoder", frames=4, image_size_px=64)
    with pytest.raises(ModelError, match=r"x\.pt: .*: 1 with nan or inf in them: logit_scale"):
        start_from_foreign(model, path)
    start_from_foreign(model, path, fresh=["logit_scale"])
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
