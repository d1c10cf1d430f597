"""The TimeSformer's properties, and LaViLa's and EgoVLP's files in and out."""

import argparse
import sys
import types
from collections import OrderedDict
from pathlib import Path

import open_clip
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from avion_core.models.architecture import DualEncoderConfig
from avion_core.models.distilbert import DistilBert
from avion_core.models.dual_encoder import DualEncoder
from avion_core.models.export import _named, export_avion, export_egovlp, export_lavila, export_open_clip
from avion_core.models.foreign import import_state_dict, our_name, start_from_foreign
from avion_core.models.layers import compile_blocks
from avion_core.models.names import Part, to_theirs
from avion_core.models.store import ModelDescription, build_model, save_model
from avion_core.models.timesformer import TimeSformer
from avion_core.models.towers import DistilBertConfig, TextConfig, TimeSformerConfig
from avion_core.models.weights import ModelError, load_weights
from avion_core.train.optim import parameter_groups
from tests.support.compiling import trace_only

ROOT = Path(__file__).parents[3]

VISION = TimeSformerConfig(width=32, layers=2, heads=2, patch_px=8)
LAVILA = DualEncoderConfig(
    vision=VISION,
    text=TextConfig(width=24, layers=2, heads=2, context_length=12, vocabulary=50),
    embed_dim=8,
    activation="quick_gelu",
)
EGOVLP = DualEncoderConfig(
    vision=VISION.model_copy(
        update={"ln_pre_eps": None, "patch_bias": True, "more_frames": "zeros", "projection": "linear"}
    ),
    text=DistilBertConfig(
        width=24, layers=2, heads=2, hidden=40, places=16, context_length=12, vocabulary=50,
        projection="relu_linear",
    ),
    embed_dim=8,
)  # fmt: skip
SIZES = {"frames": 4, "image_size_px": 16}
FROM_IMAGES = ["vision.temporal_embedding", "vision.blocks.*.norm3.*", "vision.blocks.*.timeattn.*"]
"""What weights of an image model lack."""
TOKENS = torch.tensor([[1, 7, 49, 0, 0], [1, 8, 3, 4, 49]])


def clips(frames: int = 4, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, frames, 16, 16, generator=torch.Generator().manual_seed(1))


