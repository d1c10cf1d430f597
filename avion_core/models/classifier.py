"""Action recognition with the dual encoder's video tower and a linear head."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from avion_core.models.architecture import DualEncoderConfig
from avion_core.models.base import VideoModel, vision_class
from avion_core.models.names import Part, Same

HEAD_STD = 0.01
"""Standard deviation of a fresh head, as in AVION."""


class VideoClassifier(VideoModel):
    """The tower's embedding (CLIP's: the class token after `ln_post`), dropout, linear head (AVION)."""

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
        self.head = nn.Linear(config.vision.width, classes)
        nn.init.normal_(self.head.weight, std=HEAD_STD)
        nn.init.zeros_(self.head.bias)

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        """Normalised frames to logits_BK."""
        self.check_frames(frames_BCTHW)
        logits_BK: Tensor = self.head(self.dropout(self.vision(frames_BCTHW)))
        return logits_BK

    @classmethod
    def names(cls, config: DualEncoderConfig) -> tuple[Part, ...]:
        return (
            Part("vision.", vision_class(config.vision).names(config.vision)),
            Part("head.", dict.fromkeys(("avion", "avion_flash", "lavila"), (Same("", "fc_cls."),))),
        )
