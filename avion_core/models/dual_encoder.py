"""The dual encoder: videos and texts in one space, compared by their cosine (CLIP; AVION)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avion_core.models.architecture import DualEncoderConfig
from avion_core.models.base import VideoModel, text_class, vision_class
from avion_core.models.names import Part

TEXT_TOKENS = 12
"""Length in tokens, start and end included, to which a dry run cuts a batch of narrations."""


class DualEncoder(VideoModel):
    """A vision tower and a text tower with a shared embedding space and a temperature."""

    kind: ClassVar[str] = "dual_encoder"
    towers: ClassVar[tuple[str, ...]] = ("vision", "text")
    config: DualEncoderConfig

    def __init__(
        self,
        config: DualEncoderConfig,
        *,
        frames: int,
        image_size_px: int,
        drop_path: float = 0.0,
        patch_dropout: float = 0.0,
        temperature: float = 0.07,
        learn_temperature: bool = False,
        narrated_temperature: float | None = None,
        logit_bias: float | None = None,
    ) -> None:
        """`narrated_temperature` is that of narrated clips, if they have their own; `logit_bias` the initial
        bias of the sigmoid loss; other losses have none."""
        super().__init__(config, frames=frames, image_size_px=image_size_px)
        self.vision = vision_class(config.vision)(
            config.vision,
            frames=frames,
            image_size_px=image_size_px,
            activation=config.activation,
            drop_path=drop_path,
            patch_dropout=patch_dropout,
            embed_dim=config.embed_dim,
        )
        self.text = text_class(config.text)(
            config.text, activation=config.activation, embed_dim=config.embed_dim
        )
        self.logit_scale = _log_scale(temperature, learned=learn_temperature)
        narrated = (
            None
            if narrated_temperature is None
            else _log_scale(narrated_temperature, learned=learn_temperature)
        )
        self.logit_scale_narrated: nn.Parameter | None
        self.register_parameter("logit_scale_narrated", narrated)
        bias = None if logit_bias is None else nn.Parameter(torch.tensor(logit_bias))
        self.logit_bias: nn.Parameter | None
        self.register_parameter("logit_bias", bias)

    @classmethod
    def optional_arguments(cls, weights: Iterable[str]) -> dict[str, Any]:
        """The sigmoid loss's bias, and the temperature of narrated clips."""
        optional = {"logit_bias": ("logit_bias", 0.0), "logit_scale_narrated": ("narrated_temperature", 1.0)}
        return dict(optional[name] for name in weights if name in optional)

    def encode_video(self, frames_BCTHW: Tensor, *, normalize: bool = True) -> Tensor:
        """Normalised frames to float32 embeddings B,embed_dim, of length 1 with `normalize`."""
        self.check_frames(frames_BCTHW)
        embed_BD = self.vision(frames_BCTHW).float()
        return F.normalize(embed_BD, dim=-1) if normalize else embed_BD

    def encode_text(self, tokens_BL: Tensor, *, normalize: bool = True) -> Tensor:
        """Token ids to float32 embeddings B,embed_dim, of length 1 with `normalize`."""
        embed_BD = self.text(tokens_BL).float()
        return F.normalize(embed_BD, dim=-1) if normalize else embed_BD

    def forward(self, frames_BCTHW: Tensor, tokens_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """video_BD, text_BD, and the scale of their cosines, 1/temperature, a 0-d tensor."""
        return self.encode_video(frames_BCTHW), self.encode_text(tokens_BL), self.logit_scale.exp()

    def dry_run(self, frames_BCTHW: Tensor) -> Tensor:
        """Cosines B,B with texts of TEXT_TOKENS tokens, or of as many as fit."""
        length = min(TEXT_TOKENS, self.config.context_length)
        tokens_BL = torch.zeros(len(frames_BCTHW), length, dtype=torch.long)
        return self.encode_video(frames_BCTHW) @ self.text.dry_run(tokens_BL).float().T

    @classmethod
    def names(cls, config: DualEncoderConfig) -> tuple[Part, ...]:
        return (
            Part("vision.", vision_class(config.vision).names(config.vision)),
            Part("text.", text_class(config.text).names(config.text)),
        )


def _log_scale(temperature: float, *, learned: bool) -> nn.Parameter:
    """The log of the scale of cosines, 1/temperature."""
    return nn.Parameter(torch.tensor(math.log(1 / temperature)), requires_grad=learned)
