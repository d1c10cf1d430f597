"""Import third-party weights: CLIP's, AVION's and VideoMAE's in both key layouts, LaViLa's and EgoVLP's.

Each model and tower maps the names of all formats to its own (`names`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from avion_core.config import StageSettings
from avion_core.models.architecture import MODELS
from avion_core.models.base import VideoModel, model_class
from avion_core.models.checkpoint_file import read_checkpoint
from avion_core.models.names import Part, Reader, to_ours
from avion_core.models.store import shapes_of
from avion_core.models.weights import LoadReport, ModelError, load_weights, without

NO_WEIGHTS = ("attn_mask", "input_resolution", "context_length", "vocab_size", "n_averaged")
"""Entries beside weights in OpenAI's and older open_clip files, and in torch's running average."""

EGOVLP_V2 = ("text_model.encoder.layer.", "cross_modal_")
"""Beginnings of names that only EgoVLPv2's models have: a RoBERTa, fused with the video tower."""
SEVERAL_HEADS = r"head\.\d+\.weight"
"""Weights of LaViLa's classifiers of verbs, nouns and actions at once, under our names."""


def our_name(foreign_name: str, model: VideoModel) -> str:
    """Name of a foreign weight in such a model; unknown names are returned unchanged."""
    return Reader(_parts(model)).place(foreign_name).name


def import_state_dict(tensors: Mapping[str, Tensor], model: VideoModel) -> dict[str, Tensor]:
    """Foreign weights under the names and in the dimensions of `model`, for `load_weights`.

    Weights unknown to the model, and to those it may start from, keep their names. Raises ModelError if two
    foreign names map to the same weight.
    """
    own = model.state_dict()
    try:
        named = to_ours(tensors, _parts(model), like=own)
    except ValueError as error:
        raise ModelError(str(error)) from None
    return _with_one_head(named, outputs=len(own["head.weight"])) if "head.weight" in own else named


def _with_one_head(named: Mapping[str, Tensor], *, outputs: int) -> dict[str, Tensor]:
    """Of LaViLa's three heads (verb, noun, action) the only one with as many outputs, else all of them."""
    heads = [n.removesuffix("weight") for n in named if re.fullmatch(SEVERAL_HEADS, n)]
    fitting = [head for head in heads if named[f"{head}weight"].shape[:1] == (outputs,)]
    if len(fitting) != 1:
        return dict(named)
    others = tuple(head for head in heads if head not in fitting)
    kept = {name: tensor for name, tensor in named.items() if not name.startswith(others)}
    return {name.replace(fitting[0], "head."): tensor for name, tensor in kept.items()}


def _parts(model: VideoModel) -> list[Part]:
    """The model's own, and those of the kinds of its architecture that it may start from."""
    alike = (kind for kind in MODELS[model.kind].starts if MODELS[kind].architecture == model.config.kind)
    starts = [part for kind in alike for part in model_class(kind).names(model.config)]
    return [*model.parts(), *starts]


def start_from_foreign(
    model: VideoModel,
    *paths: str | Path,
    source: str = "",
    key: str | None = None,
    fresh: Sequence[str] = (),
    waive_missing: Sequence[str] = (),
    waive_unexpected: Sequence[str] = (),
) -> LoadReport:
    """Fill `model` with the weights of a third-party file, or of several together, called `source` in errors.

    A classifier skips weights that it has no use for (`ModelKind.starts`). Such files do not record the
    activation, norm epsilon and pixel normalisation of training: the architecture must match. Raises
    ModelError as read_checkpoint and load_weights.
    """
    tensors = _read_all(paths, key=key)
    waived = {"fresh": fresh, "waive_missing": waive_missing, "waive_unexpected": waive_unexpected}
    return _load_foreign(model, tensors, source=source or _joined(paths), **waived)


def check_weights(stage: StageSettings, *paths: str | Path, classes: Mapping[str, int] | None = None) -> None:
    """Raise ValueError unless the stage can start from these files, its `start_weights`.

    Reads the whole files with values: about a second per gigabyte. Labels without a number of `classes` have
    as many as the file's own head.
    """
    tensors = _read_all(paths, key=stage.start_weights_key)
    model = shapes_of(stage, {**_classes_in(tensors, stage), **(classes or {})})
    report = _load_foreign(model, tensors, source=_joined(paths), **stage.waivers())
    model.check_frozen(stage.frozen, fresh=report.missing)
    model.after_start(report.missing)


def _read_all(paths: Sequence[str | Path], *, key: str | None) -> dict[str, Tensor]:
    """The weights of all files. Raises ModelError for a name that two of them have."""
    tensors: dict[str, Tensor] = {}
    for path in paths:
        own = read_checkpoint(path, key=key)
        if twice := sorted(own.keys() & tensors.keys()):
            raise ModelError(f"{path}: has {twice[0]}, as another file of start_weights has; leave one out")
        tensors |= own
    return tensors


def _joined(paths: Sequence[str | Path]) -> str:
    return " and ".join(map(str, paths))


def _classes_in(tensors: Mapping[str, Tensor], stage: StageSettings) -> dict[str, int]:
    """Outputs of a file's heads by label; one head has those of the label, of several the last (LaViLa's for
    actions)."""
    if stage.trains != "classes":
        return {}
    reader = Reader(_parts(shapes_of(stage)))
    named = {reader.place(name).name: tensor for name, tensor in tensors.items() if tensor.ndim}
    heads = sorted(name for name in named if name == "head.weight" or re.fullmatch(SEVERAL_HEADS, name))
    found = {stage.predicts: heads[-1]} if heads else {}
    found |= {label: f"further_heads.{label}.weight" for label in stage.labels[1:]}
    return {label: len(named[name]) for label, name in found.items() if name in named}


def _load_foreign(
    model: VideoModel, tensors: Mapping[str, Tensor], *, source: str, **waived: Sequence[str]
) -> LoadReport:
    left_behind = [pattern for patterns in MODELS[model.kind].starts.values() for pattern in patterns]
    try:
        named = import_state_dict(tensors, model)
        model.check_foreign(named)
    except ValueError as error:
        raise ModelError(f"{source}: {error}") from None
    if any(name.startswith(EGOVLP_V2) for name in named):
        raise ModelError(
            f"{source}: EgoVLPv2's model, whose towers attend to each other; there is no such model here. "
            "Start from EgoVLP's or LaViLa's weights"
        )
    theirs_divides, ours_divides = (
        any(".timeattn." in name for name in names) for names in (named, model.state_dict())
    )
    if theirs_divides and not ours_divides:
        raise ModelError(
            f"{source}: a TimeSformer such as LaViLa's or EgoVLP's; this model has no divided attention. Use "
            "a model such as lavila_tsf_b, lavila_tsf_l or egovlp_tsf_b"
        )
    kept = without(named, [*left_behind, *NO_WEIGHTS, *model.not_weights])
    return load_weights(model, kept, source=source, is_start=True, **waived)
