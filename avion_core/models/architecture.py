"""Architectures as data: one YAML file each in `architectures/`, checked here against a stage's settings.

A family of models has its architecture fields and its kinds of model here, and its classes in a module of
its own. Nothing here needs torch, so that configurations are checked before any work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from avion_core.config import Count, Positive, Section, StageSettings, known
from avion_core.models.towers import (
    AnyText,
    AnyVision,
    check_heads,
    check_multiple,
    first_problem,
)
from avion_core.registry import Registry

FOLDERS = [Path(__file__).parent / "architectures"]
"""Where architecture files are; a plug-in appends a folder of its own."""
Pixels = tuple[float, float, float]
LAVILA_MEAN: Pixels = (108.3272985, 116.7460125, 104.09373615)
LAVILA_STD: Pixels = (68.5005327, 66.6321579, 70.32316305)
"""Pixels in LaViLa's and AVION's training; OpenAI's CLIP has another red mean."""


class Architecture(Section):
    """What every architecture has."""

    silent: ClassVar[tuple[str, ...]] = ("pixel_mean", "pixel_std")
    """Fields that change a model's results but not the shapes of its weights."""

    if TYPE_CHECKING:  # each class orders them itself: the order is part of model.json
        kind: str
        pixel_mean: Pixels
        pixel_std: Pixels

    @property
    def fixed_frames(self) -> bool:
        """Whether its models need as many frames per clip as they were trained with."""
        return False

    @property
    def drops_patches(self) -> bool:
        """Whether its models can leave out patches in training."""
        return False

    @property
    def context_length(self) -> int:
        """Longest text in tokens; 0 without text."""
        return 0

    @property
    def tokenizer(self) -> str:
        """Name in `data.tokenizer.TOKENIZERS`; empty without text."""
        return ""

    @property
    def vocabulary(self) -> int:
        """Size of the token table; 0 without text."""
        return 0

    def check_input(self, *, frames: int, image_size_px: int) -> None:
        """Raise ValueError for clips that its models cannot take."""

    def arithmetic(self) -> dict[str, Any]:
        """Values that change a model's results but not the shapes of its weights, by dotted names."""
        return {name: getattr(self, name) for name in self.silent}


class TowerArchitecture(Architecture):
    """An architecture with a vision tower of any kind."""

    silent: ClassVar[tuple[str, ...]] = ("activation", *Architecture.silent)

    if TYPE_CHECKING:  # as above
        vision: AnyVision
        activation: str

    @model_validator(mode="after")
    def _activation_fits(self) -> Self:
        able = self.vision.activations
        if self.activation not in able:
            raise ValueError(f"activation: the tower {self.vision.kind} has {', '.join(able)} only")
        return self

    @property
    def fixed_frames(self) -> bool:
        return self.vision.fixed_frames

    def check_input(self, *, frames: int, image_size_px: int) -> None:
        self.vision.check_input(frames=frames, image_size_px=image_size_px)

    def arithmetic(self) -> dict[str, Any]:
        return self.vision.arithmetic("vision") | super().arithmetic()


class DualEncoderConfig(TowerArchitecture):
    """A video tower and a text tower with a shared embedding space."""

    kind: Literal["dual_encoder"] = "dual_encoder"
    vision: AnyVision
    text: AnyText
    embed_dim: Count
    """Size of an embedding."""
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    """AVION's and EgoVLP's checkpoints need exact GELU, LaViLa's and OpenAI's CLIP QuickGELU."""
    pixel_mean: Pixels = LAVILA_MEAN
    """Mean of red, green, blue on 0…255."""
    pixel_std: Pixels = LAVILA_STD
    """Standard deviation of red, green, blue on 0…255."""

    @property
    def drops_patches(self) -> bool:
        return self.vision.drops_patches

    @property
    def context_length(self) -> int:
        return self.text.context_length

    @property
    def tokenizer(self) -> str:
        return self.text.tokenizer

    @property
    def vocabulary(self) -> int:
        return self.text.vocabulary

    def arithmetic(self) -> dict[str, Any]:
        return super().arithmetic() | self.text.arithmetic("text")