def with_random_weights(model: nn.Module) -> nn.Module:
    """Also where a fresh model has zeros and ones."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def tower(**fields) -> TimeSformer:
    config = VISION.model_copy(update=fields)
    return TimeSformer(config, frames=4, image_size_px=16, activation="gelu")


def open_clip_model() -> open_clip.CLIP:
    torch.manual_seed(0)
    vision = {"layers": 3, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 16}
    text = {"context_length": 12, "vocab_size": 50, "width": 24, "heads": 2, "layers": 2}
    return open_clip.CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval()


def started_from_clip(path: Path, *, frames: int) -> DualEncoder:
    """A fresh TimeSformer with the weights of the model above, whose layer norms have epsilon 1e-5."""
    vision = VISION.model_copy(update={"width": 64, "layers": 3, "norm_eps": 1e-5})
    config = LAVILA.model_copy(update={"vision": vision})
    model = DualEncoder(config, frames=frames, image_size_px=16).eval()
    torch.save(open_clip_model().state_dict(), path)
    fresh = ["*.projection", "logit_scale"]
    report = start_from_foreign(model, path, fresh=fresh, waive_missing=FROM_IMAGES)
    assert report.adapted == report.unexpected == ()
    return model


def test_one_frame_of_a_tower_that_starts_from_clip_is_clips_image(tmp_path):
    model, theirs = started_from_clip(tmp_path / "clip.pt", frames=1), open_clip_model()
    frames = clips(1)
    theirs.visual.proj = None
    wanted = theirs.visual(frames[:, :, 0])
    torch.testing.assert_close(model.vision.tokens(frames)[:, 0], wanted, atol=1e-5, rtol=0)
    several = started_from_clip(tmp_path / "clip.pt", frames=4)
    repeated = several.vision.tokens(frames.expand(-1, -1, 4, -1, -1))[:, 0]
    assert (repeated - wanted).abs().max() > 1e-3  # not with more frames, even equal ones


def test_one_frame_of_a_tower_that_starts_from_timms_image_model_is_its_image(tmp_path):
    """As EgoVLP starts; timm's layer norms have EgoVLP's epsilon."""
    torch.manual_seed(0)
    theirs = timm.models.VisionTransformer(
        img_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=3
    ).eval()
    model = DualEncoder(EGOVLP, frames=1, image_size_px=16).eval()
    torch.save(theirs.state_dict(), tmp_path / "vit.pt")
    missing = [*FROM_IMAGES, "*.projection.*", "logit_scale"]
    with pytest.raises(ModelError, match=r"vit\.pt: .* missing: text\."):
        start_from_foreign(model, tmp_path / "vit.pt", waive_missing=missing, waive_unexpected=["head.*"])
    texts = with_random_weights(DualEncoder(EGOVLP, **SIZES)).text
    save_file(as_transformers_saves(texts), tmp_path / "bert.safetensors")
    files, unexpected = (tmp_path / "vit.pt", tmp_path / "bert.safetensors"), ["head.*", "vocab_*"]
    report = start_from_foreign(model, *files, waive_missing=missing, waive_unexpected=unexpected)
    assert set(report.unexpected) == {"head.weight", "head.bias", "vocab_projector.bias"}
    frames = clips(1)
    wanted = theirs.forward_features(frames[:, :, 0])
    torch.testing.assert_close(model.vision.tokens(frames), wanted, atol=3e-6, rtol=0)
    for name, tensor in texts.state_dict().items():
        assert torch.equal(model.text.state_dict()[name], tensor) or name.startswith("projection."), name


def as_transformers_saves(tower: nn.Module) -> dict[str, Tensor]:
    """DistilBERT with the head of its pretraining, under the names of the package transformers."""
    part = Part("", {"transformers": DistilBert.names(EGOVLP.text)["transformers"]})
    weights = {name: t for name, t in tower.state_dict().items() if not name.startswith("projection.")}
    return to_theirs(weights, [part], "transformers") | {"vocab_projector.bias": torch.zeros(3)}


def test_the_names_of_transformers_are_those_of_its_files():
    names = as_transformers_saves(DualEncoder(EGOVLP, **SIZES).text).keys()
    assert {
        "distilbert.embeddings.word_embeddings.weight",
        "distilbert.embeddings.position_embeddings.weight",
        "distilbert.embeddings.LayerNorm.bias",
        "distilbert.transformer.layer.0.attention.q_lin.weight",
        "distilbert.transformer.layer.0.attention.out_lin.bias",
        "distilbert.transformer.layer.1.sa_layer_norm.weight",
        "distilbert.transformer.layer.1.ffn.lin2.weight",
        "distilbert.transformer.layer.1.output_layer_norm.bias",
    } < names
    assert all(name.startswith(("distilbert.", "vocab_")) for name in names)


def test_two_files_with_the_same_weight_are_refused(tmp_path):
    for name in ("a.pt", "b.pt"):
        torch.save({"module.vid_proj.0.bias": torch.zeros(8)}, tmp_path / name)
    with pytest.raises(ModelError, match=r"b\.pt: has module\.vid_proj\.0\.bias, as another file"):
        start_from_foreign(DualEncoder(EGOVLP, **SIZES), tmp_path / "a.pt", tmp_path / "b.pt")


@pytest.mark.parametrize("layers", [1, 2])
def test_frames_meet_in_the_class_token_first_and_in_the_patches_from_the_second_block_on(tmp_path, layers):
    vision = started_from_clip(tmp_path / "clip.pt", frames=4).vision
    vision.blocks = vision.blocks[:layers]
    frames = clips()
    changed = frames.clone()
    changed[:, :, 3] += 1
    before, after = vision.tokens(frames), vision.tokens(changed)
    patches = slice(1, 1 + 4)  # of frame 0
    assert (before[:, 0] - after[:, 0]).abs().max() > 1e-3
    gap = (before[:, patches] - after[:, patches]).abs().max()
    assert gap < 1e-6 if layers == 1 else gap > 1e-3


def test_time_attention_is_off_the_residual_stream():
    block = with_random_weights(tower()).blocks[0]
    tokens = torch.randn(2, 1 + 4 * 4, 32)
    assert not torch.allclose(block(tokens), tokens)
    for layer in (block.attn.proj, block.mlp.fc2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert torch.equal(block(tokens), tokens)


def test_the_embedding_is_the_first_token_with_its_gradients():
    vision = with_random_weights(tower())
    gradients = []
    for read in (lambda frames: vision.tokens(frames)[:, 0], vision):
        vision.zero_grad()
        read(clips()).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in vision.named_parameters()})
    torch.testing.assert_close(vision.tokens(clips())[:, 0], vision(clips()))
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], atol=1e-4, rtol=1e-4)


def test_compiled_blocks_are_one_graph_with_the_same_gradients(monkeypatch):
    vision = with_random_weights(tower())

    def once() -> list[Tensor]:
        tokens = vision.tokens(clips())
        return [tokens.detach(), *torch.autograd.grad(tokens.square().sum(), list(vision.parameters()))]

    plain = once()
    trace_only(monkeypatch)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compile_blocks(vision)
    torch.testing.assert_close(once(), plain, atol=1e-3, rtol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_fresh_time_attention_is_at_a_saddle():
    """As published: its values are learned; its queries and keys have no gradient."""
    vision = tower()
    vision.tokens(clips()).square()[..., 0].sum().backward()
    for block in vision.blocks:
        queries, keys, values = block.timeattn.qkv.weight.grad.chunk(3)
        assert not queries.any()
        assert not keys.any()
        assert values.any()
        assert (block.timeattn.proj.weight == 1).all()


def test_stochastic_depth_rises_linearly_and_patches_cannot_be_dropped():
    config = VISION.model_copy(update={"layers": 4})
    arguments = {**SIZES, "activation": "gelu"}
    vision = TimeSformer(config, **arguments, drop_path=0.3)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in vision.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="cannot leave out patches"):
        TimeSformer(config, **arguments, patch_dropout=0.5)


def test_a_text_of_distilbert_does_not_depend_on_its_padding():
    model = with_random_weights(DualEncoder(EGOVLP, **SIZES))
    short = model.encode_text(TOKENS[:1, :3])
    torch.testing.assert_close(model.encode_text(TOKENS)[:1], short)
    with pytest.raises(ValueError, match="texts of 17 tokens do not fit the 16 places"):
        model.encode_text(torch.ones(1, 17, dtype=torch.long))
    with pytest.raises(ValueError, match=r"context_length \(77\) must not exceed places \(16\)"):
        DistilBertConfig(width=24, layers=1, heads=2, places=16)


def saved(folder: Path, config: DualEncoderConfig, kind: str = "dual_encoder", **arguments) -> nn.Module:
    model = with_random_weights(build_model(kind, config, **SIZES, **arguments))
    name = "lavila_tsf_b" if config is LAVILA else "egovlp_tsf_b"
    save_model(folder, model, ModelDescription(kind, name, **SIZES, **arguments))
    return model


@pytest.mark.parametrize("config", [LAVILA, EGOVLP], ids=["lavila", "egovlp"])
@pytest.mark.parametrize("kind", ["dual_encoder", "video_classifier"])
def test_lavilas_layout_comes_back_exactly(tmp_path, config, kind):
    arguments = {"classes": 5} if kind == "video_classifier" else {}
    model = saved(tmp_path / "m", config, kind, **arguments)
    export_lavila(tmp_path / "m", tmp_path / "out.pt")
    again = build_model(kind, config, **SIZES, **arguments)
    report = start_from_foreign(again, tmp_path / "out.pt")
    assert report.missing == report.unexpected == report.adapted == ()
    assert all(torch.equal(again.state_dict()[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize("kind", ["dual_encoder", "video_classifier"])
def test_the_experiment_decays_what_lavila_does(kind):
    """LaViLa decays whatever has two dimensions or more in its files, also tables and the class token."""
    heads = {"classes": 5, "further_classes": {"verb": 3}} if kind == "video_classifier" else {}
    model = build_model(kind, LAVILA, **SIZES, **heads)
    recipe = yaml.safe_load((ROOT / "configs/lavila.yaml").read_text())["stages"]["lavila_pretrain"]
    force = recipe["force_weight_decay"]
    groups = parameter_groups(model, weight_decay=0.01, layer_decay=1.0, force_decay=force)
    decayed = {name for group in groups if group["weight_decay"] for name in group["names"]}
    theirs = _named(model, "lavila", model.state_dict())
    assert decayed == {our_name(name, model) for name, tensor in theirs.items() if tensor.ndim >= 2}
    assert {"vision.class_embedding", "vision.positional_embedding", "vision.temporal_embedding"} < decayed


def test_the_exported_names_and_shapes_are_lavilas(tmp_path):
    saved(tmp_path / "m", LAVILA)
    export_lavila(tmp_path / "m", tmp_path / "out.pt")
    content = torch.load(tmp_path / "out.pt", weights_only=False)
    shapes = {name: tuple(tensor.shape) for name, tensor in content["state_dict"].items()}
    assert shapes["module.visual.cls_token"] == (1, 1, 32)
    assert shapes["module.visual.pos_embed"] == (1, 5, 32)
    assert shapes["module.visual.temporal_embed"] == (1, 4, 32)
    assert shapes["module.visual.patch_embed.proj.weight"] == (32, 3, 8, 8)
    assert shapes["module.visual.blocks.1.timeattn.qkv.bias"] == (96,)
    assert shapes["module.transformer.resblocks.0.attn.in_proj_weight"] == (72, 24)
    assert {"module.visual.norm.bias", "module.image_projection", "module.logit_scale"} < shapes.keys()
    assert vars(content["args"]) == {
        "model": "CLIP_OPENAI_TIMESFORMER_BASE",
        "project_embed_dim": 8,
        "clip_length": 4,
        "norm_embed": True,
        "use_cls_token": False,
        "load_visual_pretrained": None,
        "num_classes": 0,
    }


@pytest.mark.parametrize("file", ["exported", "half"])
def test_egovlps_layout_comes_back_exactly_but_for_the_temperature(tmp_path, file):
    """As exported, and in half precision, whose fewer digits come back as they are."""
    model = saved(tmp_path / "m", EGOVLP)
    export_egovlp(tmp_path / "m", tmp_path / "exported.pth")
    content = torch.load(tmp_path / "exported.pth")
    assert set(content) == {"arch", "epoch", "state_dict", "monitor_best"}
    names = content["state_dict"].keys()
    assert {"module.vid_proj.0.bias", "module.txt_proj.1.weight", "module.video_model.cls_token"} < names
    assert not any("logit" in name for name in names)
    content["state_dict"] = {name: t.half() for name, t in content["state_dict"].items()}
    torch.save(content, tmp_path / "half.pth")
    again = build_model("dual_encoder", EGOVLP, **SIZES)
    report = start_from_foreign(again, tmp_path / f"{file}.pth", waive_missing=["logit_scale"])
    assert report.missing == ("logit_scale",) and report.unexpected == report.adapted == ()
    for name, tensor in model.state_dict().items():
        stored = tensor.half().float() if file == "half" else tensor
        assert torch.equal(again.state_dict()[name], stored) or name == "logit_scale", name


def test_egovlps_layout_refuses_other_models(tmp_path):
    saved(tmp_path / "m", LAVILA)
    with pytest.raises(ModelError, match=r"egovlp has no names for this dual_encoder; .* as: lavila"):
        export_egovlp(tmp_path / "m", tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["module.text_model.encoder.layer.0.output.dense.weight", "cross_modal_text_transform.weight"]
)
def test_a_file_of_egovlp_v2_is_refused_by_its_name(tmp_path, name):
    tensors = published(DualEncoder(EGOVLP, **SIZES), "egovlp") | {name: torch.zeros(3, 3)}
    torch.save({"state_dict": tensors}, tmp_path / "v2.pth")
    with pytest.raises(ModelError, match=r"v2\.pth: EgoVLPv2's model, whose towers attend to each other"):
        start_from_foreign(DualEncoder(EGOVLP, **SIZES), tmp_path / "v2.pth")


def test_other_layouts_refuse_a_timesformer_and_lavilas_refuses_clips_tower(tmp_path):
    saved(tmp_path / "m", LAVILA)
    with pytest.raises(ModelError, match=r"avion has no names for this dual_encoder; .* as: lavila"):
        export_avion(tmp_path / "m", tmp_path / "out")
    with pytest.raises(ModelError, match="open_clip has no names for this dual_encoder"):
        export_open_clip(tmp_path / "m", tmp_path / "out")
    model = build_model("dual_encoder", "toy_dual_encoder", frames=4, image_size_px=64)
    with pytest.raises(ModelError, match="lavila has no names for this dual_encoder"):
        _named(model, "lavila", model.state_dict())


def published(model: nn.Module, form: str, *, half: bool = False) -> dict[str, Tensor]:
    """A model's weights as published by others."""
    named = _named(model, form, model.state_dict())
    return {f"module.{name}": tensor.half() if half else tensor for name, tensor in named.items()}


