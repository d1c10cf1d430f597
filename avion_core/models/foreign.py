"""Others' weights under our names: AVION's and VideoMAE's checkpoints, in both of their key layouts.

The plain layout (`in_proj_weight`, `mlp.c_fc`, `qkv` with `q_bias` and `v_bias`) and the flash-attention
layout (`Wqkv`, `mlp.fc1`) hold the same numbers; convolution kernels and matrices of patches do too.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avion_core.models.base import VideoModel
from avion_core.models.store import ModelError, read_tensors

BLOCK_NAMES: tuple[tuple[str, str], ...] = (
    (r"^(module\.)+", ""),
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
    (r"^visual\.(?:image_projection|proj)$", "vision.projection"),
    (r"^visual\.", "vision."),
    (r"^textual\.", "text."),
    (r"^(blocks\.|token_embedding\.|positional_embedding$|ln_final\.|text_projection$)", r"text.\1"),
    (r"^text\.text_projection$", "text.projection"),
    (r"^fc_cls\.", "head."),
)
"""AVION's towers, and OpenAI's and open_clip's, whose text tower has no prefix."""

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
        named[name] = tensor.flatten(1) if name.endswith("patch.weight") else tensor
    for stem in [name.removesuffix("q_bias") for name in named if name.endswith("attn.q_bias")]:
        if f"{stem}v_bias" in named:
            query, value = named.pop(f"{stem}q_bias"), named.pop(f"{stem}v_bias")
            named[f"{stem}qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    return named


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Weights of a foreign `.safetensors` or `.pt` file, under their own names.

    A `.pt` may be a training checkpoint with `state_dict` or `model` inside and an argparse Namespace
    beside it; nothing else that could run code is admitted. Raises ModelError for anything else.
    """
    if Path(path).suffix == ".safetensors":
        return read_tensors(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path}: cut short, or not a checkpoint of weights alone ({reason})") from None
    for inner in ("state_dict", "model", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(inner), Mapping):
            content = content[inner]
            break
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path}: holds no weights under 'state_dict', 'model' or at its top")
    return dict(content)
