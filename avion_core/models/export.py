"""Export weights: to files of AVION, in both key layouts, LaViLa and EgoVLP, and to folders for open_clip.

Names come from tables of the models and towers (`names`), which `foreign.py` reads in the other direction.
The layouts of AVION, LaViLa and EgoVLP import exactly. open_clip supports images only: its folder holds the
dual encoder at one frame, with the temporal embedding added to the spatial one, and our own two files, from
which the video model can be restored.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from avion_core.files import publish, write_json
from avion_core.models.architecture import DualEncoderConfig, NarratorConfig
from avion_core.models.base import VideoModel, model_class
from avion_core.models.names import Part, formats, to_theirs
from avion_core.models.store import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    ModelDescription,
    load_model,
    read_description,
    write_tensors,
)
from avion_core.models.towers import TextConfig, VisionConfig
from avion_core.models.weights import ModelError

AVION_MODELS = {
    "clip_vit_b_16": "CLIP_VITB16",
    "clip_vit_l_14": "CLIP_VITL14",
    "clip_vit_l_14_336": "CLIP_VITL14_336PX",
}
"""AVION's names of architectures."""
LAVILA_MODELS = {
    "lavila_tsf_b": "CLIP_OPENAI_TIMESFORMER_BASE",
    "lavila_tsf_l": "CLIP_OPENAI_TIMESFORMER_LARGE",
    "lavila_tsf_l_336": "CLIP_OPENAI_TIMESFORMER_LARGE_336PX_DISTILBERT_BASE",
    "narrator_gpt2": "VCLM_OPENAI_TIMESFORMER_BASE_GPT2",
    "narrator_gpt2_xl": "VCLM_OPENAI_TIMESFORMER_LARGE_336PX_GPT2_XL",
    "egovlp_tsf_b": "CLIP_HF_EGOVLP_DISTILBERT_BASE",
}
"""LaViLa's names of architectures."""
LOSS_WEIGHTS = ("logit_scale", "logit_bias")
"""Weights of a dual encoder that belong to its loss."""
OPEN_CLIP_CONFIG = "open_clip_config.json"

CARD = """---
library_name: open_clip
pipeline_tag: zero-shot-image-classification
tags: [clip, egocentric-video]
---
# {title}

The image and text towers of a video dual encoder trained on clips of {frames} frames at {size} px. For an
image the temporal embedding is interpolated to one frame and added to the places. `model.safetensors` and
`model.json` are the video model as it was trained, which the project that trained it reads.

```python
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:path/to/this/folder")
tokenizer = open_clip.get_tokenizer("local-dir:path/to/this/folder")
```
"""


def export_avion(folder: str | Path, out: str | Path, *, flash: bool = False) -> None:
    """Publish the model of `folder` as a `.pt` file with `state_dict` inside, in AVION's names.

    The file also holds the options from which AVION's fine-tuning scripts build the model.
    `flash` uses the names of AVION's flash attention and "fast conv" instead of the plain ones. Everything
    imports exactly, except the key bias, which a plain VideoMAE file lacks: ours is zero unless the model was
    started from a flash file, and it does not affect attention. Raises ModelError if `out` exists.
    """
    _refuse_existing(out)
    model, description = load_model(folder)
    content: dict[str, Any] = {"epoch": 0, "best_acc1": 0.0}
    content["state_dict"] = avion_state_dict(model, flash=flash)
    if model.config.kind in AVION_OPTIONS:
        content["args"] = AVION_OPTIONS[model.config.kind](model.config, description, flash=flash)
    _publish_pickle(content, out)


def export_lavila(folder: str | Path, out: str | Path) -> None:
    """Publish the model of `folder`, with a TimeSformer, as a `.pt` file of LaViLa's.

    The file also holds the options from which LaViLa's scripts build the model. Everything imports exactly.
    Raises ModelError if `out` exists, and for other models.
    """
    _refuse_existing(out)
    model, description = load_model(folder)
    named = _named(model, "lavila", model.state_dict())
    options = LAVILA_OPTIONS[model.config.kind](model.config, description)
    state_dict = {f"module.{name}": tensor for name, tensor in named.items()}
    _publish_pickle({"epoch": 0, "best_acc1": 0.0, "state_dict": state_dict, "args": options}, out)