@pytest.mark.parametrize("half", [False, True])
def test_a_file_of_lavilas_gives_its_model(tmp_path, half):
    """In the dictionary that its trainer saves."""
    source = with_random_weights(DualEncoder(LAVILA, **SIZES))
    options = argparse.Namespace(model="CLIP_OPENAI_TIMESFORMER_BASE", norm_embed=True, lr=3e-5)
    content = {
        "epoch": 5,
        "state_dict": published(source, "lavila", half=half),
        "criterion": {},
        "optimizer": {"state": {}, "param_groups": []},
        "scaler": {"scale": 65536.0},
        "best_acc1": 0.5,
        "args": options,
    }
    torch.save(content, tmp_path / "ckpt.pth")
    model = DualEncoder(LAVILA, **SIZES).eval()
    start_from_foreign(model, tmp_path / "ckpt.pth")
    for ours, theirs in zip(model(clips(), TOKENS), source(clips(), TOKENS), strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-2 if half else 0, rtol=0)


def test_a_deeper_timesformer_is_refused_by_its_blocks(tmp_path):
    deeper = LAVILA.model_copy(update={"vision": VISION.model_copy(update={"layers": 3})})
    torch.save(published(DualEncoder(deeper, **SIZES), "lavila"), tmp_path / "deeper.pt")
    with pytest.raises(ModelError, match=r"18 unexpected: vision\.blocks\.2\."):
        start_from_foreign(DualEncoder(LAVILA, **SIZES), tmp_path / "deeper.pt")


