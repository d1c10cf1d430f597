"""Others' weights under our names: CLIP's, and AVION's and VideoMAE's in both of their key layouts.

The plain layout (`in_proj_weight`, `mlp.c_fc`, `qkv` with `q_bias` and `v_bias`) and the flash-attention
layout (`Wqkv`, `mlp.fc1`) hold the same numbers; convolution kernels and matrices of patches do too.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avion_core.config import OPEN_CLIP, known
from avion_core.models.architecture import STARTS
from avion_core.models.base import VideoModel
from avion_core.models.store import LoadReport, ModelError, load_weights, read_tensors, without

BLOCK_NAMES: tuple[tuple[str, str], ...] = (
    (r"^((?:module|_orig_mod)\.)+", ""),
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
NO_WEIGHTS = ("attn_mask", "input_resolution", "context_length", "vocab_size")
"""What OpenAI's and older open_clip files hold beside weights."""

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


class Inert:
    """What a table among the options becomes: takes everything, keeps nothing, does nothing."""

    def __new__(cls, *values: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *values: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


TABLE_NAMES = (
    "pandas.DataFrame",
    "pandas.Index",
    "pandas.RangeIndex",
    "pandas._libs.internals._unpickle_block",
    "pandas.core.frame.DataFrame",
    "pandas.core.indexes.base.Index",
    "pandas.core.indexes.base._new_Index",
    "pandas.core.indexes.numeric.Int64Index",
    "pandas.core.indexes.range.RangeIndex",
    "pandas.core.internals.managers.BlockManager",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "builtins.slice",
)
"""What tables of pandas are made of; AVION's classifiers have their list of actions as one."""

ADMITTED: list[Any] = [
    argparse.Namespace,
    *((Inert, name) for name in TABLE_NAMES),
    *(
        (pure, f"{module}.{prefix}{pure.__name__.removeprefix('Pure')}")
        for pure in (PurePosixPath, PureWindowsPath)
        for prefix in ("", "Pure")
        for module in ("pathlib", "pathlib._local")
    ),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *{type(np.dtype(code)) for code in "?O" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]},
]
"""What a `.pt` may hold beside tensors and Python's own values: options, tables and paths among them (any
system's, as Python 3.13 names them too; they become pure ones), and numbers of numpy 1 or 2, such as a best
accuracy."""


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


def start_from_foreign(
    model: VideoModel,
    source: str,
    *,
    fresh: Sequence[str] = (),
    waive_missing: Sequence[str] = (),
    waive_unexpected: Sequence[str] = (),
) -> LoadReport:
    """Fill `model` with others' weights: a file, or `open_clip:<model>/<tag>`.

    A classifier leaves behind what STARTS says it leaves of a pretrained model. Which activation, norm
    epsilon and pixel normalisation the weights were trained with is not in such files: the architecture
    says it. Raises ModelError as read_checkpoint and load_weights, and for a name open_clip does not know.
    """
    path = open_clip_file(source.removeprefix(OPEN_CLIP)) if source.startswith(OPEN_CLIP) else Path(source)
    tensors = read_checkpoint(path)
    if any(".timeattn." in name for name in tensors):
        raise ModelError(f"{source}: LaViLa's TimeSformer, whose divided attention no model here has")
    left_behind = [p for (_, kind), patterns in STARTS.items() if kind == model.kind for p in patterns]
    return load_weights(
        model,
        without(import_state_dict(tensors, model), [*left_behind, *NO_WEIGHTS]),
        fresh=fresh,
        waive_missing=waive_missing,
        waive_unexpected=waive_unexpected,
        source=source,
    )


def open_clip_file(name: str) -> Path:
    """The weights that open_clip has under `<model>/<tag>`, downloaded into its cache where they are not yet.

    Raises ModelError naming the nearest for an unknown model or tag, and when the download fails.
    """
    import open_clip

    model, _, tag = name.partition("/")
    try:
        known([model], open_clip.list_models(), f"{OPEN_CLIP}{name}: model")
        known([tag], open_clip.list_pretrained_tags_by_model(model), f"{OPEN_CLIP}{name}: tag")
        return Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(model, tag)))
    except ValueError as error:
        raise ModelError(str(error)) from None
    except (OSError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{OPEN_CLIP}{name}: cannot be downloaded ({reason}); fetch the file elsewhere and name its path"
        ) from None


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Weights of a foreign `.safetensors` or `.pt` file, under their own names.

    A `.pt` may be a training checkpoint with `state_dict` or `model` inside and ADMITTED beside it, or a
    TorchScript archive such as OpenAI publishes; nothing else that could run code is admitted. Raises
    ModelError for anything else.
    """
    if Path(path).suffix == ".safetensors":
        return read_tensors(path)
    if _is_torchscript(path):
        return _read_torchscript(path)
    try:
        with torch.serialization.safe_globals(ADMITTED):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it calls {code[1]}" if code else (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path}: cut short, or not a checkpoint of weights alone ({reason})") from None
    for inner in ("state_dict", "model", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(inner), Mapping):
            content = content[inner]
            break
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path}: holds no weights under 'state_dict', 'model' or at its top")
    return dict(content)


def _is_torchscript(path: str | Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_torchscript(path: str | Path) -> dict[str, Tensor]:
    """Weights of a TorchScript archive; one that would run code of its own on loading is refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            code = [archive.read(name) for name in archive.namelist() if "/code/" in name]
        if any(b"__setstate__" in text for text in code):
            raise ModelError(f"{path}: a TorchScript archive that runs code when it is loaded")
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
    except (RuntimeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: not a TorchScript archive ({str(error).splitlines()[0]})") from None
