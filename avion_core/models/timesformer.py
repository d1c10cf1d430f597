"""The TimeSformer of LaViLa and EgoVLP: attention over time, then over space, in every block.

Bertasius et al., "Is Space-Time Attention All You Need for Video Understanding?", ICML 2021, in the form of
Bain et al., "Frozen in Time", ICCV 2021. Shapes: B clips, T frames, P patches of a frame, N = 1 + T·P tokens
(the class token, then the patches frame by frame), D width, G groups of a clip, H heads of size d.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from avion_core.models.base import Adapter, VisionTower
from avion_core.models.clip import PLAIN
from avion_core.models.layers import (
    MLP,
    Attention,
    TransformerBlock,
    init_clip_blocks,
    make_drop_path,
    make_projection,
    patchify,
    project,
    run_blocks,
)
from avion_core.models.names import Names, Same
from avion_core.models.positions import interpolate_places, lengthen_linearly, lengthen_with_zeros
from avion_core.models.towers import TimeSformerConfig

LENGTHEN = {"linear": lengthen_linearly, "zeros": lengthen_with_zeros}
"""Adapters of the temporal table by the field `more_frames`."""


class DividedAttention(Attention):
    """Attention of each patch to the class token and its group; the class token attends to all tokens.

    A group is the same place in all frames (`over_time`), or all patches of a frame.
    """

    def __init__(self, width: int, *, heads: int, frames: int, over_time: bool) -> None:
        super().__init__(width, heads=heads)
        self.frames, self.over_time = frames, over_time

    def forward(self, x_BND: Tensor, *, causal: bool = False, first_only: bool = False) -> Tensor:
        """All tokens, or with `first_only` the class token's output: B,1,D."""
        q_BNHd, k_BNHd, v_BNHd = self.queries_keys_values(x_BND, first_only=first_only)
        out_BNHd = self.attend(q_BNHd[:, :1], k_BNHd, v_BNHd, causal)
        if not first_only:
            keys, values = (self._with_class_token(part) for part in (k_BNHd, v_BNHd))
            patches = self.attend(self._grouped(q_BNHd[:, 1:]), keys, values, causal)
            out_BNHd = torch.cat([out_BNHd, self._ungrouped(patches, clips=len(x_BND))], dim=1)
        out_BND: Tensor = self.proj(out_BNHd.flatten(2))
        return out_BND

    def _grouped(self, x_BNHd: Tensor) -> Tensor:
        """Patches, without the class token, as groups: B·G,N/G,H,d."""
        x_BTPHd = x_BNHd.unflatten(1, (self.frames, -1))
        return (x_BTPHd.transpose(1, 2) if self.over_time else x_BTPHd).flatten(0, 1)

    def _with_class_token(self, x_BNHd: Tensor) -> Tensor:
        """Groups with the class token before each."""
        grouped = self._grouped(x_BNHd[:, 1:])
        groups = len(grouped) // len(x_BNHd)
        return torch.cat([x_BNHd[:, :1].repeat_interleave(groups, dim=0), grouped], dim=1)

    def _ungrouped(self, grouped: Tensor, *, clips: int) -> Tensor:
        x_BGNHd = grouped.unflatten(0, (clips, -1))
        return (x_BGNHd.transpose(1, 2) if self.over_time else x_BGNHd).flatten(1, 2)


class DividedBlock(TransformerBlock):
    """A pre-norm block with two attentions.

    The output of the time attention enters only the input of the space attention, not the residual stream.
    """

    def __init__(
        self, config: TimeSformerConfig, *, frames: int, activation: str, drop_path: float = 0.0
    ) -> None:
        """Stochastic depth acts on the space attention and the MLP."""
        super().__init__()
        width, heads, eps = config.width, config.heads, config.norm_eps
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = DividedAttention(width, heads=heads, frames=frames, over_time=False)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, hidden=int(width * config.mlp_ratio), activation=activation)
        self.norm3 = nn.LayerNorm(width, eps=eps)
        self.timeattn = DividedAttention(width, heads=heads, frames=frames, over_time=True)
        self.drop_path = make_drop_path(drop_path)

    def forward(self, x_BND: Tensor, *, first_only: bool = False) -> Tensor:
        """All tokens, or with `first_only` the class token's output: B,1,D."""
        kept = x_BND[:, :1] if first_only else x_BND
        mixed_BND = x_BND + self.timeattn(self.norm3(x_BND))
        y = kept + self.drop_path(self.attn(self.norm1(mixed_BND), first_only=first_only))
        out: Tensor = y + self.drop_path(self.mlp(self.norm2(y)))
        return out


