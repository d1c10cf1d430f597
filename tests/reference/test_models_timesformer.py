"""The TimeSformer and DistilBERT reproduce recorded outputs of LaViLa's and EgoVLP's code."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from avion_core.models.architecture import DualEncoderConfig
from avion_core.models.classifier import VideoClassifier
from avion_core.models.dual_encoder import DualEncoder
from avion_core.models.export import export_avion, export_lavila
from avion_core.models.foreign import import_state_dict, our_name
from avion_core.models.positions import lengthen_linearly, lengthen_with_zeros
from avion_core.models.store import ModelDescription, save_model
from avion_core.models.towers import DistilBertConfig, TextConfig, TimeSformerConfig
from avion_core.models.weights import ModelError, load_weights
from avion_core.train.losses import ego_nce

DATA = Path(__file__).parent / "data"
TIMESFORMER = {"width": 64, "layers": 2, "heads": 4, "patch_px": 8}
CLIP_TEXT = {"width": 32, "layers": 2, "heads": 2, "context_length": 12, "vocabulary": 99}


def lavila(vision: dict[str, Any], text: TextConfig | DistilBertConfig) -> DualEncoderConfig:
    tower = TimeSformerConfig(**TIMESFORMER | vision)
    return DualEncoderConfig(vision=tower, text=text, embed_dim=24, activation="quick_gelu")


DISTILBERT = DistilBertConfig(
    width=32, layers=2, heads=4, hidden=80, places=20, vocabulary=61, context_length=12
)
EGOVLP = DualEncoderConfig(
    vision=TimeSformerConfig(
        width=48,
        layers=3,
        heads=4,
        patch_px=8,
        ln_pre_eps=None,
        patch_bias=True,
        more_frames="zeros",
        projection="linear",
    ),
    text=DistilBertConfig(
        width=36,
        layers=2,
        heads=3,
        hidden=70,
        places=24,
        vocabulary=71,
        context_length=6,
        projection="relu_linear",
    ),
    embed_dim=20,
)
CONFIGS = {
    "lavila_dual": lavila({}, TextConfig(**CLIP_TEXT)),
    "lavila_checkpoint_half": lavila({"layers": 3}, TextConfig(**CLIP_TEXT)),
    "lavila_distilbert_checkpoint": lavila({"width": 48}, DISTILBERT),
    "egovlp_16_rows_fed_4": EGOVLP,
}
"""Models of the recorded files."""


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    return {name: t.float() if t.is_floating_point() else t for name, t in found.items()}


def recorded(name: str, *, frames: int = 4) -> tuple[dict[str, Tensor], DualEncoder]:
    """The recorded tensors, and our model with the recorded weights, in evaluation mode."""
    tensors = load_file(DATA / f"{name}.safetensors")
    model = DualEncoder(CONFIGS[name], frames=frames, image_size_px=32, learn_temperature=True).eval()
    weights = import_state_dict(part(tensors, "module.") or part(tensors, "weights."), model)
    load_weights(model, weights, waive_missing=["logit_scale"] if "egovlp" in name else [])
    return tensors, model


def inputs(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    given = part(tensors, "inputs.")
    frames = given.get("frames_BCTHW")
    if frames is None:
        frames = given["frames_BTCHW"].transpose(1, 2)
    return frames, given["tokens_BL"] if "tokens_BL" in given else given["ids_BL"]


def assert_near(ours: Tensor, theirs: Tensor, *, tolerance: float = 1e-5) -> None:
    """Equal within a share of the largest value."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < tolerance * theirs.abs().max()


@pytest.mark.parametrize("name", CONFIGS)
def test_embeddings_are_the_recorded_ones(name):
    tensors, model = recorded(name)
    frames, tokens = inputs(tensors)
    outputs = part(tensors, "outputs.")
    video, text, scale = model(frames, tokens)
    assert_near(video, F.normalize(outputs["video_embed_BE"], dim=-1))
    assert_near(text, F.normalize(outputs["text_embed_BE"], dim=-1))
    if "logit_scale" in outputs:
        assert_near(scale, outputs["logit_scale"])


def contrastive_loss(video_BD: Tensor, text_BD: Tensor, scale: Tensor) -> Tensor:
    logits, pairs = scale * video_BD @ text_BD.T, torch.arange(len(video_BD))
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2


@pytest.mark.parametrize(("name", "count"), [("lavila_dual", 22), ("lavila_distilbert_checkpoint", 7)])
def test_loss_and_gradients_are_the_recorded_ones(name, count):
    tensors, model = recorded(name)
    loss = contrastive_loss(*model(*inputs(tensors)))
    assert_near(loss, tensors["outputs.clip_loss"])
    loss.backward()
    assert_gradients(tensors, model, count=count)


def assert_gradients(tensors: dict[str, Tensor], model: DualEncoder, *, count: int) -> None:
    parameters = dict(model.named_parameters())
    gradients = import_state_dict(part(tensors, "grads."), model)
    assert len(gradients) == count
    for name, gradient in gradients.items():
        if name.endswith("q_lin.bias"):  # of the queries alone, the first third of ours
            ours = parameters[our_name(name, model)].grad.chunk(3)[0]
        else:
            ours = parameters[name].grad
        if name == "vision.temporal_embedding":
            assert not gradient[len(ours) :].any()
            gradient = gradient[: len(ours)]
        assert_near(ours, gradient, tolerance=1e-4)