def export_egovlp(folder: str | Path, out: str | Path) -> None:
    """Publish the model of `folder`, with EgoVLP's towers, as a `.pth` file of EgoVLP's.

    EgoVLP's scripts can test and fine-tune from it; continuing a training needs an object of EgoVLP's own.
    The temperature, which EgoVLP keeps in its loss, is left out; all else imports exactly. Raises ModelError
    if `out` exists, and for other models.
    """
    _refuse_existing(out)
    model, _ = load_model(folder)
    weights = {name: tensor for name, tensor in model.state_dict().items() if name not in LOSS_WEIGHTS}
    named = _named(model, "egovlp", weights)
    state_dict = {f"module.{name}": tensor for name, tensor in named.items()}
    content = {"arch": "FrozenInTime", "epoch": 0, "state_dict": state_dict, "monitor_best": 0.0}
    _publish_pickle(content, out)


def _publish_pickle(content: dict[str, Any], out: str | Path) -> None:
    with publish(out) as draft:
        try:
            torch.save(content, draft)
        except RuntimeError as error:  # torch's error for a full disk
            raise OSError(f"{out}: cannot be written ({str(error).splitlines()[0]})") from None


def avion_options(
    config: DualEncoderConfig, description: ModelDescription, *, flash: bool
) -> argparse.Namespace:
    """AVION's command-line options, which its scripts read from a dual encoder's checkpoint."""
    return argparse.Namespace(
        model=AVION_MODELS.get(description.architecture, description.architecture),
        context_length=config.text.context_length,
        vocab_size=config.text.vocabulary,
        project_embed_dim=config.embed_dim,
        pretrain_zoo="openai",  # AVION loads these before it loads ours
        pretrain_path=None,
        clip_length=description.frames,
        use_fast_conv1=flash,
        use_flash_attn=flash,
        num_classes=description.classes,
        dropout_rate=0.0,
    )


def lavila_options(config: DualEncoderConfig, description: ModelDescription) -> argparse.Namespace:
    """LaViLa's command-line options, which its scripts read from a checkpoint."""
    further = description.further_classes
    heads = {"num_classes": [*further.values(), description.classes], "use_vn_classifier": True}
    return argparse.Namespace(
        model=LAVILA_MODELS.get(description.architecture, description.architecture),
        project_embed_dim=config.embed_dim,
        clip_length=description.frames,
        norm_embed=True,  # compares cosines
        use_cls_token=False,
        load_visual_pretrained=None,
        **(heads if further else {"num_classes": description.classes}),
    )


def lavila_narrator_options(config: NarratorConfig, description: ModelDescription) -> argparse.Namespace:
    """LaViLa's command-line options of a narrator; its size is in the name of the model."""
    return argparse.Namespace(
        model=LAVILA_MODELS.get(description.architecture, description.architecture),
        project_embed_dim=256,  # read, but not used
        clip_length=description.frames,
        use_cls_token=False,
        gated_xattn=True,
        timesformer_gated_xattn=False,
        timesformer_freeze_space=False,
        freeze_lm_vclm=True,
        freeze_visual_vclm=True,
        freeze_visual_vclm_temporal=True,
        random_init_gpt2=False,
        load_visual_pretrained=None,
    )


LAVILA_OPTIONS: dict[str, Callable[..., argparse.Namespace]] = {
    "dual_encoder": lavila_options,
    "narrator": lavila_narrator_options,
}
"""By kind of architecture."""
AVION_OPTIONS: dict[str, Callable[..., argparse.Namespace]] = {"dual_encoder": avion_options}
"""By kind of architecture; VideoMAE's scripts read no options."""


def avion_state_dict(model: VideoModel, *, flash: bool = False) -> dict[str, Tensor]:
    """Weights under AVION's names. The text tower has the plain names in both layouts."""
    return _named(model, "avion_flash" if flash else "avion", model.state_dict())