class VideoMAEConfig(Architecture):
    """A masked autoencoder of video tubelets (VideoMAE, NeurIPS 2022)."""

    silent: ClassVar[tuple[str, ...]] = ("heads", "decoder_heads", "norm_eps", *Architecture.silent)

    kind: Literal["videomae"] = "videomae"
    width: Count
    """Size of an encoder token."""
    layers: Count
    """Encoder blocks."""
    heads: Count
    """Encoder attention heads; they divide the width."""
    patch_px: Count = 16
    """Side of a tubelet."""
    tubelet_frames: Count = 2
    """Frames in a tubelet."""
    decoder_width: Count
    """Size of a decoder token."""
    decoder_layers: Count = 4
    """Decoder blocks."""
    decoder_heads: Count
    """Decoder attention heads; they divide the decoder's width."""
    mlp_ratio: Positive = 4.0
    """Width of the MLPs' hidden layer relative to the transformer's."""
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

    @property
    def fixed_frames(self) -> bool:
        return True

    def check_input(self, *, frames: int, image_size_px: int) -> None:
        check_multiple("image_size_px", image_size_px, "the patch", self.patch_px)
        check_multiple("frames", frames, "the tubelet", self.tubelet_frames)


class LanguageModelConfig(Section):
    """A causal language model like GPT-2."""

    width: Count
    """Size of a token."""
    layers: Count
    """Transformer blocks."""
    heads: Count
    """Attention heads, also of the cross-attention; they divide the width."""
    tokenizer: str = "clip"
    """Name in `data.tokenizer.TOKENIZERS`."""
    vocabulary: Count = 49408
    """Size of the token table; CLIP's byte-pair encoding has 49408, GPT-2's 50257."""
    begin_token: Annotated[int, Field(ge=0)] = 49406
    """First token of every text."""
    end_token: Annotated[int, Field(ge=0)] = 49407
    """Last token of every text."""
    context_length: Count = 77
    """Longest text in tokens, begin and end included."""
    positions: Count = 77
    """Rows of the position table; GPT-2 has 1024."""
    norm_eps: Positive = 1e-5
    """Epsilon of the layer norms."""

    @model_validator(mode="after")
    def _consistent(self) -> LanguageModelConfig:
        check_heads(self.width, self.heads)
        if self.context_length > self.positions:
            raise ValueError(f"context_length ({self.context_length}) exceeds positions ({self.positions})")
        if max(self.begin_token, self.end_token) >= self.vocabulary:
            raise ValueError(f"begin_token and end_token must be below the vocabulary ({self.vocabulary})")
        return self


class NarratorConfig(TowerArchitecture):
    """A vision tower, pooled for a causal language model that describes clips (LaViLa's Narrator)."""

    kind: Literal["narrator"] = "narrator"
    vision: AnyVision
    language_model: LanguageModelConfig
    cross_attention_every: Count = 1
    """Blocks 0, n, 2n … of the language model attend to the clip."""
    queries: Count = 256
    """Tokens of a clip after the attention pooling."""
    pool_heads: Count
    """Heads of the attention pooling."""
    pool_head_width: Count = 64
    """Width of each."""
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    """Of the vision tower; LaViLa's narrators need QuickGELU."""
    pixel_mean: Pixels = LAVILA_MEAN
    """Mean of red, green, blue on 0…255."""
    pixel_std: Pixels = LAVILA_STD
    """Standard deviation of red, green, blue on 0…255."""

    @property
    def context_length(self) -> int:
        return self.language_model.context_length

    @property
    def tokenizer(self) -> str:
        return self.language_model.tokenizer

    @property
    def vocabulary(self) -> int:
        return self.language_model.vocabulary

    def arithmetic(self) -> dict[str, Any]:
        language = {
            f"language_model.{name}": getattr(self.language_model, name)
            for name in ("heads", "tokenizer", "begin_token", "end_token", "norm_eps")
        }
        return super().arithmetic() | language


