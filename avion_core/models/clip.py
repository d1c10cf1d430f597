"""CLIP's towers: the vision transformer over all frames at once, and the causal text transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from avion_core.models.base import Adapter, TextTower, VisionTower
from avion_core.models.layers import Block, init_clip_blocks, patchify, pick, run_blocks
from avion_core.models.names import Names, Same
from avion_core.models.positions import fit_context, interpolate_frames, interpolate_places
from avion_core.models.towers import TextConfig, VisionConfig

NORMS: Names = (Same(".norm1.", ".ln_1."), Same(".norm2.", ".ln_2."))
PLAIN: Names = (
    *NORMS,
    Same(".attn.qkv.", ".attn.in_proj_"),
    Same(".attn.proj.", ".attn.out_proj."),
    Same(".mlp.fc1.", ".mlp.c_fc."),
    Same(".mlp.fc2.", ".mlp.c_proj."),
)
"""A block's names in CLIP and its derivatives."""
FLASH: Names = (*NORMS, Same(".attn.qkv.", ".attn.Wqkv."), Same(".attn.proj.", ".attn.out_proj."))
"""A block's names in AVION with flash attention."""


class ClipVision(VisionTower):
    """Class token and T·H·W patch tokens with joint space-time attention (AVION, arXiv 2309.16669, 3.1).

    A patch's position embedding is the sum of a spatial and a temporal one; the class token has row 0 of the
    spatial table and no temporal embedding.
    """

    adapters: ClassVar[Mapping[str, Adapter]] = {
        "temporal_embedding": interpolate_frames,
        "positional_embedding": interpolate_places,
    }

    inert: ClassVar[tuple[str, ...]] = ("temporal_embedding",)

    def __init__(
        self,
        config: VisionConfig,
        *,
        frames: int,
        image_size_px: int,
        activation: str,
        drop_path: float = 0.0,
        patch_dropout: float = 0.0,
        embed_dim: int | None = None,
    ) -> None:
        """`embed_dim` adds the projection into the embedding space; drop path is equal in all layers.

        `patch_dropout` is the share of each clip's patches dropped in training (FLIP, arXiv 2212.00794).
        """
        super().__init__()
        self.patch_dropout = patch_dropout
        self.patch_px = config.patch_px
        self.frames = frames
        places = (image_size_px // config.patch_px) ** 2
        self.patch = nn.Linear(3 * config.patch_px**2, config.width, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(config.width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + places, config.width))
        self.temporal_embedding = nn.Parameter(torch.empty(frames, config.width))
        self.ln_pre = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.blocks = nn.ModuleList(
            Block(
                config.width,
                heads=config.heads,
                mlp_ratio=config.mlp_ratio,
                activation=activation,
                norm_eps=config.norm_eps,
                drop_path=drop_path,
            )
            for _ in range(config.layers)
        )
        self.ln_post = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.projection = None if embed_dim is None else nn.Parameter(torch.empty(config.width, embed_dim))
        self._init(config)

    def _init(self, config: VisionConfig) -> None:
        scale = config.width**-0.5
        nn.init.normal_(self.class_embedding, std=scale)
        nn.init.normal_(self.positional_embedding, std=config.positional_std or scale)
        nn.init.normal_(self.temporal_embedding, std=config.temporal_std)
        if self.projection is not None:
            nn.init.normal_(self.projection, std=scale)
        init_clip_blocks(self.blocks, width=config.width)

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        """Normalised frames to the class token after `ln_post`: B,width, or projected: B,embed_dim."""
        x_BND = run_blocks(self.blocks, self._embed(frames_BCTHW), first_only=True)
        x_BD: Tensor = self.ln_post(x_BND[:, 0])
        return x_BD if self.projection is None else x_BD @ self.projection

    def tokens(self, frames_BCTHW: Tensor) -> Tensor:
        """Normalised frames to B,1+T·H·W,width after `ln_post`: class token, then patches by t, h, w."""
        x_BND: Tensor = self.ln_post(run_blocks(self.blocks, self._embed(frames_BCTHW)))
        return x_BND

    def _embed(self, frames_BCTHW: Tensor) -> Tensor:
        """The tokens before the first block; in training without the dropped patches."""
        patches_BNP = patchify(frames_BCTHW, patch_px=self.patch_px)
        positions_ND = (self.positional_embedding[1:] + self.temporal_embedding[:, None]).flatten(0, 1)
        if self.training and self.patch_dropout:
            kept_BK = self._draw_patches(patches_BNP)
            patches_BNP, positions_ND = pick(patches_BNP, kept_BK), positions_ND[kept_BK]
        x_BND = self.patch(patches_BNP) + positions_ND
        first_D = self.class_embedding + self.positional_embedding[0]
        first_B1D = first_D.to(x_BND.dtype).expand(x_BND.shape[0], 1, -1)
        embedded_BND: Tensor = self.ln_pre(torch.cat([first_B1D, x_BND], dim=1))
        return embedded_BND

    @classmethod
    def names(cls, config: VisionConfig) -> dict[str, Names]:
        """Names in OpenAI's and open_clip's CLIP, and in AVION."""
        kernel = (-1, 3, config.patch_px, config.patch_px)
        convolution, matrix = (Same("patch.weight", "visual.conv1.weight", shape) for shape in (kernel, None))
        others = Same("blocks.", "visual.transformer.resblocks."), Same("", "visual.")
        return {
            "open_clip": (convolution, Same("projection", "visual.proj"), *others, *PLAIN),
            "avion": (convolution, Same("projection", "visual.image_projection"), *others, *PLAIN),
            "avion_flash": (matrix, Same("projection", "visual.image_projection"), *others, *FLASH),
        }

    def _draw_patches(self, patches_BNP: Tensor) -> Tensor:
        """Indices of the kept patches, at least one per clip."""
        batch, patches = patches_BNP.shape[:2]
        kept = max(1, int(patches * (1 - self.patch_dropout)))
        return torch.rand(batch, patches, device=patches_BNP.device).argsort(dim=1)[:, :kept]


class ClipText(TextTower):
    """Token ids to one embedding per text (Radford et al. 2021)."""

    adapters: ClassVar[Mapping[str, Adapter]] = {"positional_embedding": fit_context}

    def __init__(self, config: TextConfig, *, activation: str, embed_dim: int) -> None:
        super().__init__()
        self.context_length = config.context_length
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, config.width))
        self.blocks = nn.ModuleList(
            Block(
                config.width,
                heads=config.heads,
                mlp_ratio=config.mlp_ratio,
                activation=activation,
                norm_eps=config.norm_eps,
            )
            for _ in range(config.layers)
        )
        self.ln_final = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.projection = nn.Parameter(torch.empty(config.width, embed_dim))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.projection, std=config.width**-0.5)
        init_clip_blocks(self.blocks, width=config.width)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Token ids (the end of text is the largest of each row) to embeddings B,embed_dim.

        On the CPU the batch is cut after its last end of text: attention is causal, so the result is the
        same. On a GPU, finding it would wait for all earlier work; there, batches arrive cut.
        """
        if tokens_BL.shape[1] > self.context_length:
            raise ValueError(
                f"texts of {tokens_BL.shape[1]} tokens do not fit the context of {self.context_length}"
            )
        ends_B = tokens_BL.argmax(dim=-1)
        if tokens_BL.device.type == "cpu":
            tokens_BL = tokens_BL[:, : int(ends_B.max()) + 1]
        return self.read_at(ends_B, tokens_BL)

    def dry_run(self, tokens_BL: Tensor) -> Tensor:
        """Takes the output at the first token, whatever the ends of the texts."""
        return self.read_at(tokens_BL[:, 0], tokens_BL)

    def read_at(self, ends_B: Tensor, tokens_BL: Tensor) -> Tensor:
        """Embeddings B,embed_dim of token ids: the output at the positions `ends_B`."""
        x_BLD = self.token_embedding(tokens_BL) + self.positional_embedding[: tokens_BL.shape[1]]
        x_BLD = run_blocks(self.blocks, x_BLD, causal=True)
        rows_B = torch.arange(len(ends_B), device=ends_B.device)
        x_BD: Tensor = self.ln_final(x_BLD[rows_B, ends_B])
        return x_BD @ self.projection

    @classmethod
    def names(cls, config: TextConfig) -> dict[str, Names]:
        """With a prefix in AVION's files, without one in all others."""
        bare = (
            Same("projection", "text_projection"),
            Same("blocks.", "transformer.resblocks."),
            *(Same(name, name) for name in ("token_embedding.", "positional_embedding", "ln_final.")),
            *PLAIN,
        )
        prefixed = (
            Same("projection", "textual.text_projection"),
            Same("blocks.", "textual.transformer.resblocks."),
            Same("", "textual."),
            *PLAIN,
        )
        return {"open_clip": bare, "lavila": bare, "avion": prefixed, "avion_flash": prefixed}