def _named(model: VideoModel, form: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of `model` in a format. Raises ModelError if the format has no such model."""
    tensors = {name: x for name, x in tensors.items() if name != "logit_scale_narrated"}  # only for training
    parts = model.parts()
    _check_format(model.kind, parts, form)
    named = to_theirs(tensors, parts, form) | model.foreign_copies()
    return {name: x.detach().cpu().clone() for name, x in named.items()}


def _check_format(kind: str, parts: Sequence[Part], form: str) -> None:
    """Raise ModelError if the format has no names for a model's parts."""
    if form not in formats(parts):
        others = ", ".join(sorted(formats(parts) & EXPORTS.keys())) or "no format"
        raise ModelError(f"{form} has no names for this {kind}; it can be written as: {others}")


def export_open_clip(folder: str | Path, out: str | Path) -> None:
    """Publish the dual encoder of `folder` as a folder for open_clip and the Hugging Face hub.

    Raises ModelError if `out` exists, and for a model that is not a dual encoder.
    """
    _refuse_existing(out)
    description, architecture = read_description(folder)
    _check_format(description.kind, model_class(description.kind).names(architecture), "open_clip")
    config, size = cast(DualEncoderConfig, architecture), description.image_size_px
    card = CARD.format(title=description.architecture, frames=description.frames, size=size)
    model, _ = load_model(folder, frames=1)
    with publish(out) as draft:
        draft.mkdir()
        tensors = open_clip_state_dict(model, config)
        write_tensors(tensors, draft / "open_clip_model.safetensors")
        for name in (WEIGHTS_FILE, DESCRIPTION_FILE):
            shutil.copyfile(Path(folder) / name, draft / name)
        built_from = open_clip_config(config, image_size_px=size, biased="logit_bias" in tensors)
        write_json(draft / OPEN_CLIP_CONFIG, built_from)
        (draft / "README.md").write_text(card, encoding="utf-8")


def open_clip_state_dict(model: VideoModel, config: DualEncoderConfig) -> dict[str, Tensor]:
    """Weights of a dual encoder of one frame under open_clip's names, its temporal embedding folded in."""
    tensors = dict(model.state_dict())
    places_ND, time_TD = tensors["vision.positional_embedding"], tensors.pop("vision.temporal_embedding")
    tensors["vision.positional_embedding"] = torch.cat([places_ND[:1], places_ND[1:] + time_TD])
    return _named(model, "open_clip", tensors)


def open_clip_config(
    config: DualEncoderConfig, *, image_size_px: int, biased: bool = False
) -> dict[str, Any]:
    """open_clip's configuration of the same model and preprocessing; `biased` after the sigmoid loss."""
    vision, text = cast(VisionConfig, config.vision), cast(TextConfig, config.text)
    return {
        "model_cfg": {
            "embed_dim": config.embed_dim,
            "init_logit_bias": 0.0 if biased else None,
            "quick_gelu": config.activation == "quick_gelu",
            "vision_cfg": {
                "image_size": image_size_px,
                "patch_size": vision.patch_px,
                "width": vision.width,
                "layers": vision.layers,
                "head_width": vision.width // vision.heads,
                "mlp_ratio": vision.mlp_ratio,
                "norm_kwargs": {"eps": vision.norm_eps},
            },
            "text_cfg": {
                "context_length": text.context_length,
                "vocab_size": text.vocabulary,
                "width": text.width,
                "layers": text.layers,
                "heads": text.heads,
                "mlp_ratio": text.mlp_ratio,
                "norm_kwargs": {"eps": text.norm_eps},
            },
        },
        "preprocess_cfg": {
            "mean": [value / 255 for value in config.pixel_mean],
            "std": [value / 255 for value in config.pixel_std],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def _refuse_existing(out: str | Path) -> None:
    """Refuse to replace anything: users may have added files to an earlier export, such as a `.git`."""
    if os.path.lexists(out):
        raise ModelError(f"{out}: is there already; name another path, or remove it first")


EXPORTS: dict[str, Callable[[str | Path, str | Path], None]] = {
    "avion": export_avion,
    "avion_flash": partial(export_avion, flash=True),
    "lavila": export_lavila,
    "egovlp": export_egovlp,
    "open_clip": export_open_clip,
}
"""Every format by its name."""
