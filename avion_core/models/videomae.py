"""VideoMAE: an autoencoder that sees a tenth of a clip's tubelets, and the classifier built on its encoder.

Tong et al., "VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video
Pre-Training", NeurIPS 2022; as there, biases of keys are not trained. Decoder masking: Wang et al.,
"VideoMAE V2", CVPR 2023, section 3.2.

N tokens, V visible, M masked and predicted, P values of a patch. A mask has one value per token: 0 visible to
the encoder, 1 predicted by the decoder, 2 neither; without decoder masking it is boolean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from avion_core.models.architecture import VideoMAEConfig
from avion_core.models.attentive_head import AttentiveHead
from avion_core.models.base import Tower, VideoModel
from avion_core.models.class_heads import Classifier, Head
from avion_core.models.layers import Block, ClassLayer, patchify, pick, run_blocks
from avion_core.models.names import Names, Part, Same

HEAD_SCALE = 0.001
"""Scale of the classifier's fresh head, VideoMAE's `init_scale`."""
CELL = 4
"""Positions of a running cell, 2×2, and its period in time steps."""
PLAIN: Names = (Same(".attn.qkv.bias", (".attn.q_bias", None, ".attn.v_bias")),)
"""A block's names in the original, whose keys have no bias (it does not affect attention)."""
FLASH: Names = (Same(".attn.qkv.", ".attn.Wqkv."), Same(".attn.proj.", ".attn.out_proj."))
"""A block's names in AVION with flash attention."""


class VideoMAEEncoder(Tower):
    """Tubelet embedding, fixed positions and blocks, over all tubelets or only the visible ones."""

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
                train_key_bias=False,
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
        return run_blocks(self.blocks, x_BVD)


class VideoMAEDecoder(nn.Module):
    """A few narrow blocks that turn tokens into pixels."""

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads=config.decoder_heads,
                mlp_ratio=config.mlp_ratio,
                norm_eps=config.norm_eps,
                train_key_bias=False,
            )
            for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.head = nn.Linear(width, 3 * config.tubelet_frames * config.patch_px**2)

    def forward(self, x_BND: Tensor, *, last: int) -> Tensor:
        """Pixels B,last,P of the `last` tokens."""
        pixels_BMP: Tensor = self.head(self.norm(run_blocks(self.blocks, x_BND)[:, -last:]))
        return pixels_BMP


