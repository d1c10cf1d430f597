"""Architectures are data: one YAML file each in `architectures/`, checked here with what a stage makes of it.

Nothing here needs torch, so that a plan is checked before there is any work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from avion_core.config import Count, Positive, Section, StageSettings, known
from avion_core.models.towers import TextConfig, VisionConfig, check_heads

FOLDER = Path(__file__).parent / "architectures"
Pixels = tuple[float, float, float]

KINDS: dict[tuple[str, str], str] = {
    ("contrastive", "dual_encoder"): "dual_encoder",
    ("relevancy", "dual_encoder"): "dual_encoder",
    ("classification", "dual_encoder"): "video_classifier",
    ("classification", "videomae"): "videomae_classifier",
    ("reconstruction", "videomae"): "videomae",
}
"""Kind of model (`store.MODELS`) by task and kind of architecture."""

STARTS: dict[tuple[str, str], tuple[str, ...]] = {
    ("dual_encoder", "video_classifier"): ("text.*", "logit_scale", "logit_bias", "vision.projection"),
    ("videomae", "videomae_classifier"): ("norm.*", "encoder_to_decoder.*", "mask_token", "decoder.*"),
}
"""Which kind may start from which other, and the source's weights that are left behind then."""


class DualEncoderConfig(Section):
    """A video tower and a text tower that meet in one embedding space."""

    kind: Literal["dual_encoder"] = "dual_encoder"
    vision: VisionConfig
    text: TextConfig
    embed_dim: Count
    """Numbers in an embedding."""
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    """AVION's checkpoints need exact GELU, OpenAI's CLIP needs QuickGELU."""
    pixel_mean: Pixels = (108.3272985, 116.7460125, 104.09373615)
    """Mean of red, green, blue on 0…255; the default is LaViLa's and AVION's."""
    pixel_std: Pixels = (68.5005327, 66.6321579, 70.32316305)
    """Standard deviation of red, green, blue on 0…255."""

    def check_input(self, *, frames: int, image_size_px: int) -> None:
        """Raise ValueError unless the image size is a multiple of the patch."""
        _check_multiple("image_size_px", image_size_px, "the patch", self.vision.patch_px)


class VideoMAEConfig(Section):
    """A masked autoencoder of video tubelets (VideoMAE, NeurIPS 2022)."""

    kind: Literal["videomae"] = "videomae"
    width: Count
    """Numbers in an encoder token."""
    layers: Count
    """Encoder blocks."""
    heads: Count
    """Encoder attention heads; they divide the width."""
    patch_px: Count = 16
    """Side of a tubelet."""
    tubelet_frames: Count = 2
    """Frames in a tubelet."""
    decoder_width: Count
    """Numbers in a decoder token."""
    decoder_layers: Count = 4
    """Decoder blocks."""
    decoder_heads: Count
    """Decoder attention heads; they divide the decoder's width."""
    mlp_ratio: Positive = 4.0
    """Width of the MLPs' hidden layer over the transformer's."""
    norm_eps: Positive = 1e-6
    """Epsilon of the layer norms."""
    pixel_mean: Pixels = (123.675, 116.28, 103.53)
    """Mean of red, green, blue on 0…255; the default is ImageNet's."""
    pixel_std: Pixels = (58.395, 57.12, 57.375)
    """Standard deviation of red, green, blue on 0…255."""

    @model_validator(mode="after")
    def _heads_divide(self) -> VideoMAEConfig:
        check_heads(self.width, self.heads)
        check_heads(self.decoder_width, self.decoder_heads)
        return self

    def check_input(self, *, frames: int, image_size_px: int) -> None:
        """Raise ValueError unless frames and image size are multiples of the tubelet."""
        _check_multiple("image_size_px", image_size_px, "the patch", self.patch_px)
        _check_multiple("frames", frames, "the tubelet", self.tubelet_frames)


ModelConfig = DualEncoderConfig | VideoMAEConfig
_CONFIGS: TypeAdapter[ModelConfig] = TypeAdapter(Annotated[ModelConfig, Field(discriminator="kind")])


def architecture_names() -> list[str]:
    """Names that `load_architecture` knows, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_architecture(name: str) -> ModelConfig:
    """Read `architectures/<name>.yaml`. Raises ValueError naming the nearest when there is none."""
    known([name], architecture_names(), "model")
    path = FOLDER / f"{name}.yaml"
    return parse_architecture(yaml.safe_load(path.read_text(encoding="utf-8")), where=path.name)


def parse_architecture(raw: Any, *, where: str) -> ModelConfig:
    """Check one architecture's values. Raises ValueError that names `where` and the first bad value."""
    try:
        return _CONFIGS.validate_python(raw)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise ValueError(f"{where}: not a known architecture: {place}: {problem['msg']}") from None


def kind_of(stage: StageSettings) -> str:
    """Kind of the model that a stage trains.

    Raises ValueError for an unknown architecture, and where it does not go with the task, the frames, the
    image size or patch dropout.
    """
    config = load_architecture(stage.model)
    kind = KINDS.get((stage.task, config.kind))
    if kind is None:
        fits = ", ".join(fit for task, fit in KINDS if task == stage.task)
        raise ValueError(
            f"the task '{stage.task}' cannot train '{stage.model}', a {config.kind}; it can train: {fits}"
        )
    config.check_input(frames=stage.frames, image_size_px=stage.image_size_px)
    if stage.patch_dropout and config.kind != "dual_encoder":
        raise ValueError(f"patch_dropout: '{stage.model}' is not a dual encoder; leave it out")
    return kind


def check_start(kind: str, source: str) -> None:
    """Raise ValueError unless a model of this kind can start from one of the kind `source`."""
    if source != kind and (source, kind) not in STARTS:
        fits = [start for start, target in STARTS if target == kind]
        raise ValueError(f"a {kind} cannot start from a {source}; it can from: {', '.join([kind, *fits])}")


def _check_multiple(setting: str, value: int, unit_name: str, unit: int) -> None:
    if value < unit or value % unit:
        raise ValueError(f"{setting} ({value}) must be a multiple of {unit_name} ({unit})")
