"""Import of others' checkpoints: names, files, and files that are not what they say."""

import argparse
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from avion_core.models.architecture import DualEncoderConfig, TextConfig, VideoMAEConfig, VisionConfig
from avion_core.models.classifier import VideoClassifier
from avion_core.models.dual_encoder import DualEncoder
from avion_core.models.export import avion_state_dict
from avion_core.models.foreign import import_state_dict, our_name, read_checkpoint, start_from_foreign
from avion_core.models.store import ModelError, load_weights
from avion_core.models.videomae import VideoMAE, VideoMAEClassifier

CLIP = DualEncoderConfig(
    vision=VisionConfig(width=64, layers=2, heads=2, patch_px=8, norm_eps=1e-5),
    text=TextConfig(width=32, layers=2, heads=2, context_length=12, vocabulary=50),
    embed_dim=8,
    activation="quick_gelu",
)
MAE = VideoMAEConfig(
    width=24, layers=2, heads=2, patch_px=8, decoder_width=12, decoder_layers=1, decoder_heads=2
)


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
    torch.nn.init.zeros_(model.vision.temporal_embedding)
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
        ("videomae", "encoder.patch_embed.proj.weight", "encoder.patch.weight"),
        ("videomae", "encoder.norm.bias", "norm.bias"),
        ("videomae_classifier", "blocks.1.attn.out_proj.bias", "encoder.blocks.1.attn.proj.bias"),
        ("videomae_classifier", "something.else", "something.else"),
    ],
)
def test_names(kind, theirs, ours):
    assert our_name(theirs, kind) == ours


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


def test_a_training_checkpoint_with_a_namespace_is_read(tmp_path):
    weights = {"module.logit_scale": torch.tensor(2.0)}
    path = tmp_path / "checkpoint_best.pt"
    args = argparse.Namespace(lr=3e-5, betas=(0.9, 0.999), output_dir=Path("out"))
    torch.save({"epoch": 3, "state_dict": weights, "args": args, "optimizer": {}, "best_acc1": 1.5}, path)
    assert read_checkpoint(path)["module.logit_scale"].item() == 2.0


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])  # Python 3.13 says the second
@pytest.mark.parametrize("kind", ["PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"])
def test_paths_beside_the_weights_are_no_code(tmp_path, module, kind):
    path, weights = tmp_path / "checkpoint_best.pt", {"a": torch.tensor(2.0)}
    content = {"state_dict": weights, "args": argparse.Namespace(output_dir=Path("a/b"))}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"pathlib\nPosixPath", f"{module}\n{kind}".encode()))
    assert read_checkpoint(path) == weights


@pytest.mark.parametrize("core", ["_core", "core"])  # numpy 2 and numpy 1
def test_numbers_of_numpy_beside_the_weights_are_no_code(tmp_path, core):
    """A best accuracy is a mean that numpy took."""
    path, weights = tmp_path / "checkpoint_best.pt", {"a": torch.tensor(2.0)}
    numbers = {"best_acc1": np.float64(33.2), "epoch": np.int64(4), "good": np.bool_(True)}
    content = {"state_dict": weights, **numbers, "args": argparse.Namespace(lr=np.float32(3e-5))}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.", f"numpy.{core}.".encode()))
    assert read_checkpoint(path) == weights


@pytest.mark.parametrize("era", [1, 3])
def test_a_table_among_the_options_is_passed_over(tmp_path, era):
    """AVION's classifiers keep their actions so."""
    path, weights = tmp_path / "checkpoint_best.pt", {"a": torch.tensor(2.0)}
    names = pd.Index(["verb", "action"], dtype=object)
    actions = pd.DataFrame([[1, "1:3"], [2, "2:4"]], index=[5, 9], columns=names, dtype=object)
    args = argparse.Namespace(actions=actions, plain=actions.reset_index(drop=True))
    content = {"state_dict": weights, "args": args}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    if era == 1:
        old = {b"cpandas\nDataFrame": b"cpandas.core.frame\nDataFrame", b"numpy._core.": b"numpy.core."}
        old |= {b"cpandas\nIndex": b"cpandas.core.indexes.base\nIndex"}
        old |= {b"cpandas\nRangeIndex": b"cpandas.core.indexes.range\nRangeIndex"}
        for new_name, old_name in old.items():
            assert new_name in path.read_bytes()
            path.write_bytes(path.read_bytes().replace(new_name, old_name))
    assert read_checkpoint(path) == weights


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    for name, write in {
        "new.pt": lambda path: torch.save({"state_dict": Trap()}, path),
        "old.pt": lambda path: path.write_bytes(pickle.dumps({"state_dict": Trap()}, protocol=2)),
    }.items():
        write(tmp_path / name)
        with pytest.raises(ModelError, match=r"not a checkpoint of weights alone \(it calls .*mkdir\)"):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept", [0, 10, 400])
