"""Import of others' checkpoints: names, files, and files that are not what they say."""

import argparse
import os
import pickle

import open_clip
import pytest
import torch

from avion_core.models.architecture import DualEncoderConfig, TextConfig, VisionConfig
from avion_core.models.dual_encoder import DualEncoder
from avion_core.models.foreign import import_state_dict, our_name, read_checkpoint
from avion_core.models.store import ModelError, load_weights


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_one_frame_of_an_open_clip_model_gives_its_embeddings(quick_gelu):
    """An independent implementation with the same weights, QuickGELU included."""
    torch.manual_seed(0)
    theirs = open_clip.CLIP(
        embed_dim=8,
        vision_cfg={"layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 16},
        text_cfg={"context_length": 12, "vocab_size": 50, "width": 32, "heads": 2, "layers": 2},
        quick_gelu=quick_gelu,
    ).eval()
    config = DualEncoderConfig(
        vision=VisionConfig(width=64, layers=2, heads=2, patch_px=8, norm_eps=1e-5),
        text=TextConfig(width=32, layers=2, heads=2, context_length=12, vocabulary=50),
        embed_dim=8,
        activation="quick_gelu" if quick_gelu else "gelu",
    )
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
    args = argparse.Namespace(lr=3e-5, betas=(0.9, 0.999), output_dir="out")
    torch.save({"epoch": 3, "state_dict": weights, "args": args, "optimizer": {}, "best_acc1": 1.5}, path)
    assert read_checkpoint(path)["module.logit_scale"].item() == 2.0


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    for name, write in {
        "new.pt": lambda path: torch.save({"state_dict": Trap()}, path),
        "old.pt": lambda path: path.write_bytes(pickle.dumps({"state_dict": Trap()}, protocol=2)),
    }.items():
        write(tmp_path / name)
        with pytest.raises(ModelError, match="not a checkpoint of weights alone"):
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
