"""The text tower: CLIP's causal transformer, read at the end-of-text token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avion_core.models.architecture import TextConfig
from avion_core.models.layers import Block, init_clip_blocks, run_blocks


class TextTower(nn.Module):
    """Token ids to one embedding a text (Radford et al. 2021)."""

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

        The batch is cut behind its last end of text: attention is causal, so the result is the same.
        """
        if tokens_BL.shape[1] > self.context_length:
            raise ValueError(
                f"texts of {tokens_BL.shape[1]} tokens do not fit the context of {self.context_length}"
            )
        ends_B = tokens_BL.argmax(dim=-1)
        return self.read_at(ends_B, tokens_BL[:, : int(ends_B.max()) + 1])

    def read_at(self, ends_B: Tensor, tokens_BL: Tensor) -> Tensor:
        """Embeddings B,embed_dim of token ids, read at the places `ends_B`."""
        x_BLD = self.token_embedding(tokens_BL) + self.positional_embedding[: tokens_BL.shape[1]]
        x_BLD = run_blocks(self.blocks, x_BLD, causal=True)
        rows_B = torch.arange(len(ends_B), device=ends_B.device)
        x_BD: Tensor = self.ln_final(x_BLD[rows_B, ends_B])
        return x_BD @ self.projection