def egovlps_config(monkeypatch: pytest.MonkeyPatch) -> object:
    """An object of EgoVLP's own class, in a module that exists until it is pickled."""
    module = types.ModuleType("parse_config")

    class ConfigParser:
        def __init__(self) -> None:
            self.args = argparse.Namespace(resume=None)
            self.resume = None
            self._config = OrderedDict(arch={"type": "FrozenInTime"})
            self._save_dir = Path("results/egoclip")
            self.log_levels = {0: 30, 1: 20, 2: 10}

    ConfigParser.__module__, ConfigParser.__qualname__ = "parse_config", "ConfigParser"
    module.ConfigParser = ConfigParser
    monkeypatch.setitem(sys.modules, "parse_config", module)
    return ConfigParser()


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_of_egovlps_gives_its_model_without_its_code(tmp_path, monkeypatch, zipped):
    """With 16 temporal rows, of which four frames use the first."""
    source = with_random_weights(DualEncoder(EGOVLP, frames=16, image_size_px=16))
    state_dict = published(source, "egovlp")
    del state_dict["module.logit_scale"]
    content = {
        "arch": "DistributedDataParallel",
        "epoch": 6,
        "state_dict": state_dict,
        "optimizer": {"state": {}, "param_groups": []},
        "monitor_best": 0.5,
        "config": egovlps_config(monkeypatch),
    }
    torch.save(content, tmp_path / "egovlp.pth", _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "parse_config")
    model = DualEncoder(EGOVLP, **SIZES).eval()
    report = start_from_foreign(model, tmp_path / "egovlp.pth", waive_missing=["logit_scale"])
    assert report.adapted == ("vision.temporal_embedding",)
    assert "parse_config" not in sys.modules
    assert torch.equal(model.vision.temporal_embedding, source.vision.temporal_embedding[:4])
    assert torch.equal(model.encode_text(TOKENS), source.encode_text(TOKENS))


