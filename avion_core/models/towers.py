"""The towers that models are made of: their architecture fields. Nothing here needs torch."""

from __future__ import annotations

from pydantic import model_validator

from avion_core.config import Count, NotNegative, Positive, Section


class VisionConfig(Section):
    """A space-time vision transformer over square patches of each frame."""

    width: Count
    """Numbers in a token."""
    layers: Count
    """Transformer blocks."""
    heads: Count
    """Attention heads; they divide the width."""
    patch_px: Count
    """Side of a patch."""
    mlp_ratio: Positive = 4.0
    """Width of the MLP's hidden layer over the tower's."""
    norm_eps: Positive = 1e-6
    """Epsilon of the layer norms; AVION's vision tower has 1e-6."""
    temporal_std: NotNegative = 0.0
    """Standard deviation of a fresh temporal embedding; AVION's is zero, so that one frame gives the
    embedding of the image model whose weights the rest takes."""
    positional_std: Positive | None = None
    """Standard deviation of a fresh spatial table; null for CLIP's width ** -0.5."""

    @model_validator(mode="after")
    def _heads_divide(self) -> VisionConfig:
        check_heads(self.width, self.heads)
        return self


class TextConfig(Section):
    """A causal text transformer as in CLIP."""

    width: Count
    """Numbers in a token."""
    layers: Count
    """Transformer blocks."""
    heads: Count
    """Attention heads; they divide the width."""
    context_length: Count = 77
    """Longest text in tokens, start and end included."""
    vocabulary: Count = 49408
    """Size of the token table; CLIP's byte-pair encoding has 49408."""
    mlp_ratio: Positive = 4.0
    """Width of the MLP's hidden layer over the tower's."""
    norm_eps: Positive = 1e-5
    """Epsilon of the layer norms."""

    @model_validator(mode="after")
    def _heads_divide(self) -> TextConfig:
        check_heads(self.width, self.heads)
        return self


def check_heads(width: int, heads: int) -> None:
    """Raise ValueError unless the heads divide the width."""
    if width % heads:
        raise ValueError(f"heads ({heads}) must divide the width ({width})")