class VideoMAE(VideoModel):
    """Encoder on visible tubelets, decoder on all; predicts the masked ones' normalised pixels."""

    kind: ClassVar[str] = "videomae"
    towers: ClassVar[tuple[str, ...]] = ("encoder",)
    config: VideoMAEConfig
    decoder_positions: Tensor

    def __init__(
        self,
        config: VideoMAEConfig,
        *,
        frames: int,
        image_size_px: int,
        drop_path: float = 0.0,
        decoder_mask_ratio: float = 0.0,
    ) -> None:
        """`decoder_mask_ratio`, a multiple of ¼, is the share of masked tubelets that is not predicted.

        Raises ValueError if the clip is not a whole number of the running cell's periods.
        """
        super().__init__(config, frames=frames, image_size_px=image_size_px)
        period = CELL * config.tubelet_frames
        if decoder_mask_ratio and frames % period:
            raise ValueError(f"decoder_mask_ratio needs frames in multiples of {period}, not {frames}")
        self._decoder_mask_ratio = decoder_mask_ratio
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
        """Random tube mask_BN, non-zero where masked: the same positions in all frames of a clip.

        Masks floor(`ratio` × positions of a frame) positions. Raises ValueError if that masks nothing or
        everything.
        """
        side = self.image_size_px // self.config.patch_px
        places = side**2
        hidden = int(ratio * places)
        if not 0 < hidden < places:
            raise ValueError(f"mask_ratio {ratio} hides {hidden} of the {places} places of a frame")
        order_BG = torch.rand(batch, places, generator=generator, device=generator.device).argsort(dim=1)
        mask_BN = (order_BG < hidden).repeat(1, self.tokens // places)
        if not self._decoder_mask_ratio:
            return mask_BN
        phase_B = torch.randint(CELL, (batch,), generator=generator, device=generator.device)
        left_out_BN = running_cells(phase_B, self._decoder_mask_ratio, times=self.tokens // places, side=side)
        return mask_BN.byte() * (1 + left_out_BN.byte())

    def target(self, frames: Tensor, mask_BN: Tensor, *, epsilon: float = 1e-6) -> Tensor:
        """`pixels` of the tubelets with value 1 of the mask, in order: target_BMP."""
        return self.pixels(frames, split_mask(mask_BN.to(frames.device))[1], epsilon=epsilon)

    def pixels(self, frames: Tensor, masked_BM: Tensor, *, epsilon: float = 1e-6) -> Tensor:
        """Pixels of the tubelets `masked_BM`, by index, normalised per tubelet and channel: target_BMP.

        `frames` are uint8 frames_BTHWC, or float frames_BCTHW from `normalise`. P is in order
        (tubelet, h, w, c); the variance is unbiased, and `epsilon` is added to the standard deviation of
        pixels on 0…255.
        """
        if frames.dtype == torch.uint8:
            pixels_BCTHW = frames.permute(0, 4, 1, 2, 3).float()
        else:
            pixels_BCTHW = self.normalise.undo(frames.float())
        self.check_frames(pixels_BCTHW)
        tubelet = self.config.tubelet_frames
        patches_BNP = patchify(pixels_BCTHW, patch_px=self.config.patch_px, tubelet_frames=tubelet)
        patches_BMCx = pick(patches_BNP, masked_BM).unflatten(-1, (3, -1))
        std, mean = torch.std_mean(patches_BMCx, dim=-1, keepdim=True)
        return ((patches_BMCx - mean) / (std + epsilon)).transpose(-1, -2).flatten(-2)

    def forward(self, frames_BCTHW: Tensor, mask_BN: Tensor) -> Tensor:
        """Normalised frames and a mask to prediction_BMP of the tubelets with value 1, in order."""
        self.check_frames(frames_BCTHW)
        return self.reconstruct(frames_BCTHW, *split_mask(mask_BN.to(frames_BCTHW.device)))

    def reconstruct(self, frames_BCTHW: Tensor, visible_BV: Tensor, masked_BM: Tensor) -> Tensor:
        """prediction_BMP of the tubelets `masked_BM` from the tubelets `visible_BV`, both by index."""
        x_BVD = self.encoder_to_decoder(self.norm(self.encoder(frames_BCTHW, visible_BV)))
        x_BVD = x_BVD + self.decoder_positions[visible_BV]
        hidden_BMD = self.mask_token + self.decoder_positions[masked_BM]
        x_BND = torch.cat([x_BVD, hidden_BMD.to(x_BVD.dtype)], dim=1)
        prediction_BMP: Tensor = self.decoder(x_BND, last=masked_BM.shape[1])
        return prediction_BMP

    def dry_run(self, frames_BCTHW: Tensor, *, mask_ratio: float = 0.9) -> Tensor:
        """Mask this share of the tubelets, and predict those of them that the decoder predicts."""
        places = (self.image_size_px // self.config.patch_px) ** 2
        masked = int(mask_ratio * places) * (self.tokens // places)
        predicted = round(masked * (1 - self._decoder_mask_ratio))
        order_BN = torch.zeros(len(frames_BCTHW), self.tokens, dtype=torch.long)
        return self.reconstruct(frames_BCTHW, order_BN[:, masked:], order_BN[:, :predicted])

    @classmethod
    def names(cls, config: VideoMAEConfig) -> tuple[Part, ...]:
        norm = Same("norm.", "encoder.norm.")
        return (_part(config, norm, patch="encoder.patch_embed.proj."),)


class VideoMAEClassifier(Classifier):
    """VideoMAE's encoder over all tubelets, mean over tokens, LayerNorm, dropout, linear head."""

    kind: ClassVar[str] = "videomae_classifier"
    towers: ClassVar[tuple[str, ...]] = ("encoder",)
    config: VideoMAEConfig

    def __init__(
        self,
        config: VideoMAEConfig,
        *,
        classes: int,
        further_classes: Mapping[str, int] | None = None,
        frames: int,
        image_size_px: int,
        drop_path: float = 0.0,
        head_dropout: float = 0.0,
        head: str = "linear",
    ) -> None:
        """An attentive `head` reads the normalised tokens instead of their mean."""
        super().__init__(config, frames=frames, image_size_px=image_size_px)
        self.encoder = VideoMAEEncoder(
            config, frames=frames, image_size_px=image_size_px, drop_path=drop_path
        )
        self.fc_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(head_dropout)

        def make(classes: int) -> Head:
            if head == "attentive":
                std, heads = 0.02 * HEAD_SCALE, config.heads
                return AttentiveHead(
                    config.width, heads=heads, classes=classes, dropout=head_dropout, std=std
                )
            return ClassLayer(config.width, classes)

        heads = self.make_heads(make, classes=classes, further_classes=further_classes)
        for layer in (*self.encoder.modules(), *heads):
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        for layer in heads:
            if isinstance(layer, nn.Linear):
                with torch.no_grad():
                    layer.weight.mul_(HEAD_SCALE)

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        """Normalised frames to logits_BK of all heads, the label's first."""
        self.check_frames(frames_BCTHW)
        x_BND = self.encoder(frames_BCTHW)
        attentive = isinstance(self.head, AttentiveHead)
        return self.classify(self.fc_norm(x_BND if attentive else x_BND.mean(dim=1)))

    def foreign_copies(self) -> dict[str, Tensor]:
        """Nothing. Raises ValueError for heads for which third-party files have no names."""
        if self.further_heads:
            raise ValueError(
                "no format has names for heads of several labels; the model's own folder keeps them"
            )
        return super().foreign_copies()

    @classmethod
    def names(cls, config: VideoMAEConfig) -> tuple[Part, ...]:
        return (_part(config, Same("encoder.blocks.", "blocks."), patch="patch_embed.proj."),)


def _part(config: VideoMAEConfig, *rows: Same, patch: str) -> Part:
    """A whole model's names in AVION and the original; `patch` is the prefix of the tubelet embedding."""
    kernel = (-1, 3, config.tubelet_frames, config.patch_px, config.patch_px)
    convolution, matrix = (Same("encoder.patch.weight", f"{patch}weight", shape) for shape in (kernel, None))
    rows = (*rows, Same("encoder.patch.bias", f"{patch}bias"))
    return Part("", {"avion": (convolution, *rows, *PLAIN), "avion_flash": (matrix, *rows, *FLASH)})


def sine_cosine(tokens: int, width: int) -> Tensor:
    """Fixed positions N,D: sine at even, cosine at odd places, wavelengths from 2π to 10000·2π."""
    powers_D = torch.arange(width, dtype=torch.float64).div(2, rounding_mode="floor") * 2 / width
    angles_ND = torch.arange(tokens, dtype=torch.float64)[:, None] / 10000**powers_D
    angles_ND[:, 0::2], angles_ND[:, 1::2] = angles_ND[:, 0::2].sin(), angles_ND[:, 1::2].cos()
    return angles_ND.float()


def split_mask(mask_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Indices visible_BV and masked_BM of tokens with mask values 0 and 1, each ascending.

    Raises ValueError unless all clips have the same non-zero number of each.
    """
    visible, masked = ((mask_BN == mark).sum(dim=1).tolist() for mark in (0, 1))
    if len(set(visible)) != 1 or len(set(masked)) != 1 or not visible[0] or not masked[0]:
        raise ValueError(f"each clip must hide the same number of tubelets, not all or none; got {masked}")
    order_BN = mask_BN.byte().argsort(dim=1, stable=True)
    return order_BN[:, : visible[0]], order_BN[:, visible[0] : visible[0] + masked[0]]


def running_cells(phase_B: Tensor, ratio: float, *, times: int, side: int) -> Tensor:
    """left_out_BN: `ratio` of the positions in each 2×2 cell, moving on by one at each time step.

    `phase_B`, 0…3, is a clip's first position. Over four time steps each is left out equally often.
    """
    row = torch.arange(side, device=phase_B.device) % 2
    place_G = (2 * row[:, None] + row).flatten()
    step_TG = torch.arange(times, device=phase_B.device)[:, None] + place_G
    return (step_TG.flatten() + phase_B[:, None]) % CELL < ratio * CELL