def test_egovlps_embeddings_are_the_recorded_ones_without_normalisation():
    """Four frames, by a model with a temporal table of 16 rows."""
    tensors, model = recorded("egovlp_16_rows_fed_4")
    frames, tokens = inputs(tensors)
    outputs = part(tensors, "outputs.")
    assert_near(model.vision(frames), outputs["video_embed_BE"])
    assert_near(model.text(tokens), outputs["text_embed_BE"])
    assert_near(model.vision.tokens(frames)[:, 0], outputs["video_features_BD"])


def test_egovlps_loss_and_gradients_are_the_recorded_ones():
    tensors, model = recorded("egovlp_16_rows_fed_4")
    video, text, _ = model(*inputs(tensors))
    given = part(tensors, "inputs.")
    tags = {"verb_tags": given["verbs_BV"].bool(), "noun_tags": given["nouns_BN"].bool()}
    loss = ego_nce(video, text, scale=1 / 0.05, **tags)
    assert_near(loss, tensors["outputs.egonce"])
    loss.backward()
    assert_gradients(tensors, model, count=17)


def test_all_tokens_and_raw_embeddings_are_the_recorded_ones():
    tensors, model = recorded("lavila_dual")
    frames, tokens = inputs(tensors)
    outputs = part(tensors, "outputs.")
    found = model.vision.tokens(frames)
    assert_near(found[0], outputs["video_tokens_first_clip_ND"])
    assert_near(found[:, 0], outputs["video_features_BD"])
    assert_near(model.vision(frames), outputs["video_embed_unnormalised_BE"])
    assert_near(model.text(tokens), outputs["text_embed_unnormalised_BE"])


def test_fewer_frames_use_the_first_rows_of_the_temporal_table():
    tensors, model = recorded("lavila_dual", frames=2)
    frames, _ = inputs(tensors)
    found = model.vision.tokens(frames[:, :, :2])[:, 0]
    assert_near(found, part(tensors, "outputs.")["video_features_first_two_frames_BD"])


@pytest.mark.parametrize("project", ["lavila", "egovlp"])
@pytest.mark.parametrize(("rows", "frames"), [(4, 16), (4, 6), (16, 4)])
def test_temporal_tables_are_fitted_as_recorded(project, rows, frames):
    tensors = load_file(DATA / "temporal_table.safetensors")
    adapt, option = {
        "lavila": (lengthen_linearly, "bilinear"),
        "egovlp": (lengthen_with_zeros, "zeros"),
    }[project]
    ours = adapt(tensors[f"inputs.table_{rows}_to_{frames}"][0], torch.empty(frames, 12))
    theirs = tensors[f"outputs.{project}_{rows}_to_{frames}_{option}"][0]
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("label", "classes"), [("verb", 5), ("noun", 7), ("action", 11), ("single", 13)])
def test_classifiers_logits_are_the_recorded_ones(label, classes):
    """Three heads on one tower, of which the one with as many outputs is read; and a single head."""
    tensors = load_file(DATA / "lavila_classifiers.safetensors")
    weights = part(tensors, "module.")
    if label == "single":
        weights = {n: t for n, t in weights.items() if "fc_cls" not in n} | part(tensors, "single.")
    config = CONFIGS["lavila_dual"]
    model = VideoClassifier(config, classes=classes, frames=4, image_size_px=32, head_dropout=0.5).eval()
    load_weights(model, import_state_dict(weights, model))
    logits = model(part(tensors, "inputs.")["frames_BCTHW"])
    assert_near(logits, tensors[f"outputs.logits_{label}_BC"])


@pytest.fixture
def three_heads() -> tuple[dict[str, Tensor], VideoClassifier]:
    """The recorded tensors, and our model with all three recorded heads."""
    tensors = load_file(DATA / "lavila_classifiers.safetensors")
    sizes = {"frames": 4, "image_size_px": 32}
    classes = {"classes": 11, "further_classes": {"verb": 5, "noun": 7}}
    model = VideoClassifier(CONFIGS["lavila_dual"], **sizes, **classes).eval()
    report = load_weights(model, import_state_dict(part(tensors, "module."), model))
    assert report.missing == report.unexpected == ()
    return tensors, model


def test_the_logits_of_three_heads_are_the_recorded_ones_the_actions_first(three_heads):
    tensors, model = three_heads
    logits = model(part(tensors, "inputs.")["frames_BCTHW"]).split([11, 5, 7], dim=1)
    for name, own in zip(("action", "verb", "noun"), logits, strict=True):
        assert_near(own, tensors[f"outputs.logits_{name}_BC"])


def test_a_file_of_three_heads_goes_out_as_it_came_in(three_heads, tmp_path):
    tensors, model = three_heads
    further = {"verb": 5, "noun": 7}
    description = ModelDescription(model.kind, "lavila_tsf_b", 4, 32, 11, further, label="action")
    save_model(tmp_path / "m", model, description)
    export_lavila(tmp_path / "m", tmp_path / "out.pt")
    content = torch.load(tmp_path / "out.pt", weights_only=False)
    theirs = {name: t for name, t in tensors.items() if name.startswith("module.")}
    assert content["state_dict"].keys() == theirs.keys()
    assert all(torch.equal(content["state_dict"][name], t) for name, t in theirs.items())
    assert vars(content["args"])["num_classes"] == [5, 7, 11]
    assert vars(content["args"])["use_vn_classifier"]
    with pytest.raises(ModelError, match=r"avion has no names for this video_classifier; .*: lavila"):
        export_avion(tmp_path / "m", tmp_path / "other.pt")
