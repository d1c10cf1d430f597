"""Action recognition with the dual encoder's video tower and a linear or attentive head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from avion_core.models.architecture import DualEncoderConfig
from avion_core.models.attentive_head import AttentiveHead
from avion_core.models.base import vision_class
from avion_core.models.class_heads import Classifier, Head
from avion_core.models.layers import ClassLayer
from avion_core.models.names import Part, Same

HEAD_STD = 0.01
"""Standard deviation of a fresh head, as in AVION."""


class VideoClassifier(Classifier):
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
        further_classes: Mapping[str, int] | None = None,
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

        def make(classes: int) -> Head:
            if head == "attentive":
                return AttentiveHead(width, heads=heads, classes=classes, dropout=head_dropout, std=HEAD_STD)
            linear = ClassLayer(width, classes)
            nn.init.normal_(linear.weight, std=HEAD_STD)
            nn.init.zeros_(linear.bias)
            return linear

        self.make_heads(make, classes=classes, further_classes=further_classes)

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        """Normalised frames to logits_BK of all heads, the label's first."""
        self.check_frames(frames_BCTHW)
        attentive = isinstance(self.head, AttentiveHead)
        return self.classify(self.vision.tokens(frames_BCTHW) if attentive else self.vision(frames_BCTHW))

    def parts(self) -> tuple[Part, ...]:
        """With further labels the heads are numbered in LaViLa's files, the label's last; AVION has one."""
        tower, head = self.names(self.config)
        if not self.further_heads:
            return tower, head
        prefixes = [*(f"further_heads.{label}." for label in self.further_heads), "head."]
        rows = [(Same("", f"fc_cls.{place}."),) for place in range(len(prefixes))]
        return tower, *(Part(prefix, {"lavila": row}) for prefix, row in zip(prefixes, rows, strict=True))

    @classmethod
    def names(cls, config: DualEncoderConfig) -> tuple[Part, ...]:
        return (
            Part("vision.", vision_class(config.vision).names(config.vision)),
            Part("head.", dict.fromkeys(("avion", "avion_flash", "lavila"), (Same("", "fc_cls."),))),
        )
