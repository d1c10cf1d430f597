"""Third-party weights under our names: CLIP's, and AVION's and VideoMAE's in both of their key layouts.

The plain layout (`in_proj_weight`, `mlp.c_fc`, `qkv` with `q_bias` and `v_bias`) and the flash-attention
layout (`Wqkv`, `mlp.fc1`) hold the same numbers; convolution kernels and matrices of patches do too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avion_core.config import StageSettings
from avion_core.models.architecture import STARTS, kind_of
from avion_core.models.base import VideoModel
from avion_core.models.checkpoint_file import read_checkpoint
from avion_core.models.store import build_model
from avion_core.models.weights import LoadReport, ModelError, load_weights, without

BLOCK_NAMES: tuple[tuple[str, str], ...] = (
    (r"\b_(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.", ""),
    (r"^(?:(?:module|model)\.)+", ""),
    (r"\btransformer\.resblocks\.", "blocks."),
    (r"\battn\.(?:in_proj_|Wqkv\.)", "attn.qkv."),
    (r"\battn\.out_proj\.", "attn.proj."),
    (r"\bln_([12])\.", r"norm\1."),
    (r"\bmlp\.c_fc\.", "mlp.fc1."),
    (r"\bmlp\.c_proj\.", "mlp.fc2."),
)
"""Rewrites of names that all models share."""

CLIP_NAMES: tuple[tuple[str, str], ...] = (
    (r"^visual\.conv1\.", "vision.patch."),
    (r"^(?:visual\.)?image_projection$|^visual\.proj$", "vision.projection"),
    (r"^visual\.", "vision."),
    (r"^textual\.", "text."),
    (r"^(blocks\.|token_embedding\.|positional_embedding$|ln_final\.|text_projection$)", r"text.\1"),
    (r"^text\.text_projection$", "text.projection"),
    (r"^fc_cls\.", "head."),
)
"""AVION's towers, LaViLa's, OpenAI's and open_clip's; the last three have a text tower without prefix."""
NO_WEIGHTS = ("attn_mask", "input_resolution", "context_length", "vocab_size", "n_averaged")
"""What OpenAI's and older open_clip files, and torch's running average, hold beside weights."""

SCALARS = ("logit_scale", "logit_bias")

ENCODER_NAMES: tuple[tuple[str, str], ...] = (
    (r"^encoder\.norm\.", "norm."),
    (r"\bpatch_embed\.proj\.", "patch."),
)
CLASSIFIER_NAMES: tuple[tuple[str, str], ...] = (
    (r"^(blocks\.|patch_embed\.)", r"encoder.\1"),
    *ENCODER_NAMES,
)

FOREIGN_NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "dual_encoder": BLOCK_NAMES + CLIP_NAMES,
    "video_classifier": BLOCK_NAMES + CLIP_NAMES,
    "videomae": BLOCK_NAMES + ENCODER_NAMES,
    "videomae_classifier": BLOCK_NAMES + CLASSIFIER_NAMES,
}
"""Regular expressions and their replacements, applied in order, by kind of model."""


def our_name(foreign_name: str, kind: str) -> str:
    """The name that a foreign weight has in our model of this kind; unknown names come back unchanged."""
    for pattern, replacement in FOREIGN_NAMES[kind]:
        foreign_name = re.sub(pattern, replacement, foreign_name)
    return foreign_name


def import_state_dict(tensors: Mapping[str, Tensor], model: VideoModel) -> dict[str, Tensor]:
    """Foreign weights under the names and shapes of `model`, for `load_weights`.

    Kernels of patch convolutions are flattened; `q_bias` and `v_bias` are joined around a zero key
    bias, which attention does not notice. Weights that mean nothing to the model keep their names.
    Raises ModelError when two foreign names mean the same weight.
    """
    named: dict[str, Tensor] = {}
    for foreign_name, tensor in tensors.items():
        name = our_name(foreign_name, model.kind)
        if name in named:
            raise ModelError(f"two of the given weights mean {name}; the second is {foreign_name}")
        if name in SCALARS and tensor.numel() == 1:
            tensor = tensor.reshape(())  # some trainers keep them as one number in a row
        named[name] = tensor.flatten(1) if name.endswith("patch.weight") else tensor
    for stem in [name.removesuffix("q_bias") for name in named if name.endswith("attn.q_bias")]:
        if f"{stem}v_bias" in named:
            query, value = named.pop(f"{stem}q_bias"), named.pop(f"{stem}v_bias")
            named[f"{stem}qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    return named


def start_from_foreign(
    model: VideoModel,
    path: str | Path,
    *,
    source: str = "",
    key: str | None = None,
    fresh: Sequence[str] = (),
    waive_missing: Sequence[str] = (),
    waive_unexpected: Sequence[str] = (),
) -> LoadReport:
    """Fill `model` with the weights of a file that another trainer wrote, called `source` in errors.

    A classifier leaves behind what STARTS says it leaves of a pretrained model. Which activation, norm
    epsilon and pixel normalisation the weights were trained with is not in such files: the architecture
    says it. Raises ModelError as read_checkpoint and load_weights.
    """
    tensors = read_checkpoint(path, key=key)
    waived = {"fresh": fresh, "waive_missing": waive_missing, "waive_unexpected": waive_unexpected}
    return _load_foreign(model, tensors, source=source or str(path), **waived)


def check_weights(stage: StageSettings, path: str | Path, *, classes: int | None = None) -> None:
    """Raise ValueError unless the stage can start from the file `path` that its `start_weights` names.

    Reads all of it, values too: about a second for a gigabyte. Without `classes` a classifier has as many as
    the file's own head.
    """
    kind = kind_of(stage)
    tensors = read_checkpoint(path, key=stage.start_weights_key)
    arguments: dict[str, Any] = {"frames": stage.frames, "image_size_px": stage.image_size_px}
    if stage.task == "classification":
        heads = (len(x) for name, x in tensors.items() if our_name(name, kind) == "head.weight" and x.ndim)
        arguments["classes"] = classes or next(heads, 1)
    if stage.loss_name == "sigmoid":
        arguments["logit_bias"] = 0.0
    with torch.device("meta"):
        model = build_model(kind, stage.model, **arguments)
    _load_foreign(
        model,
        tensors,
        source=str(path),
        fresh=stage.start_fresh,
        waive_missing=stage.waive_missing,
        waive_unexpected=stage.waive_unexpected,
    )


def _load_foreign(
    model: VideoModel, tensors: Mapping[str, Tensor], *, source: str, **waived: Sequence[str]
) -> LoadReport:
    if any(".timeattn." in name for name in tensors):
        raise ModelError(
            f"{source}: a TimeSformer such as LaViLa's or EgoVLP's; no model here has its divided attention"
        )
    left_behind = [p for (_, kind), patterns in STARTS.items() if kind == model.kind for p in patterns]
    try:
        named = import_state_dict(tensors, model)
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from None
    return load_weights(model, without(named, [*left_behind, *NO_WEIGHTS]), source=source, **waived)
