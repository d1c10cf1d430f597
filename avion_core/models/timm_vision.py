"""A vision tower of timm's: the Perception Encoder (arXiv 2504.13181), an image model run on every frame.

Shapes: B clips, C channels, T frames, N tokens of a frame, D width.
"""

from __future__ import annotations

from typing import Any, ClassVar

import timm
from timm.models.eva import EvaBlock
from torch import Tensor, nn

from avion_core.models.base import VisionTower
from avion_core.models.layers import TransformerBlock, make_projection, project, run_block
from avion_core.models.names import Names, Same
from avion_core.models.towers import TimmVisionConfig
from avion_core.registry import nearest


class TimmBlock(TransformerBlock, EvaBlock):
    """timm's block, which can be recomputed in the backward pass."""

    def forward(self, x_BND: Tensor, **options: Any) -> Tensor:
        """All tokens; `options` are those of timm's block."""
        return run_block(self, super().forward, x_BND, **options)


class TimmVision(VisionTower):
    """timm's model on each frame; a clip's embedding is the mean over its frames, in any order."""

    blocks_name: ClassVar[str] = "encoder.blocks."
    embeddings: ClassVar[tuple[str, ...]] = tuple(
        f"encoder.{name}" for name in ("patch_embed.", "cls_token", "pos_embed", "norm_pre.")
    )

    def __init__(
        self,
        config: TimmVisionConfig,
        *,
        frames: int,
        image_size_px: int,
        activation: str,
        drop_path: float = 0.0,
        patch_dropout: float = 0.0,
        embed_dim: int | None = None,
    ) -> None:
        """Drop path grows linearly from 0 in the first block to `drop_path` in the last.

        Its activation is GELU. Raises ValueError for a model that timm does not have, and for patch dropout.
        """
        super().__init__()
        known = timm.list_models("vit_pe_*")
        if config.name not in known:
            raise ValueError(f"timm has no model '{config.name}'{nearest(config.name, known)}")
        if patch_dropout:
            raise ValueError("patch_dropout: timm's models run without it here; set it to 0")
        self.encoder = timm.create_model(
            config.name,
            patch_size=config.patch_px,
            embed_dim=config.width,
            depth=config.layers,
            num_heads=config.heads,
            img_size=image_size_px,
            drop_path_rate=drop_path,
            num_classes=0,
        )
        for block in self.encoder.blocks:
            block.__class__ = TimmBlock  # timm builds them itself
        self.projection = (
            None if embed_dim is None else make_projection(config.width, embed_dim, linear=False)
        )

    @property
    def blocks(self) -> nn.ModuleList:  # type: ignore[override]  # an attribute of other towers
        """timm's blocks."""
        found: nn.ModuleList = self.encoder.blocks
        return found

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        """Normalised frames to the mean of timm's pooled frames: B,width, or projected: B,embed_dim."""
        pooled = self.encoder.forward_head(self._frame_tokens(frames_BCTHW), pre_logits=True)
        return project(pooled.unflatten(0, (len(frames_BCTHW), -1)).mean(dim=1), self.projection)

    def tokens(self, frames_BCTHW: Tensor) -> Tensor:
        """Normalised frames to B,T·N,width after the final norm, frame by frame, class tokens included."""
        x_BTND = self._frame_tokens(frames_BCTHW).unflatten(0, (len(frames_BCTHW), -1))
        return x_BTND.flatten(1, 2)

    def _frame_tokens(self, frames_BCTHW: Tensor) -> Tensor:
        """The tokens of every frame by itself, B·T,N,D."""
        x: Tensor = self.encoder.forward_features(frames_BCTHW.transpose(1, 2).flatten(0, 1))
        return x

    @classmethod
    def names(cls, config: TimmVisionConfig) -> dict[str, Names]:
        """timm's own, without a prefix."""
        return {"timm": (Same("encoder.", ""),)}
