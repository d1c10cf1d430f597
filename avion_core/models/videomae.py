"""VideoMAE: an autoencoder that sees a tenth of a clip's tubelets, and the classifier made from it.

Tong et al., "VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video
Pre-Training", NeurIPS 2022. N tokens, V visible, M masked, P numbers in a patch.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from avion_core.models.architecture import VideoMAEConfig
from avion_core.models.base import VideoModel
from avion_core.models.layers import Block, patchify

TARGET_EPS = 1e-6
"""Added to a patch's standard deviation, on 0…255, before dividing by it (AVION; VideoMAE's is on 0…1)."""
HEAD_SCALE = 0.001
"""Factor on the classifier's fresh head, VideoMAE's `init_scale`."""


class VideoMAEEncoder(nn.Module):
    """Tubelet embedding, fixed positions and blocks, over all tubelets or the visible ones only."""

    positions: Tensor

    def __init__(
        self, config: VideoMAEConfig, *, frames: int, image_size_px: int, drop_path: float = 0.0
    ) -> None:
        """Drop path grows linearly from 0 in the first block to `drop_path` in the last."""
        super().__init__()
        self.patch_px, self.tubelet_frames = config.patch_px, config.tubelet_frames
        tokens = (frames // config.tubelet_frames) * (image_size_px // config.patch_px) ** 2
        self.patch = nn.Linear(3 * config.tubelet_frames * config.patch_px**2, config.width)
        self.register_buffer("positions", sine_cosine(tokens, config.width), persistent=False)
        rates = [drop_path * layer / max(1, config.layers - 1) for layer in range(config.layers)]
        self.blocks = nn.ModuleList(
            Block(
                config.width,
                heads=config.heads,
                mlp_ratio=config.mlp_ratio,
                norm_eps=config.norm_eps,
                drop_path=rate,
            )
            for rate in rates
        )

    def forward(self, frames_BCTHW: Tensor, visible_BV: Tensor | None = None) -> Tensor:
        """Normalised frames to tokens_BVD; `visible_BV` are token numbers, None for all."""
        patches_BNP = patchify(frames_BCTHW, patch_px=self.patch_px, tubelet_frames=self.tubelet_frames)
        if visible_BV is None:
            x_BVD = self.patch(patches_BNP) + self.positions
        else:
            x_BVD = self.patch(pick(patches_BNP, visible_BV)) + self.positions[visible_BV]
        for block in self.blocks:
            x_BVD = block(x_BVD)
        return x_BVD


class VideoMAEDecoder(nn.Module):
    """A few narrow blocks that turn tokens into pixels."""

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.blocks = nn.ModuleList(
            Block(width, heads=config.decoder_heads, mlp_ratio=config.mlp_ratio, norm_eps=config.norm_eps)
            for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.head = nn.Linear(width, 3 * config.tubelet_frames * config.patch_px**2)

    def forward(self, x_BND: Tensor, *, last: int) -> Tensor:
        """Pixels B,last,P of the `last` tokens."""
        for block in self.blocks:
            x_BND = block(x_BND)
        pixels_BMP: Tensor = self.head(self.norm(x_BND[:, -last:]))
        return pixels_BMP


class VideoMAE(VideoModel):
    """Encoder on visible tubelets, decoder on all, prediction of the masked ones' normalised pixels."""

    kind: ClassVar[str] = "videomae"
    architecture_kind: ClassVar[str] = "videomae"
    config: VideoMAEConfig
    decoder_positions: Tensor

    def __init__(
        self, config: VideoMAEConfig, *, frames: int, image_size_px: int, drop_path: float = 0.0
    ) -> None:
        depths = {"encoder.": config.layers}
        super().__init__(config, frames=frames, image_size_px=image_size_px, towers=depths)
        self.encoder = VideoMAEEncoder(
            config, frames=frames, image_size_px=image_size_px, drop_path=drop_path
        )
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.encoder_to_decoder = nn.Linear(config.width, config.decoder_width, bias=False)
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.decoder_width))
        self.decoder = VideoMAEDecoder(config)
        positions = sine_cosine(len(self.encoder.positions), config.decoder_width)
        self.register_buffer("decoder_positions", positions, persistent=False)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    @property
    def tokens(self) -> int:
        """Tubelets of a clip, N."""
        return len(self.encoder.positions)

    def tube_mask(self, batch: int, ratio: float, generator: torch.Generator) -> Tensor:
        """mask_BN, True where hidden: in each clip the same share of places in all its frames.

        Of the places of a frame, the whole number below `ratio` times them is hidden. Raises ValueError
        when that leaves nothing hidden or nothing visible.
        """
        places = (self.image_size_px // self.config.patch_px) ** 2
        hidden = int(ratio * places)
        if not 0 < hidden < places:
            raise ValueError(f"mask_ratio {ratio} hides {hidden} of the {places} places of a frame")
        order_BG = torch.rand(batch, places, generator=generator, device=generator.device).argsort(dim=1)
        return (order_BG < hidden).repeat(1, self.tokens // places)

    def target(self, frames: Tensor, mask_BN: Tensor) -> Tensor:
        """Pixels of the masked tubelets, normalised per tubelet and channel: target_BMP.

        `frames` are uint8 frames_BTHWC, or the float frames_BCTHW that `normalise` made of them. P is in
        order (tubelet, h, w, c); the variance is the unbiased one.
        """
        if frames.dtype == torch.uint8:
            pixels_BCTHW = frames.permute(0, 4, 1, 2, 3).float()
        else:
            pixels_BCTHW = self.normalise.undo(frames.float())
        self.check_frames(pixels_BCTHW)
        tubelet = self.config.tubelet_frames
        patches_BNP = patchify(pixels_BCTHW, patch_px=self.config.patch_px, tubelet_frames=tubelet)
        patches_BMCx = pick(patches_BNP, split_mask(mask_BN.to(frames.device))[1]).unflatten(-1, (3, -1))
        std, mean = torch.std_mean(patches_BMCx, dim=-1, keepdim=True)
        return ((patches_BMCx - mean) / (std + TARGET_EPS)).transpose(-1, -2).flatten(-2)

    def forward(self, frames_BCTHW: Tensor, mask_BN: Tensor) -> Tensor:
        """Normalised frames and a mask (True = hidden) to prediction_BMP of the hidden tubelets, in order."""
        self.check_frames(frames_BCTHW)
        visible_BV, masked_BM = split_mask(mask_BN.to(frames_BCTHW.device))
        x_BVD = self.encoder_to_decoder(self.norm(self.encoder(frames_BCTHW, visible_BV)))
        x_BVD = x_BVD + self.decoder_positions[visible_BV]
        hidden_BMD = self.mask_token + self.decoder_positions[masked_BM]
        x_BND = torch.cat([x_BVD, hidden_BMD.to(x_BVD.dtype)], dim=1)
        prediction_BMP: Tensor = self.decoder(x_BND, last=masked_BM.shape[1])
        return prediction_BMP


class VideoMAEClassifier(VideoModel):
    """VideoMAE's encoder over all tubelets, mean over tokens, LayerNorm, dropout, linear head."""

    kind: ClassVar[str] = "videomae_classifier"
    architecture_kind: ClassVar[str] = "videomae"
    config: VideoMAEConfig

    def __init__(
        self,
        config: VideoMAEConfig,
        *,
        classes: int,
        frames: int,
        image_size_px: int,
        drop_path: float = 0.0,
        head_dropout: float = 0.0,
    ) -> None:
        depths = {"encoder.": config.layers}
        super().__init__(config, frames=frames, image_size_px=image_size_px, towers=depths)
        self.encoder = VideoMAEEncoder(
            config, frames=frames, image_size_px=image_size_px, drop_path=drop_path
        )
        self.fc_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(head_dropout)
        self.head = nn.Linear(config.width, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.head.weight.mul_(HEAD_SCALE)

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        """Normalised frames to logits_BK."""
        self.check_frames(frames_BCTHW)
        logits_BK: Tensor = self.head(self.dropout(self.fc_norm(self.encoder(frames_BCTHW).mean(dim=1))))
        return logits_BK


def sine_cosine(tokens: int, width: int) -> Tensor:
    """Fixed positions N,D: sine at even, cosine at odd places, wavelengths from 2π to 10000·2π."""
    powers_D = torch.arange(width, dtype=torch.float64).div(2, rounding_mode="floor") * 2 / width
    angles_ND = torch.arange(tokens, dtype=torch.float64)[:, None] / 10000**powers_D
    angles_ND[:, 0::2], angles_ND[:, 1::2] = angles_ND[:, 0::2].sin(), angles_ND[:, 1::2].cos()
    return angles_ND.float()


def split_mask(mask_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Token numbers visible_BV and masked_BM, each ascending.

    Raises ValueError unless all clips hide equally many, and neither all nor none.
    """
    hidden = mask_BN.sum(dim=1).tolist()
    if len(set(hidden)) != 1 or not 0 < hidden[0] < mask_BN.shape[1]:
        raise ValueError(f"each clip must hide the same number of tubelets, not all or none; got {hidden}")
    order_BN = mask_BN.byte().argsort(dim=1, stable=True)
    return order_BN[:, : -hidden[0]], order_BN[:, -hidden[0] :]


def pick(x_BND: Tensor, rows_BK: Tensor) -> Tensor:
    """Rows of each clip by number: B,K,D."""
    return x_BND.gather(1, rows_BK[..., None].expand(-1, -1, x_BND.shape[-1]))
