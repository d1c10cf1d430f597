"""Architectures as data: every file loads, and has the size its paper states."""

import pytest
import torch

from avion_core.models.architecture import (
    DualEncoderConfig,
    architecture_names,
    load_architecture,
    parse_architecture,
)
from avion_core.models.clip import ClipVision
from avion_core.models.store import build_model
from avion_core.models.weights import ModelError


def parameters(kind: str, name: str, **arguments) -> int:
    with torch.device("meta"):
        model = build_model(kind, name, **arguments)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", architecture_names())
def test_every_architecture_builds_each_of_its_models(name):
    kinds = {
        "dual_encoder": ("dual_encoder", "video_classifier"),
        "videomae": ("videomae", "videomae_classifier"),
        "narrator": ("narrator",),
    }[load_architecture(name).kind]
    size = (
        {"image_size_px": 336 if name.endswith(("336", "xl")) else 224}
        if "toy" not in name
        else {"image_size_px": 64}
    )
    whole = parameters(kinds[0], name, frames=4, **size)
    assert all(parameters(kind, name, frames=4, classes=2, **size) < whole for kind in kinds[1:])


@pytest.mark.parametrize("name", [name for name in architecture_names() if "clip" in name])
def test_the_frames_of_a_model_that_starts_from_clip_begin_alike(name):
    """AVION's temporal embedding starts at zero, so that one frame gives CLIP's own embedding."""
    config = load_architecture(name)
    vision = config.vision.model_copy(update={"width": 8, "layers": 1, "heads": 1})
    side = config.vision.patch_px
    assert not ClipVision(vision, frames=4, image_size_px=side, activation="gelu").temporal_embedding.any()


@pytest.mark.parametrize(
    ("name", "image_size_px", "published", "published_dim"),
    [
        ("clip_vit_b_16", 224, 149_620_737, 512),
        ("clip_vit_l_14", 224, 427_616_513, 768),
        ("clip_vit_l_14_336", 336, 427_944_193, 768),
    ],
)
def test_clip_sizes_are_openais(name, image_size_px, published, published_dim):
    """OpenAI's count, with our narrower projections and the temporal embedding of 4 frames."""
    config = load_architecture(name)
    widths = config.vision.width + config.text.width
    wanted = published - widths * (published_dim - config.embed_dim) + 4 * config.vision.width
    assert parameters("dual_encoder", name, frames=4, image_size_px=image_size_px) == wanted


@pytest.mark.parametrize(
    ("name", "image_size_px", "frames", "tower", "total"),
    [
        ("lavila_tsf_b", 224, 4, 114_169_344, 177_662_977),
        ("lavila_tsf_l", 224, 4, 403_994_624, 527_513_857),
        ("lavila_tsf_l_336", 336, 4, 404_322_304, 471_143_937),
        ("egovlp_tsf_b", 224, 4, 114_168_576, 180_925_184),
        ("egovlp_tsf_b", 224, 16, 114_177_792, 180_934_400),
    ],
)
def test_timesformer_sizes_are_the_published_ones(name, image_size_px, frames, tower, total):
    """Counted by their authors' code. EgoVLP has no temperature among its weights."""
    with torch.device("meta"):
        model = build_model("dual_encoder", name, frames=frames, image_size_px=image_size_px)
    weights = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert sum(weights.values()) - weights["logit_scale"] * name.startswith("egovlp") == total
    outside_projection = {n: size for n, size in weights.items() if not n.startswith("vision.projection")}
    assert sum(size for n, size in outside_projection.items() if n.startswith("vision.")) == tower


@pytest.mark.parametrize(
    ("name", "image_size_px", "trained", "total"),
    [
        ("narrator_gpt2", 224, 86_531_352, 325_140_504),
        ("narrator_gpt2_xl", 336, 497_517_728, 2_459_451_232),
    ],
)
def test_narrator_sizes_are_the_published_ones(name, image_size_px, trained, total):
    """As LaViLa trains them, with a frozen language model."""
    with torch.device("meta"):
        model = build_model(
            "narrator", name, frames=4, image_size_px=image_size_px, freeze_language_model=True
        )
    assert sum(weight.numel() for weight in model.parameters()) == total
    assert sum(weight.numel() for weight in model.parameters() if weight.requires_grad) == trained


@pytest.mark.parametrize(("size", "millions"), [("s", 22), ("b", 87), ("l", 305), ("h", 633)])
def test_videomae_sizes_are_the_papers(size, millions):
    count = parameters(
        "videomae_classifier", f"videomae_vit_{size}", frames=16, image_size_px=224, classes=400
    )
    assert round(count / 1e6) == pytest.approx(millions, abs=1)


def test_toy_towers_have_two_to_four_million_weights():
    config = load_architecture("toy_dual_encoder")
    with torch.device("meta"):
        model = build_model("dual_encoder", config, frames=4, image_size_px=64)
    towers = sum(p.numel() for name, p in model.named_parameters() if "token_embedding" not in name)
    assert 2e6 < towers < 4e6


def test_unknown_name_gives_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'clip_vit_b_16'"):
        load_architecture("clip_vit_b16")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"kind": "resnet"}, "mine: not a known architecture"),
        (
            {
                "kind": "videomae",
                "width": 10,
                "layers": 1,
                "heads": 3,
                "decoder_width": 8,
                "decoder_heads": 2,
            },
            r"heads \(3\) must divide the width \(10\)",
        ),
        ({"kind": "videomae", "wdith": 10}, "wdith|width"),
        ([1], "mine: not a known architecture"),
    ],
)
def test_bad_values_are_refused_by_name(raw, message):
    with pytest.raises(ValueError, match=message):
        parse_architecture(raw, where="mine")


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"image_size_px \(65\) must be a multiple of the patch \(16\)"):
        build_model("dual_encoder", "toy_dual_encoder", frames=4, image_size_px=65)
    with pytest.raises(ValueError, match=r"frames \(3\) must be a multiple of the tubelet \(2\)"):
        build_model("videomae", "toy_videomae", frames=3, image_size_px=64)


def test_kind_and_architecture_must_fit():
    with pytest.raises(ModelError, match="a dual_encoder needs a dual_encoder architecture"):
        build_model("dual_encoder", "toy_videomae", frames=4, image_size_px=64)
    with pytest.raises(ValueError, match="did you mean 'videomae'"):
        build_model("video_mae", "toy_videomae", frames=4, image_size_px=64)


def test_normalisation_is_avions_by_default():
    config = load_architecture("clip_vit_b_16")
    assert isinstance(config, DualEncoderConfig)
    assert config.pixel_mean == (108.3272985, 116.7460125, 104.09373615)
    assert config.activation == "gelu"
