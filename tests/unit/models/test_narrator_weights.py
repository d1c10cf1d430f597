"""Narrators of LaViLa's: files in the layouts of the two published ones, at tiny widths."""

import argparse
from pathlib import Path

import pytest
import torch

from avion_core.models.architecture import DualEncoderConfig, LanguageModelConfig, NarratorConfig
from avion_core.models.dual_encoder import DualEncoder
from avion_core.models.export import _named, export_lavila
from avion_core.models.foreign import import_state_dict, start_from_foreign
from avion_core.models.narrator import Narrator
from avion_core.models.store import ModelDescription, save_model
from avion_core.models.towers import DistilBertConfig, TextConfig, TimeSformerConfig
from avion_core.models.weights import ModelError

WORDS, PLACES, QUERIES = 30, 12, 4
SIZES = {"frames": 4, "image_size_px": 16}
VISION = TimeSformerConfig(width=16, layers=2, heads=2, patch_px=8)


def config(every: int, layers: int) -> NarratorConfig:
    return NarratorConfig(
        vision=VISION,
        language_model=LanguageModelConfig(
            width=24,
            layers=layers,
            heads=2,
            vocabulary=WORDS,
            begin_token=29,
            end_token=29,
            context_length=8,
            positions=PLACES,
        ),
        cross_attention_every=every,
        queries=QUERIES,
        pool_heads=3,
        pool_head_width=8,
        activation="quick_gelu",
    )