def test_a_file_of_egovlps_that_lavila_converted_is_read(tmp_path):
    source = with_random_weights(DualEncoder(EGOVLP, **SIZES))
    tensors = published(source, "lavila")
    assert {"module.image_projection.0.bias", "module.text_projection.1.weight"} < tensors.keys()
    torch.save({"epoch": 0, "state_dict": tensors, "best_acc1": 0}, tmp_path / "converted.pth")
    model = DualEncoder(EGOVLP, **SIZES).eval()
    start_from_foreign(model, tmp_path / "converted.pth")
    assert torch.equal(model.encode_video(clips()), source.encode_video(clips()))


def test_more_frames_at_load_are_interpolated_for_lavila_and_zero_for_egovlp():
    for config, form in ((LAVILA, "lavila"), (EGOVLP, "egovlp")):
        source = with_random_weights(DualEncoder(config, **SIZES))
        model = DualEncoder(config, frames=8, image_size_px=16)
        load_weights(model, import_state_dict(published(source, form), model))
        old, new = source.vision.temporal_embedding, model.vision.temporal_embedding
        if form == "egovlp":
            assert torch.equal(new[:4], old)
            assert not new[4:].any()
        else:
            torch.testing.assert_close(new[1], 0.75 * old[0] + 0.25 * old[1])


