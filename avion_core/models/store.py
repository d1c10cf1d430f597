"""Models on disk: a folder with `model.safetensors` and `model.json`, and rules for starting from one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from avion_core.config import StageSettings, known
from avion_core.files import publish, read_json, write_json
from avion_core.models.architecture import (
    MODELS,
    Architecture,
    load_architecture,
    model_kind,
    parse_architecture,
)
from avion_core.models.base import VideoModel, model_class
from avion_core.models.starts import check_start
from avion_core.models.weights import LoadReport, ModelError, load_weights, without

WEIGHTS_FILE = "model.safetensors"
DESCRIPTION_FILE = "model.json"


@dataclass(frozen=True)
class ModelDescription:
    """Fields of `model.json` besides the architecture's values."""

    kind: str
    """Name in `architecture.MODELS`."""
    architecture: str
    """Name of the architecture's file, for information; its values are stored beside it."""
    frames: int
    """Frames of a clip."""
    image_size_px: int
    """Side of the square input."""
    classes: int = 0
    """Outputs of a classifier's head; 0 for other models."""
    further_classes: Mapping[str, int] = field(default_factory=dict)
    """Outputs of its heads for further labels, by label; not written if there are none."""
    label: str = ""
    """What a classifier predicts: action, verb, noun or label."""
    task: str = ""
    """Task it was trained for."""
    sampling: str | None = None
    """Sampling rule of its frames (`media.sample`); None if unknown."""
    stride: int | None = None
    """Distance of a window's frames; None if unknown."""

    @property
    def heads(self) -> dict[str, int]:
        """Outputs of a classifier's heads by label, in the order of its logits."""
        return {self.label: self.classes, **self.further_classes}

    @property
    def class_arguments(self) -> dict[str, Any]:
        """Arguments that build a classifier's heads."""
        further = {"further_classes": self.further_classes} if self.further_classes else {}
        return {"classes": self.classes, **further} if self.classes else {}


def build_model(kind: str, architecture: str | Architecture, **arguments: Any) -> VideoModel:
    """A fresh model from torch's generator; `arguments` go to the class (frames, image_size_px, …).

    Raises ValueError for an unknown kind or architecture, or an architecture of another kind.
    """
    wanted = MODELS[kind].architecture
    config = load_architecture(architecture) if isinstance(architecture, str) else architecture
    if config.kind != wanted:
        raise ModelError(f"a {kind} needs a {wanted} architecture; '{architecture}' is a {config.kind}")
    model: VideoModel = model_class(kind)(config, **arguments)
    return model


def save_model(folder: str | Path, model: VideoModel, description: ModelDescription) -> None:
    """Publish `model.safetensors` and then `model.json` in `folder`."""
    if description.kind != model.kind:
        raise ValueError(f"the description says '{description.kind}', the model is a '{model.kind}'")
    with publish(Path(folder) / WEIGHTS_FILE) as draft:
        write_tensors(model.state_dict(), draft, kind=model.kind)
    config = model.config.model_dump(mode="json")
    written = asdict(description)
    if not description.further_classes:  # as in files from before this field
        del written["further_classes"]
    write_json(Path(folder) / DESCRIPTION_FILE, {**written, "config": config})


def load_model(
    folder: str | Path, *, frames: int | None = None, image_size_px: int | None = None
) -> tuple[VideoModel, ModelDescription]:
    """Load the model of a folder in evaluation mode, with its description.

    `frames` and `image_size_px` override the stored values; position tables are interpolated.
    Raises ModelError if a file is missing, cut short, or of another architecture.
    """
    description, config = read_description(folder)
    description = replace(
        description,
        frames=frames or description.frames,
        image_size_px=image_size_px or description.image_size_px,
    )
    sizes = {"frames": description.frames, "image_size_px": description.image_size_px}
    tensors = read_tensors(Path(folder) / WEIGHTS_FILE)
    optional = model_class(description.kind).optional_arguments(tensors)
    model = build_model(description.kind, config, **sizes, **description.class_arguments, **optional)
    load_weights(model, tensors, source=str(folder))
    return model.eval(), description