def test_a_checkpoint_cut_short_is_one_clear_error(tmp_path, kept):
    path = tmp_path / "cut.pt"
    torch.save({"state_dict": {"a": torch.zeros(100)}}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"cut\.pt: cut short") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_file_without_weights_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match="holds no weights"):
        read_checkpoint(tmp_path / "a.pt")
    with pytest.raises(ModelError, match="no such file"):
        read_checkpoint(tmp_path / "b.pt")


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


def test_a_model_is_fetched_by_open_clips_name(tmp_path, monkeypatch):
    publish_clip(tmp_path / "c.safetensors", "safetensors")
    asked = []
    monkeypatch.setattr(
        open_clip, "download_pretrained", lambda c: asked.append(c) or str(tmp_path / "c.safetensors")
    )
    model = DualEncoder(CLIP, frames=1, image_size_px=16)
    start_from_foreign(model, "open_clip:ViT-B-16/openai", waive_missing=["vision.temporal_embedding"])
    assert asked == [open_clip.get_pretrained_cfg("ViT-B-16", "openai")]
    assert torch.equal(model.vision.class_embedding, open_clip_model().visual.class_embedding)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B16/openai", "model: unknown name 'ViT-B16'; did you mean 'ViT-B-16'"),
        ("ViT-B-16/opanai", "tag: unknown name 'opanai'; did you mean 'openai'"),
        ("ViT-B-16", "tag: unknown name ''; known: .*openai"),
    ],
)
def test_a_name_that_open_clip_does_not_know_is_one_clear_error(name, message):
    with pytest.raises(ModelError, match=message):
        start_from_foreign(tiny(), f"open_clip:{name}")


def test_a_download_that_fails_says_what_to_do(monkeypatch):
    def fails(config):
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(open_clip, "download_pretrained", fails)
    with pytest.raises(ModelError, match=r"cannot be downloaded \(no route to host\); fetch the file"):
        start_from_foreign(tiny(), "open_clip:ViT-B-16/openai")


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


def test_lavilas_names_have_a_text_tower_without_a_prefix(tmp_path):
    source, model = (DualEncoder(CLIP, frames=4, image_size_px=16) for _ in range(2))
    tensors = {
        "module."
        + name.removeprefix("textual.").replace("visual.image_projection", "image_projection"): tensor
        for name, tensor in avion_state_dict(source).items()
    }
    assert {"module.text_projection", "module.image_projection", "module.ln_final.bias"} < tensors.keys()
    torch.save({"state_dict": tensors, "args": argparse.Namespace(lr=3e-5)}, tmp_path / "lavila.pt")
    start_from_foreign(model, str(tmp_path / "lavila.pt"))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in source.state_dict().items())


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
    with pytest.raises(ModelError, match="LaViLa's TimeSformer"):
        start_from_foreign(tiny(), str(tmp_path / "t.pt"))


def test_a_torchscript_archive_with_code_for_loading_is_refused(tmp_path):
    class Trap(torch.nn.Module):
        @torch.jit.export
        def __getstate__(self):
            return 1

        @torch.jit.export
        def __setstate__(self, state: int) -> None:
            self.training = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(Trap()), tmp_path / "trap.pt")
    with pytest.raises(ModelError, match="runs code when it is loaded"):
        read_checkpoint(tmp_path / "trap.pt")


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_torchscript_archive_cut_short_is_one_clear_error(tmp_path, share):
    path = tmp_path / "cut.pt"
    publish_clip(path, "torchscript")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ModelError, match=r"cut\.pt: cut short"):
        read_checkpoint(path)