def test_of_three_heads_the_one_with_as_many_outputs_is_read(tmp_path):
    model = with_random_weights(build_model("video_classifier", LAVILA, classes=5, **SIZES))
    tensors = published(model, "lavila")
    heads = {name: tensors.pop(f"module.fc_cls.{name}") for name in ("weight", "bias")}
    for number, outputs in enumerate((3, 5, 7)):
        tensors[f"module.fc_cls.{number}.weight"] = torch.zeros(outputs, 32)
        tensors[f"module.fc_cls.{number}.bias"] = torch.zeros(outputs)
    tensors |= {f"module.fc_cls.1.{name}": tensor for name, tensor in heads.items()}
    torch.save({"state_dict": tensors}, tmp_path / "c.pt")
    again = build_model("video_classifier", LAVILA, classes=5, **SIZES)
    start_from_foreign(again, tmp_path / "c.pt")
    assert torch.equal(again.head.weight, model.head.weight)
    other = build_model("video_classifier", LAVILA, classes=4, **SIZES)
    with pytest.raises(ModelError, match=r"2 missing: head\.weight, head\.bias; 6 unexpected: head\.0\.wei"):
        start_from_foreign(other, tmp_path / "c.pt")
    start_from_foreign(other, tmp_path / "c.pt", fresh=["head.*"])