@dataclass(frozen=True, kw_only=True)
class ModelKind:
    """A kind of model: its properties that are known without building one."""

    architecture: str
    """Name of its kind in ARCHITECTURES."""
    output: str
    """Its output for clips, by which tasks and evaluations choose: `embeddings` (of texts, too), `classes`,
    `pixels` or `texts`."""
    code: str
    """Its class, `package.module:Name`."""
    starts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other kinds it may start from, each with the weights (fnmatch patterns) to leave out, under their
    third-party names if it has no such part."""
    fresh: tuple[str, ...] = ()
    """Weights (fnmatch patterns) that those kinds do not have."""
    optional: tuple[str, ...] = ()
    """Arguments that add weights."""


ARCHITECTURES: Registry[type[Architecture]] = Registry("kind of architecture", base=Architecture)
ARCHITECTURES.register("dual_encoder", DualEncoderConfig)
ARCHITECTURES.register("videomae", VideoMAEConfig)
ARCHITECTURES.register("narrator", NarratorConfig)

MODELS: Registry[ModelKind] = Registry("kind of model", record=ModelKind, refers=("code",))
MODELS.register(
    "dual_encoder",
    ModelKind(
        architecture="dual_encoder",
        output="embeddings",
        code="avion_core.models.dual_encoder:DualEncoder",
        optional=("logit_bias", "narrated_temperature"),
    ),
)
MODELS.register(
    "video_classifier",
    ModelKind(
        architecture="dual_encoder",
        output="classes",
        code="avion_core.models.classifier:VideoClassifier",
        starts={"dual_encoder": ("text.*", "logit_scale*", "logit_bias", "vision.projection*")},
        fresh=("head.*",),
        optional=("head",),
    ),
)
MODELS.register(
    "videomae",
    ModelKind(architecture="videomae", output="pixels", code="avion_core.models.videomae:VideoMAE"),
)
MODELS.register(
    "videomae_classifier",
    ModelKind(
        architecture="videomae",
        output="classes",
        code="avion_core.models.videomae:VideoMAEClassifier",
        starts={"videomae": ("norm.*", "encoder_to_decoder.*", "mask_token", "decoder.*")},
        fresh=("head.*", "fc_norm.*"),
        optional=("head",),
    ),
)
MODELS.register(
    "narrator",
    ModelKind(
        architecture="narrator",
        output="texts",
        code="avion_core.models.narrator:Narrator",
        starts={
            "dual_encoder": (
                *("text.*", "logit_scale*", "logit_bias", "vision.projection*"),
                *("transformer.*", "token_embedding.*", "positional_embedding", "ln_final.*"),
                *("text_projection*", "textual.*", "text_model.*", "txt_proj.*"),
            )
        },
    ),
)


def architecture_names() -> list[str]:
    """Known architecture names, sorted."""
    return sorted(_files())


def load_architecture(name: str) -> Architecture:
    """Read `architectures/<name>.yaml`. Raises ValueError with the nearest name if there is none."""
    known([name], architecture_names(), "model")
    path = _files()[name]
    return parse_architecture(_values(path.read_text(encoding="utf-8")), where=path.name)


_values = cache(yaml.safe_load)
"""What a YAML text holds; not to be changed."""


def _files() -> dict[str, Path]:
    """The files by name; for equal names the first folder wins."""
    return {path.stem: path for folder in reversed(FOLDERS) for path in folder.glob("*.yaml")}


def parse_architecture(raw: Any, *, where: str) -> Architecture:
    """Check one architecture's values. Raises ValueError naming `where` and the first bad value."""
    try:
        kind = raw.get("kind") if isinstance(raw, Mapping) else None
        return ARCHITECTURES[str(kind)].model_validate(raw)
    except ValidationError as error:
        raise ValueError(f"{where}: not a known architecture: {first_problem(error)}") from None
    except ValueError as error:
        raise ValueError(f"{where}: not a known architecture: {error}") from None


def model_kind(stage: StageSettings) -> str:
    """Kind of the model that a stage trains.

    Raises ValueError for an unknown architecture, or one that does not fit the task, the frames, the image
    size or patch dropout.
    """
    config = load_architecture(stage.model)
    fits = {model.architecture: kind for kind, model in MODELS.items() if model.output == stage.trains}
    if config.kind not in fits:
        raise ValueError(
            f"the task '{stage.task}' cannot train '{stage.model}', a {config.kind}; it can train: "
            f"{', '.join(fits) or 'none'}"
        )
    config.check_input(frames=stage.frames, image_size_px=stage.image_size_px)
    if stage.model_arguments().get("patch_dropout") and not config.drops_patches:
        raise ValueError(f"patch_dropout: '{stage.model}' cannot leave out patches; set it to 0")
    return fits[config.kind]
