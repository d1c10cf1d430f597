"""Action recognition with the dual encoder's video tower and a linear or attentive head."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor, nn

from avion_core.models.architecture import DualEncoderConfig
from avion_core.models.attentive_head import AttentiveHead, attentive_arguments, no_foreign_head
from avion_core.models.base import VideoModel, vision_class
from avion_core.models.names import Part, Same

HEAD_STD = 0.01
"""Standard deviation of a fresh head, as in AVION."""


class VideoClassifier(VideoModel):
    """The tower's embedding (CLIP's: the class token after `ln_post`), dropout, linear head (AVION).

    An attentive head reads all tokens of the tower instead.
    """

    kind: ClassVar[str] = "video_classifier"
    towers: ClassVar[tuple[str, ...]] = ("vision",)
    config: DualEncoderConfig

    def __init__(
        self,
        config: DualEncoderConfig,
        *,
        classes: int,
        frames: int,
        image_size_px: int,
        drop_path: float = 0.0,
        patch_dropout: float = 0.0,
        head_dropout: float = 0.0,
        head: str = "linear",
    ) -> None:
        super().__init__(config, frames=frames, image_size_px=image_size_px)
        self.vision = vision_class(config.vision)(
            config.vision,
            frames=frames,
            image_size_px=image_size_px,
            activation=config.activation,
            drop_path=drop_path,
            patch_dropout=patch_dropout,
        )
        self.dropout = nn.Dropout(head_dropout)
        width, heads = config.vision.width, config.vision.heads
        self.head: nn.Linear | AttentiveHead
        if head == "attentive":
            self.head = AttentiveHead(width, heads=heads, classes=classes, dropout=head_dropout, std=HEAD_STD)
            return
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.head.weight, std=HEAD_STD)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def optional_arguments(cls, weights: Iterable[str]) -> dict[str, Any]:
        return attentive_arguments(weights)

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        """Normalised frames to logits_BK."""
        self.check_frames(frames_BCTHW)
        if isinstance(self.head, AttentiveHead):
            logits_BK: Tensor = self.head(self.vision.tokens(frames_BCTHW))
        else:
            logits_BK = self.head(self.dropout(self.vision(frames_BCTHW)))
        return logits_BK

    def foreign_copies(self) -> dict[str, Tensor]:
        return no_foreign_head(self.head)

    @classmethod
    def names(cls, config: DualEncoderConfig) -> tuple[Part, ...]:
        return (
            Part("vision.", vision_class(config.vision).names(config.vision)),
            Part("head.", dict.fromkeys(("avion", "avion_flash", "lavila"), (Same("", "fc_cls."),))),
        )