def published(every: int, layers: int, *, width: int = 24, seen: int = 16) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a file of LaViLa's; `seen` is the width of the vision tower."""
    shapes: dict[str, tuple[int, ...]] = {
        "visual.cls_token": (1, 1, seen),
        "visual.pos_embed": (1, 5, seen),
        "visual.temporal_embed": (1, 4, seen),
        "visual.patch_embed.proj.weight": (seen, 3, 8, 8),
        "img_queries": (QUERIES, width),
        "img_attn_pool.to_q.weight": (24, width),
        "img_attn_pool.to_kv.weight": (16, seen),
        "img_attn_pool.to_out.weight": (width, 24),
        "text_decoder.transformer.wte.weight": (WORDS, width),
        "text_decoder.transformer.wpe.weight": (PLACES, width),
        "text_decoder.lm_head.weight": (WORDS, width),
    }
    norms = {"img_attn_pool.norm": width, "img_attn_pool.context_norm": seen, "img_attn_pool_norm": width}
    shapes |= {f"{norm}.{part}": (size,) for norm, size in norms.items() for part in ("gamma", "beta")}

    def layer(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[-1:]

    for norm in ("visual.ln_pre", "visual.norm"):
        layer(norm, seen)
    for block in (f"visual.blocks.{i}" for i in range(2)):
        for norm in ("norm1", "norm2", "norm3"):
            layer(f"{block}.{norm}", seen)
        for name, (outputs, inputs) in {
            "attn.qkv": (3 * seen, seen),
            "attn.proj": (seen, seen),
            "timeattn.qkv": (3 * seen, seen),
            "timeattn.proj": (seen, seen),
            "mlp.fc1": (4 * seen, seen),
            "mlp.fc2": (seen, 4 * seen),
        }.items():
            shapes[f"{block}.{name}.weight"], shapes[f"{block}.{name}.bias"] = (outputs, inputs), (outputs,)
    layer("text_decoder.transformer.ln_f", width)
    for number in range(layers):
        block = f"text_decoder.transformer.h.{number}"
        crosses = number % every == 0
        for norm in ("ln_1", "ln_2", *(("ln_cross_attn", "ln_2_crossattention") if crosses else ())):
            layer(f"{block}.{norm}", width)
        for attention in ("attn", *(("crossattention",) if crosses else ())):
            layer(f"{block}.{attention}.c_attn", width, (3 if attention == "attn" else 2) * width)
            layer(f"{block}.{attention}.c_proj", width, width)
            shapes[f"{block}.{attention}.bias"] = (1, 1, PLACES, PLACES)
            shapes[f"{block}.{attention}.masked_bias"] = ()
        for mlp in ("mlp", *(("mlp_crossattention",) if crosses else ())):
            layer(f"{block}.{mlp}.c_fc", width, 4 * width)
            layer(f"{block}.{mlp}.c_proj", 4 * width, width)
        if crosses:
            layer(f"{block}.crossattention.q_attn", width, width)
            shapes |= {f"{block}.alpha_cattn": (), f"{block}.alpha_dense": ()}
    return {f"module.{name}": shape for name, shape in shapes.items()}


def content(every: int, layers: int) -> dict[str, torch.Tensor]:
    """Random weights; buffers as they are."""
    torch.manual_seed(0)
    tensors = {name: torch.randn(shape) * 0.3 for name, shape in published(every, layers).items()}
    for name in tensors:
        if name.endswith((".attn.bias", ".crossattention.bias")):
            tensors[name] = torch.ones(tensors[name].shape, dtype=torch.uint8).tril()
        elif name.endswith("masked_bias"):
            tensors[name] = torch.tensor(-1e4)
        elif name.endswith(".beta"):
            tensors[name].zero_()
    table = tensors["module.text_decoder.transformer.wte.weight"]
    return {**tensors, "module.text_decoder.lm_head.weight": table}


def saved(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    """As LaViLa's trainer saves it."""
    options = argparse.Namespace(model="VCLM_OPENAI_TIMESFORMER_BASE_GPT2", gated_xattn=True)
    wrapper = {"epoch": 2, "criterion": {}, "optimizer": {}, "scaler": {}, "best_acc1": 0.0, "args": options}
    torch.save({**wrapper, "state_dict": weights}, path)
    return path


SMALL, LARGE = (1, 3), (3, 7)
"""Every block of three, every third of seven: the layouts of the small and the large published narrator."""


@pytest.mark.parametrize("layout", [SMALL, LARGE], ids=["small", "large"])
def test_a_published_file_comes_in_whole_and_goes_out_as_it_was(tmp_path, layout):
    weights = content(*layout)
    model = Narrator(config(*layout), **SIZES)
    report = start_from_foreign(model, saved(tmp_path / "narrator.pt", weights))
    assert report.missing == report.unexpected == report.adapted == ()
    last = 3 * ((layout[1] - 1) // 3)
    stem, block = f"module.text_decoder.transformer.h.{last}", model.language_model.blocks[last]
    assert torch.equal(block.attn.qkv.weight, weights[f"{stem}.attn.c_attn.weight"].T)
    assert torch.equal(block.cross.attn.kv.weight, weights[f"{stem}.crossattention.c_attn.weight"].T)
    assert torch.equal(block.cross.norm1.bias, weights[f"{stem}.ln_cross_attn.bias"])
    assert torch.equal(block.cross.mlp_gate, weights[f"{stem}.alpha_dense"])
    assert torch.equal(model.pool.token_norm.weight, weights["module.img_attn_pool.context_norm.gamma"])
    description = ModelDescription("narrator", "narrator_gpt2", **SIZES)
    save_model(tmp_path / "model", model, description)
    export_lavila(tmp_path / "model", tmp_path / "out.pt")
    written = torch.load(tmp_path / "out.pt", weights_only=False)
    buffers = (".attn.bias", ".crossattention.bias", "masked_bias")
    kept = {name: x for name, x in weights.items() if not name.endswith(buffers)}
    assert written["state_dict"].keys() == kept.keys()
    assert all(torch.equal(x, kept[name]) for name, x in written["state_dict"].items())
    assert written["args"].model == "VCLM_OPENAI_TIMESFORMER_BASE_GPT2"
    assert (written["args"].gated_xattn, written["args"].clip_length) == (True, 4)


def test_half_precision_is_widened(tmp_path):
    weights = {name: x.half() if x.is_floating_point() else x for name, x in content(*SMALL).items()}
    model = Narrator(config(*SMALL), **SIZES)
    start_from_foreign(model, saved(tmp_path / "half.pt", weights))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert torch.equal(model.pool.queries, weights["module.img_queries"].float())


def test_cross_attention_in_other_blocks_is_one_error(tmp_path):
    path = saved(tmp_path / "large.pt", content(3, 7))
    with pytest.raises(
        ModelError, match=r"its blocks 0, 3, 6 have cross-attention, this model's 0, 2, 4, 6;"
    ):
        start_from_foreign(Narrator(config(2, 7), **SIZES), path)


def test_an_output_layer_of_its_own_is_refused(tmp_path):
    weights = content(*SMALL)
    weights["module.text_decoder.lm_head.weight"] = torch.zeros(WORDS, 24)
    with pytest.raises(ModelError, match="its output layer is not its token table"):
        start_from_foreign(Narrator(config(*SMALL), **SIZES), saved(tmp_path / "own.pt", weights))


def test_an_output_layer_in_another_precision_is_the_same(tmp_path):
    weights = content(*SMALL)
    table = weights["module.text_decoder.lm_head.weight"]
    weights["module.text_decoder.lm_head.weight"] = table.half()
    model = Narrator(config(*SMALL), **SIZES)
    start_from_foreign(model, saved(tmp_path / "half.pt", weights))
    assert torch.equal(model.language_model.token_embedding.weight, table)


@pytest.mark.parametrize("norm", ["img_attn_pool.context_norm", "img_attn_pool_norm"])
def test_pooling_with_biases_is_refused_rather_than_changed(tmp_path, norm):
    weights = content(*SMALL)
    weights[f"module.{norm}.beta"].fill_(0.1)
    with pytest.raises(ModelError, match=rf"has biases \({norm}\.beta\)"):
        start_from_foreign(Narrator(config(*SMALL), **SIZES), saved(tmp_path / "own.pt", weights))


def test_odd_names_and_empty_tables_are_listed_by_name(tmp_path):
    weights = content(*SMALL) | {"extra.cross.attn.q.weight": torch.zeros(2)}
    weights["module.visual.pos_embed"] = torch.zeros(1, 0, 16)
    weights["module.visual.temporal_embed"] = torch.zeros(1, 0, 16)
    with pytest.raises(ModelError, match="do not fit this narrator") as raised:
        start_from_foreign(Narrator(config(*SMALL), **SIZES), saved(tmp_path / "odd.pt", weights))
    for words in (
        "extra.cross.attn.q.weight",
        "vision.positional_embedding (0×16",
        "embedding (0×16 for 4×16)",
    ):
        assert words in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        TextConfig(width=16, layers=1, heads=2, context_length=8, vocabulary=WORDS),
        DistilBertConfig(
            width=16, layers=1, heads=2, context_length=8, vocabulary=WORDS, places=8, hidden=32
        ),
    ],
    ids=["clip", "distilbert"],
)
def test_the_tower_of_lavilas_dual_encoder_is_taken_alone(tmp_path, text):
    """As LaViLa trains its narrators; what the file lacks is waived by name."""
    dual = DualEncoderConfig(vision=VISION, text=text, embed_dim=8, activation="quick_gelu")
    source = DualEncoder(dual, **SIZES)
    weights = {f"module.{name}": x for name, x in _named(source, "lavila", source.state_dict()).items()}
    model = Narrator(config(*SMALL), **SIZES)
    path = saved(tmp_path / "dual.pt", weights)
    with pytest.raises(ModelError, match="missing: pool"):
        start_from_foreign(model, path)
    start_from_foreign(model, path, waive_missing=["pool.*", "language_model.*"])
    tower = {n: x for n, x in source.vision.state_dict().items() if n != "projection"}
    assert all(torch.equal(model.vision.state_dict()[name], x) for name, x in tower.items())
    assert import_state_dict(weights, model).keys() >= {f"vision.{name}" for name in tower}
