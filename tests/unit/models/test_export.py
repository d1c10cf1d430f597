"""Our weights in others' layouts: they come back exactly, and open_clip computes the same with them."""

import resource
import signal

import open_clip
import pytest
import torch

from avion_core.models.architecture import DualEncoderConfig, VideoMAEConfig, load_architecture
from avion_core.models.export import (
    EXPORTS,
    avion_options,
    export_avion,
    export_open_clip,
)
from avion_core.models.foreign import start_from_foreign
from avion_core.models.store import ModelDescription, build_model, load_model, save_model
from avion_core.models.towers import TextConfig, VisionConfig
from avion_core.models.weights import ModelError

DUAL = DualEncoderConfig(
    vision=VisionConfig(width=64, layers=2, heads=2, patch_px=8),
    text=TextConfig(width=32, layers=2, heads=2, context_length=12, vocabulary=50),
    embed_dim=8,
)
MAE = VideoMAEConfig(
    width=24, layers=2, heads=2, patch_px=8, decoder_width=12, decoder_layers=1, decoder_heads=2
)
SIZES = {"frames": 4, "image_size_px": 16}
MODELS = {
    "dual_encoder": (DUAL, {}),
    "video_classifier": (DUAL, {"classes": 5}),
    "videomae": (MAE, {}),
    "videomae_classifier": (MAE, {"classes": 5}),
}


def fresh(kind, config=None):
    default, arguments = MODELS[kind]
    model = build_model(kind, config or default, **SIZES, **arguments)
    for parameter in model.parameters():  # biases too, which a fresh model has at zero
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def saved(folder, kind="dual_encoder", config=None):
    torch.manual_seed(0)
    model = fresh(kind, config)
    save_model(
        folder, model, ModelDescription(kind, "tiny", **SIZES, classes=MODELS[kind][1].get("classes", 0))
    )
    return model


@pytest.mark.parametrize("layout", ["avion", "avion_flash"])
@pytest.mark.parametrize("kind", MODELS)
def test_avions_layout_comes_back_exactly(tmp_path, kind, layout):
    model, again = saved(tmp_path / "m", kind), fresh(kind)
    EXPORTS[layout](tmp_path / "m", tmp_path / "out.pt")
    report = start_from_foreign(again, str(tmp_path / "out.pt"))
    assert report.missing == report.unexpected == report.adapted == ()
    theirs = again.state_dict()
    for name, tensor in model.state_dict().items():
        if layout == "avion" and "videomae" in kind and name.endswith("qkv.bias"):
            tensor, width = tensor.clone(), len(tensor) // 3
            tensor[width : 2 * width] = 0  # keys have no bias there, nor in a model that was trained here
        assert torch.equal(theirs[name], tensor), name


def test_avions_scripts_find_their_options(tmp_path):
    saved(tmp_path / "m", "video_classifier")
    export_avion(tmp_path / "m", tmp_path / "out.pt", flash=True)
    content = torch.load(tmp_path / "out.pt", weights_only=False)
    assert (content["epoch"], content["best_acc1"]) == (0, 0)
    assert vars(content["args"]) == {
        "model": "tiny",
        "context_length": 12,
        "vocab_size": 50,
        "project_embed_dim": 8,
        "pretrain_zoo": "openai",
        "pretrain_path": None,
        "clip_length": 4,
        "use_fast_conv1": True,
        "use_flash_attn": True,
        "num_classes": 5,
        "dropout_rate": 0.0,
    }


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("clip_vit_b_16", "CLIP_VITB16"),
        ("clip_vit_l_14", "CLIP_VITL14"),
        ("clip_vit_l_14_336", "CLIP_VITL14_336PX"),
    ],
)
def test_avions_scripts_find_their_model(ours, theirs):
    description = ModelDescription("dual_encoder", ours, **SIZES)
    options = avion_options(load_architecture(ours), description, flash=False)
    assert options.model == theirs
    assert (options.context_length, options.vocab_size, options.project_embed_dim) == (77, 49408, 256)


def test_a_key_bias_is_not_missed(tmp_path):
    model, again = saved(tmp_path / "m", "videomae_classifier"), fresh("videomae_classifier")
    export_avion(tmp_path / "m", tmp_path / "out.pt")
    start_from_foreign(again, str(tmp_path / "out.pt"))
    frames = torch.randn(2, 3, 4, 16, 16)
    torch.testing.assert_close(again(frames), model(frames), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_open_clip_gives_the_embeddings_of_one_frame(tmp_path, activation):
    model = saved(tmp_path / "m", config=DUAL.model_copy(update={"activation": activation}))
    export_open_clip(tmp_path / "m", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "model.json",
        "model.safetensors",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]
    video_model, description = load_model(tmp_path / "out")
    assert description.frames == 4
    assert all(torch.equal(video_model.state_dict()[name], w) for name, w in model.state_dict().items())
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    theirs.eval()
    image, tokens = torch.randn(2, 3, 16, 16), torch.tensor([[1, 7, 49, 0], [1, 8, 3, 49]])
    ours, _ = load_model(tmp_path / "m", frames=1)
    torch.testing.assert_close(
        theirs.encode_image(image, normalize=True), ours.encode_video(image[:, :, None]), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        theirs.encode_text(torch.nn.functional.pad(tokens, (0, 8)), normalize=True),
        model.encode_text(tokens),
        atol=1e-5,
        rtol=0,
    )
    assert preprocess.transforms[-1].mean == pytest.approx([value / 255 for value in DUAL.pixel_mean])
    assert preprocess.transforms[-1].std == pytest.approx([value / 255 for value in DUAL.pixel_std])


def test_open_clip_takes_the_bias_of_the_sigmoid_loss(tmp_path):
    model = build_model("dual_encoder", DUAL, **SIZES, logit_bias=-7.5)
    save_model(tmp_path / "m", model, ModelDescription("dual_encoder", "tiny", **SIZES))
    export_open_clip(tmp_path / "m", tmp_path / "out")
    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'out'}")
    assert theirs.logit_bias.item() == -7.5


def test_what_open_clip_cannot_hold_is_refused(tmp_path):
    saved(tmp_path / "m", "videomae")
    with pytest.raises(
        ModelError, match=r"open_clip has no names for this videomae; .* as: avion, avion_flash"
    ):
        export_open_clip(tmp_path / "m", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS)
def test_an_export_replaces_nothing(tmp_path, export):
    saved(tmp_path / "m")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "open_clip_config.json").write_text("of a model from elsewhere")
    (tmp_path / "weights.pt").write_text("the user's")
    for taken in ("m", "out", "weights.pt"):
        with pytest.raises(ModelError, match=f"{taken}: is there already; name another path"):
            export(tmp_path / "m", tmp_path / taken)
    assert (tmp_path / "weights.pt").read_text() == "the user's"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["open_clip_config.json"]
    assert load_model(tmp_path / "m")[1].frames == 4


def test_a_full_disk_is_named(tmp_path):
    saved(tmp_path / "m")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        for layout in ("avion", "avion_flash", "open_clip"):
            with pytest.raises(OSError, match=r"out.*cannot be written"):
                EXPORTS[layout](tmp_path / "m", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert not (tmp_path / "out").exists()