def read_description(folder: str | Path) -> tuple[ModelDescription, Architecture]:
    """Description and architecture of a model folder, without its weights."""
    path = Path(folder) / DESCRIPTION_FILE
    if not path.is_file():
        raise ModelError(
            f"{folder}: no {DESCRIPTION_FILE} here; a model folder is what a training stage writes"
        )
    raw = read_json(path)
    try:
        config = parse_architecture(raw.pop("config"), where=str(path))
        description = ModelDescription(**_flat(raw))
    except (AttributeError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not a model description ({error})") from None
    known([description.kind], MODELS, f"{path}: kind")
    return description, config


def _flat(raw: dict[str, Any]) -> dict[str, Any]:
    """Fields of a description, including those that earlier versions kept under `extras`."""
    extras = raw.pop("extras", {})
    return {**raw, **{name: extras[name] for name in ("task", "sampling", "stride") if name in extras}}


def write_tensors(tensors: Mapping[str, Tensor], path: Path, **metadata: str) -> None:
    """Write a safetensors file. Raises OSError naming it where that fails, as on a full disk."""
    try:
        save_file(
            {name: x.detach().cpu().contiguous() for name, x in tensors.items()}, path, metadata or None
        )
    except SafetensorError as error:
        raise OSError(f"{path}: cannot be written ({error})") from None


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises ModelError if it is missing, cut short or something else."""
    if not Path(path).is_file():
        raise ModelError(f"{path}: no such file")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: cut short or not a safetensors file ({error})") from None


def start_from(
    model: VideoModel,
    folder: str | Path,
    *,
    fresh: Sequence[str] = (),
    waive_missing: Sequence[str] = (),
    waive_unexpected: Sequence[str] = (),
) -> LoadReport:
    """Fill `model` with the weights of a previous stage's folder.

    From another kind, the weights in `ModelKind.starts` are left out; a fresh head must be waived as missing.
    Raises ModelError if the kinds do not fit or the source has another activation, number of heads or pixel
    normalisation (which shapes do not show), and as load_weights.
    """
    description, config = read_description(folder)
    waived = {"fresh": fresh, "waive_missing": waive_missing, "waive_unexpected": waive_unexpected}
    return _fill(
        model,
        read_tensors(Path(folder) / WEIGHTS_FILE),
        kind=description.kind,
        config=config,
        source=str(folder),
        **waived,
    )


def check_stage_start(
    stage: StageSettings,
    source: StageSettings,
    *,
    classes: Mapping[str, int] | None = None,
    source_classes: Mapping[str, int] | None = None,
) -> None:
    """Raise ValueError unless a stage can start from the model that `source` trains, by names and shapes.

    Numbers of classes are by label; without them, both have one class of each label.
    """
    model, start = shapes_of(stage, classes), shapes_of(source, source_classes)
    report = _fill(
        model,
        start.state_dict(),
        kind=start.kind,
        config=start.config,
        source=str(stage.start),
        **stage.waivers(),
    )
    model.check_frozen(stage.frozen, fresh=report.missing)
    model.after_start(report.missing)


def shapes_of(stage: StageSettings, classes: Mapping[str, int] | None = None) -> VideoModel:
    """The model that a stage trains, on the device "meta"; labels without a number have one class."""
    heads = stage.class_arguments(lambda label: (classes or {}).get(label, 1))
    with torch.device("meta"):
        return build_model(model_kind(stage), stage.model, **stage.model_arguments(), **heads)


def _fill(
    model: VideoModel,
    tensors: Mapping[str, Tensor],
    *,
    kind: str,
    config: Architecture,
    source: str,
    **waived: Sequence[str],
) -> LoadReport:
    """Fill `model` with the weights of a model of this kind and architecture."""
    try:
        check_start(model.kind, kind)
    except ValueError as error:
        raise ModelError(f"{source}: {error}") from None
    _check_same_arithmetic(config, model.config, source)
    taken = without(tensors, MODELS[model.kind].starts.get(kind, ()))
    return load_weights(model, taken, source=source, is_start=True, **waived)


def _check_same_arithmetic(source: Architecture, target: Architecture, folder: str | Path) -> None:
    theirs = source.arithmetic()
    for name, value in target.arithmetic().items():
        if theirs.get(name, value) != value:
            raise ModelError(
                f"{folder}: was made with {name} {theirs[name]}, this model has {value}; "
                "take the same architecture"
            )
