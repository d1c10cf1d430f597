"""Models on disk: a folder with `model.safetensors` and `model.json`, and the rules for starting from one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from avion_core.config import known
from avion_core.files import publish, read_json, write_json
from avion_core.models.architecture import (
    STARTS,
    ModelConfig,
    check_start,
    load_architecture,
    parse_architecture,
)
from avion_core.models.base import VideoModel
from avion_core.models.classifier import VideoClassifier
from avion_core.models.dual_encoder import DualEncoder
from avion_core.models.videomae import VideoMAE, VideoMAEClassifier
from avion_core.models.weights import LoadReport, ModelError, load_weights, without

WEIGHTS_FILE = "model.safetensors"
DESCRIPTION_FILE = "model.json"

MODELS: dict[str, type[VideoModel]] = {
    "dual_encoder": DualEncoder,
    "video_classifier": VideoClassifier,
    "videomae": VideoMAE,
    "videomae_classifier": VideoMAEClassifier,
}
"""Every model by its kind."""


@dataclass(frozen=True)
class ModelDescription:
    """What `model.json` says beside the architecture's values."""

    kind: str
    """Name in MODELS."""
    architecture: str
    """Name of the architecture's file, for the reader; its values are stored beside it."""
    frames: int
    """Frames of a clip."""
    image_size_px: int
    """Side of the square input."""
    classes: int = 0
    """Outputs of a classifier's head; 0 for other models."""
    label: str = ""
    """What a classifier predicts: action, verb, noun or label."""
    extras: dict[str, Any] = field(default_factory=dict)
    """Anything else worth keeping, as JSON."""


def build_model(kind: str, architecture: str | ModelConfig, **arguments: Any) -> VideoModel:
    """A fresh model from torch's generator; `arguments` go to the class (frames, image_size_px, …).

    Raises ValueError for an unknown kind or architecture, or one that the kind cannot be built from.
    """
    known([kind], MODELS, "kind of model")
    config = load_architecture(architecture) if isinstance(architecture, str) else architecture
    wanted = MODELS[kind].architecture_kind
    if config.kind != wanted:
        raise ModelError(f"a {kind} needs a {wanted} architecture; '{architecture}' is a {config.kind}")
    return MODELS[kind](config, **arguments)


def save_model(folder: str | Path, model: VideoModel, description: ModelDescription) -> None:
    """Publish `model.safetensors` and then `model.json` in `folder`."""
    if description.kind != model.kind:
        raise ValueError(f"the description says '{description.kind}', the model is a '{model.kind}'")
    with publish(Path(folder) / WEIGHTS_FILE) as draft:
        write_tensors(model.state_dict(), draft, kind=model.kind)
    config = model.config.model_dump(mode="json")
    write_json(Path(folder) / DESCRIPTION_FILE, {**asdict(description), "config": config})


def load_model(
    folder: str | Path, *, frames: int | None = None, image_size_px: int | None = None
) -> tuple[VideoModel, ModelDescription]:
    """The model of a folder in evaluation mode, with its description.

    With `frames` or `image_size_px` it is built for these, its position tables interpolated.
    Raises ModelError when a file is missing, cut short, or of another architecture.
    """
    description, config = read_description(folder)
    description = replace(
        description,
        frames=frames or description.frames,
        image_size_px=image_size_px or description.image_size_px,
    )
    sizes = {"frames": description.frames, "image_size_px": description.image_size_px}
    tensors = read_tensors(Path(folder) / WEIGHTS_FILE)
    optional: dict[str, Any] = {"classes": description.classes} if description.classes else {}
    if "logit_bias" in tensors:  # of a dual encoder that was trained with the sigmoid loss
        optional["logit_bias"] = 0.0
    model = build_model(description.kind, config, **sizes, **optional)
    load_weights(model, tensors, source=str(folder))
    return model.eval(), description


def read_description(folder: str | Path) -> tuple[ModelDescription, ModelConfig]:
    """Description and architecture of a model folder, without its weights."""
    path = Path(folder) / DESCRIPTION_FILE
    if not path.is_file():
        raise ModelError(
            f"{folder}: no {DESCRIPTION_FILE} here; a model folder is what a training stage writes"
        )
    raw = read_json(path)
    try:
        config = parse_architecture(raw.pop("config"), where=str(path))
        description = ModelDescription(**raw)
    except (AttributeError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not a model description ({error})") from None
    known([description.kind], MODELS, f"{path}: kind")
    return description, config


def write_tensors(tensors: Mapping[str, Tensor], path: Path, **metadata: str) -> None:
    """Write a safetensors file. Raises OSError naming it where that fails, as on a full disk."""
    try:
        save_file(
            {name: x.detach().cpu().contiguous() for name, x in tensors.items()}, path, metadata or None
        )
    except SafetensorError as error:
        raise OSError(f"{path}: cannot be written ({error})") from None


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises ModelError when it is missing, cut short or something else."""
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

    The same kind takes everything, a classifier takes its encoder's tower (STARTS); a fresh head must
    be waived as missing. Raises ModelError when the kinds do not fit, when the source was made with
    values that its shapes do not show (activation, heads, pixel normalisation), and as load_weights.
    """
    description, config = read_description(folder)
    try:
        check_start(model.kind, description.kind)
    except ValueError as error:
        raise ModelError(f"{folder}: {error}") from None
    _check_same_arithmetic(config, model.config, folder)
    return load_weights(
        model,
        without(read_tensors(Path(folder) / WEIGHTS_FILE), STARTS.get((description.kind, model.kind), ())),
        fresh=fresh,
        waive_missing=waive_missing,
        waive_unexpected=waive_unexpected,
        source=str(folder),
    )


def _check_same_arithmetic(source: ModelConfig, target: ModelConfig, folder: str | Path) -> None:
    ours, theirs = _arithmetic(target), _arithmetic(source)
    for name in ours.keys() & theirs.keys():
        if ours[name] != theirs[name]:
            raise ModelError(
                f"{folder}: was made with {name} {theirs[name]}, this model has {ours[name]}; "
                "take the same architecture"
            )


def _arithmetic(config: ModelConfig) -> dict[str, Any]:
    """Values that change a model's results without changing the shape of its weights."""
    silent = ("heads", "decoder_heads", "norm_eps", "activation", "pixel_mean", "pixel_std")
    values: dict[str, Any] = {}
    for name, value in config.model_dump().items():
        if isinstance(value, dict):
            values |= {f"{name}.{inner}": value[inner] for inner in silent if inner in value}
        elif name in silent:
            values[name] = value
    return values
