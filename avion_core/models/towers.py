"""Towers of dual encoders and classifiers: their architecture fields, by kind.

A tower has its fields and one line here, and its class (`models.base.VisionTower`, `TextTower`) in a module
of its own. Nothing here needs torch: the class is imported when a model is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import (
    BeforeValidator,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from avion_core.config import Count, Fraction, NotNegative, Positive, Section
from avion_core.registry import Registry

DEFAULT_KIND = "clip"
"""Tower of architectures that name no kind; not written to model.json either."""


class TowerConfig(Section):
    """Fields common to all towers."""

    kind: ClassVar[str]
    """Name in the registry."""
    silent: ClassVar[tuple[str, ...]] = ("heads",)
    """Fields that change a tower's results but not the shapes of its weights."""

    width: Count
    """Size of a token."""
    layers: Count
    """Transformer blocks."""
    heads: Count
    """Attention heads; they divide the width."""

    def arithmetic(self, name: str) -> dict[str, Any]:
        """The kind and the values of `silent`, by dotted names that begin with the tower's."""
        return {f"{name}.{field}": getattr(self, field) for field in ("kind", *self.silent)}

    @model_validator(mode="after")
    def _heads_divide(self) -> TowerConfig:
        check_heads(self.width, self.heads)
        return self

    @model_serializer(mode="wrap")
    def _with_kind(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = fields(self)
        return dumped if self.kind == DEFAULT_KIND else {"kind": self.kind, **dumped}


class VisionTowerConfig(TowerConfig):
    """A tower over the frames of a clip."""

    fixed_frames: ClassVar[bool] = False
    """Whether it needs as many frames per clip as it was trained with."""
    drops_patches: ClassVar[bool] = False
    """Whether it can leave out patches in training."""
    activations: ClassVar[tuple[str, ...]] = ("gelu", "quick_gelu")
    """Activations that it can have."""

    patch_px: Count
    """Side of a patch."""

    def check_input(self, *, frames: int, image_size_px: int) -> None:
        """Raise ValueError unless the image size is a multiple of the patch."""
        check_multiple("image_size_px", image_size_px, "the patch", self.patch_px)


class TextTowerConfig(TowerConfig):
    """A tower over the tokens of a text."""

    tokenizer: ClassVar[str] = "clip"
    """Name in `data.tokenizer.TOKENIZERS`."""

    context_length: Count = 77
    """Longest text in tokens, start and end included."""
    vocabulary: Count = 49408
    """Size of the token table; CLIP's byte-pair encoding has 49408."""


Fields = TypeVar("Fields", bound=TowerConfig)


@dataclass(frozen=True)
class Tower(Generic[Fields]):
    """A kind of tower."""

    config: type[Fields]
    """Its architecture fields."""
    code: str
    """Its class, `package.module:Name`."""

    def __post_init__(self) -> None:
        """Raise ValueError for fields without a kind."""
        if not getattr(self.config, "kind", None):
            raise ValueError(
                f"{self.config.__name__} has no class attribute `kind`; set the name of its tower"
            )


VISION_TOWERS: Registry[Tower[VisionTowerConfig]] = Registry(
    "kind of vision tower", record=Tower, refers=("code",)
)
TEXT_TOWERS: Registry[Tower[TextTowerConfig]] = Registry("kind of text tower", record=Tower, refers=("code",))


class VisionConfig(VisionTowerConfig):
    """CLIP's vision transformer with joint attention over the square patches of all frames."""

    kind: ClassVar[str] = "clip"
    silent: ClassVar[tuple[str, ...]] = ("heads", "norm_eps")
    drops_patches: ClassVar[bool] = True

    mlp_ratio: Positive = 4.0
    """Width of the MLP's hidden layer over the tower's."""
    norm_eps: Positive = 1e-6
    """Epsilon of the layer norms; AVION's vision tower has 1e-6."""
    temporal_std: NotNegative = 0.0
    """Standard deviation of a fresh temporal embedding; zero in AVION, so that one frame gives the embedding
    of the image model that the other weights come from."""
    positional_std: Positive | None = None
    """Standard deviation of a fresh spatial table; null for CLIP's width ** -0.5."""


class TextConfig(TextTowerConfig):
    """CLIP's causal text transformer."""

    kind: ClassVar[str] = "clip"
    silent: ClassVar[tuple[str, ...]] = ("heads", "norm_eps")

    mlp_ratio: Positive = 4.0
    """Width of the MLP's hidden layer over the tower's."""
    norm_eps: Positive = 1e-5
    """Epsilon of the layer norms."""


class TimeSformerConfig(VisionTowerConfig):
    """LaViLa's and EgoVLP's vision transformer, with divided attention over time and space."""

    kind: ClassVar[str] = "timesformer"
    silent: ClassVar[tuple[str, ...]] = ("heads", "norm_eps", "ln_pre_eps")

    mlp_ratio: Positive = 4.0
    """Width of the MLP's hidden layer over the tower's."""
    norm_eps: Positive = 1e-6
    """Epsilon of the blocks' layer norms and the final one."""
    ln_pre_eps: Positive | None = 1e-5
    """Epsilon of the layer norm before the first block; null for none, as in EgoVLP."""
    patch_bias: bool = False
    """Whether the patch projection has a bias, as in EgoVLP."""
    more_frames: Literal["linear", "zeros"] = "linear"
    """Temporal embedding from weights for fewer frames: interpolated (LaViLa), or zero in the further frames
    (EgoVLP)."""
    projection: Literal["matrix", "linear"] = "matrix"
    """Projection into the embedding space: a matrix, or a linear layer with bias (EgoVLP)."""


class TimmVisionConfig(VisionTowerConfig):
    """A Perception Encoder of timm's on every frame; a clip's embedding is the mean over its frames."""

    kind: ClassVar[str] = "timm"
    silent: ClassVar[tuple[str, ...]] = ("heads", "name")
    activations: ClassVar[tuple[str, ...]] = ("gelu",)

    name: str
    """timm's name of the model, such as vit_pe_core_base_patch16_224."""


class DistilBertConfig(TextTowerConfig):
    """DistilBERT, read at its first token. Its activation is always exact GELU."""

    kind: ClassVar[str] = "distilbert"
    tokenizer: ClassVar[str] = "bert"
    silent: ClassVar[tuple[str, ...]] = ("heads", "norm_eps", "dropout")

    vocabulary: Count = 30522
    """Size of the token table; BERT's lower-case English one has 30522."""
    places: Count = 512
    """Rows of the position table; the context fits into them."""
    hidden: Count = 3072
    """Width of the MLP's hidden layer."""
    norm_eps: Positive = 1e-12
    """Epsilon of the layer norms."""
    dropout: Fraction = 0.1
    """Dropout of the embeddings, attention weights and MLPs in training."""
    projection: Literal["matrix", "relu_linear"] = "matrix"
    """Projection into the embedding space: a matrix, or ReLU and a linear layer with bias (EgoVLP)."""

    @model_validator(mode="after")
    def _context_fits(self) -> DistilBertConfig:
        if self.context_length > self.places:
            raise ValueError(f"context_length ({self.context_length}) must not exceed places ({self.places})")
        return self


VISION_TOWERS.register(VisionConfig.kind, Tower(VisionConfig, "avion_core.models.clip:ClipVision"))
VISION_TOWERS.register(
    TimeSformerConfig.kind, Tower(TimeSformerConfig, "avion_core.models.timesformer:TimeSformer")
)
VISION_TOWERS.register(
    TimmVisionConfig.kind, Tower(TimmVisionConfig, "avion_core.models.timm_vision:TimmVision")
)
TEXT_TOWERS.register(TextConfig.kind, Tower(TextConfig, "avion_core.models.clip:ClipText"))
TEXT_TOWERS.register(
    DistilBertConfig.kind, Tower(DistilBertConfig, "avion_core.models.distilbert:DistilBert")
)


def _chosen(towers: Registry[Tower[Any]], raw: Any) -> Any:
    """Validate a tower's fields in an architecture file as the class named by `kind`."""
    if not isinstance(raw, Mapping):
        return raw
    fields = dict(raw)
    kind = str(fields.pop("kind", DEFAULT_KIND))
    config = towers[kind].config
    if config.kind != kind:
        raise ValueError(f"the tower '{kind}' has the kind '{config.kind}' in {config.__name__}; correct it")
    try:
        return config.model_validate(fields)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None


AnyVision = Annotated[SerializeAsAny[VisionTowerConfig], BeforeValidator(partial(_chosen, VISION_TOWERS))]
AnyText = Annotated[SerializeAsAny[TextTowerConfig], BeforeValidator(partial(_chosen, TEXT_TOWERS))]
"""Fields of an architecture that hold a tower of any kind."""


def first_problem(error: ValidationError) -> str:
    """The first bad value, by name, and what is wrong with it."""
    problem = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"])))


def check_heads(width: int, heads: int) -> None:
    """Raise ValueError unless the heads divide the width."""
    if width % heads:
        raise ValueError(f"heads ({heads}) must divide the width ({width})")


def check_multiple(setting: str, value: int, unit_name: str, unit: int) -> None:
    """Raise ValueError unless `value` is a multiple of `unit`."""
    if value < unit or value % unit:
        raise ValueError(f"{setting} ({value}) must be a multiple of {unit_name} ({unit})")