class TimeSformer(VisionTower):
    """Class token and T·P patch tokens through blocks of divided attention.

    A patch's position embedding is the sum of a spatial and a temporal one; the class token has row 0 of the
    spatial table and no temporal embedding. A fresh tower has no time attention yet: `timeattn.qkv` is zero
    and `timeattn.proj` all ones, as published.
    """

    inert: ClassVar[tuple[str, ...]] = ("temporal_embedding", "blocks.*.timeattn.*", "blocks.*.norm3.*")

    def __init__(
        self,
        config: TimeSformerConfig,
        *,
        frames: int,
        image_size_px: int,
        activation: str,
        drop_path: float = 0.0,
        patch_dropout: float = 0.0,
        embed_dim: int | None = None,
    ) -> None:
        """Drop path grows linearly from 0 in the first block to `drop_path` in the last.

        Raises ValueError for patch dropout, as time attention needs all patches of a place.
        """
        super().__init__()
        if patch_dropout:
            raise ValueError("patch_dropout: a TimeSformer cannot leave out patches; set it to 0")
        self.config = config
        width, places = config.width, (image_size_px // config.patch_px) ** 2
        self.patch = nn.Linear(3 * config.patch_px**2, width, bias=config.patch_bias)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + places, width))
        self.temporal_embedding = nn.Parameter(torch.zeros(frames, width))
        eps = config.ln_pre_eps
        self.ln_pre = nn.Identity() if eps is None else nn.LayerNorm(width, eps=eps)
        rates = [drop_path * layer / max(1, config.layers - 1) for layer in range(config.layers)]
        self.blocks = nn.ModuleList(
            DividedBlock(config, frames=frames, activation=activation, drop_path=rate) for rate in rates
        )
        self.ln_post = nn.LayerNorm(width, eps=config.norm_eps)
        linear = config.projection == "linear"
        self.projection = None if embed_dim is None else make_projection(width, embed_dim, linear=linear)
        for table in (self.class_embedding, self.positional_embedding):
            nn.init.trunc_normal_(table, std=0.02)
        init_clip_blocks(self.blocks, width=width)
        for layer in self.blocks.modules():
            if isinstance(layer, DividedAttention) and layer.over_time:
                nn.init.zeros_(layer.qkv.weight)
                nn.init.ones_(layer.proj.weight)

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """A longer temporal table by the field `more_frames`; a shorter one has the first rows."""
        return {
            "temporal_embedding": LENGTHEN[self.config.more_frames],
            "positional_embedding": interpolate_places,
        }

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        """Normalised frames to the class token after `ln_post`: B,width, or projected: B,embed_dim."""
        x_B1D = run_blocks(self.blocks, self._embed(frames_BCTHW), first_only=True)
        return project(self.ln_post(x_B1D[:, 0]), self.projection)

    def tokens(self, frames_BCTHW: Tensor) -> Tensor:
        """Normalised frames to B,1+T·P,width after `ln_post`: class token, then patches frame by frame."""
        x_BND: Tensor = self.ln_post(run_blocks(self.blocks, self._embed(frames_BCTHW)))
        return x_BND

    def _embed(self, frames_BCTHW: Tensor) -> Tensor:
        """The tokens before the first block."""
        positions_ND = (self.positional_embedding[1:] + self.temporal_embedding[:, None]).flatten(0, 1)
        x_BND = self.patch(patchify(frames_BCTHW, patch_px=self.config.patch_px)) + positions_ND
        first_D = self.class_embedding + self.positional_embedding[0]
        first_B1D = first_D.to(x_BND.dtype).expand(len(x_BND), 1, -1)
        embedded_BND: Tensor = self.ln_pre(torch.cat([first_B1D, x_BND], dim=1))
        return embedded_BND

    @classmethod
    def names(cls, config: TimeSformerConfig) -> dict[str, Names]:
        """Names in LaViLa and EgoVLP; and in CLIP and timm, whose image models it starts from."""
        linear = config.projection == "linear"
        projection = ("projection.", "image_projection.0.") if linear else ("projection", "image_projection")
        formats = {
            "lavila": (Same(*projection), *_rows(config, "visual."), Same("", "visual.")),
            "clip": (*CLIP_STEM, *PLAIN),
            "timm": (*_rows(config, ""), Same("blocks.", "blocks.")),
        }
        if linear:  # EgoVLP has no other
            rows = _rows(config, "video_model.")
            formats["egovlp"] = (Same("projection.", "vid_proj.0."), *rows, Same("", "video_model."))
        return formats


CLIP_STEM: Names = (
    Same("patch.weight", "visual.conv1.weight"),
    Same("projection", "visual.proj"),
    Same("blocks.", "visual.transformer.resblocks."),
    *(Same(name, f"visual.{name}") for name in ("class_embedding", "positional_embedding")),
    *(Same(name, f"visual.{name}") for name in ("ln_pre.", "ln_post.")),
)
"""Names outside the blocks of CLIP's image model."""


def _rows(config: TimeSformerConfig, prefix: str) -> Names:
    """Names in timm's vision transformers and what derives from them, behind a prefix."""
    kernel = (-1, 3, config.patch_px, config.patch_px)
    return (
        Same("patch.weight", f"{prefix}patch_embed.proj.weight", kernel),
        Same("patch.bias", f"{prefix}patch_embed.proj.bias"),
        Same("class_embedding", f"{prefix}cls_token", (1, 1, -1)),
        Same("positional_embedding", f"{prefix}pos_embed", (1, -1, config.width)),
        Same("temporal_embedding", f"{prefix}temporal_embed", (1, -1, config.width)),
        Same("ln_post.", f"{prefix}norm."),
    )
