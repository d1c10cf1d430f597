"""DistilBERT, the text tower of EgoVLP and of LaViLa's largest model (Sanh et al., arXiv 1910.01108).

Shapes: B texts of at most L tokens, D width. Token 0 is padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avion_core.models.base import Adapter, TextTower
from avion_core.models.layers import (
    MLP,
    Attention,
    TransformerBlock,
    make_projection,
    project,
    run_blocks,
)
from avion_core.models.names import Names, Same
from avion_core.models.positions import fit_context
from avion_core.models.towers import DistilBertConfig

BLOCK: Names = (
    Same(".attn.qkv.", tuple(f".attention.{name}." for name in ("q_lin", "k_lin", "v_lin"))),
    Same(".attn.proj.", ".attention.out_lin."),
    Same(".norm1.", ".sa_layer_norm."),
    Same(".norm2.", ".output_layer_norm."),
    Same(".mlp.fc1.", ".ffn.lin1."),
    Same(".mlp.fc2.", ".ffn.lin2."),
)
"""A block's names in the package transformers."""


class MaskedAttention(Attention):
    """Attention to the tokens of a text, without its padding; torch's own, whatever kernel is chosen."""

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__(width, heads=heads)
        self.dropout = dropout

    def forward(  # type: ignore[override]
        self, x_BLD: Tensor, *, present_BL: Tensor, first_only: bool = False
    ) -> Tensor:
        """All tokens, or with `first_only` the first token's output: B,1,D."""
        parts = self.queries_keys_values(x_BLD, first_only=first_only)
        q_BHLd, k_BHLd, v_BHLd = (part.transpose(1, 2) for part in parts)
        out_BHLd = F.scaled_dot_product_attention(
            q_BHLd,
            k_BHLd,
            v_BHLd,
            attn_mask=present_BL[:, None, None],
            dropout_p=self.dropout if self.training else 0.0,
        )
        out_BLD: Tensor = self.proj(out_BHLd.transpose(1, 2).flatten(2))
        return out_BLD


class PostNormBlock(TransformerBlock):
    """A block with its norms after the sums."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.attn = MaskedAttention(config.width, heads=config.heads, dropout=config.dropout)
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = MLP(config.width, hidden=config.hidden, activation="gelu")
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BLD: Tensor, *, present_BL: Tensor, first_only: bool = False) -> Tensor:
        """All tokens, or with `first_only` the first token's output: B,1,D."""
        kept = x_BLD[:, :1] if first_only else x_BLD
        x = self.norm1(kept + self.attn(x_BLD, present_BL=present_BL, first_only=first_only))
        out: Tensor = self.norm2(x + self.dropout(self.mlp(x)))
        return out


class DistilBert(TextTower):
    """Token ids to one embedding per text: the output at its first token, projected.

    Its activation is exact GELU, whatever the vision tower's.
    """

    embeddings: ClassVar[tuple[str, ...]] = (*TextTower.embeddings, "ln_embed.")

    def __init__(self, config: DistilBertConfig, *, activation: str, embed_dim: int) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.positional_embedding = nn.Parameter(torch.empty(config.places, config.width))
        self.ln_embed = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(PostNormBlock(config) for _ in range(config.layers))
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Embedding):
                nn.init.normal_(layer.weight, std=0.02)
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.positional_embedding, std=0.02)
        self.projection = make_projection(config.width, embed_dim, linear=config.projection == "relu_linear")

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        return {"positional_embedding": fit_context}

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Token ids, zeros after the end of a text, to embeddings B,embed_dim."""
        length = tokens_BL.shape[1]
        if length > self.config.places:
            raise ValueError(f"texts of {length} tokens do not fit the {self.config.places} places")
        x_BLD = self.token_embedding(tokens_BL) + self.positional_embedding[:length]
        x_BLD = self.dropout(self.ln_embed(x_BLD))
        x_BD = run_blocks(self.blocks, x_BLD, first_only=True, present_BL=tokens_BL != 0)[:, 0]
        return project(x_BD.relu() if self.config.projection == "relu_linear" else x_BD, self.projection)

    @classmethod
    def names(cls, config: DistilBertConfig) -> dict[str, Names]:
        """Names in LaViLa, EgoVLP and the package transformers: the last's behind different prefixes."""
        linear = config.projection == "relu_linear"
        projection = ("projection.", "text_projection.1.") if linear else ("projection", "text_projection")
        formats = {"lavila": (Same(*projection), *_rows("textual.")), "transformers": _rows("distilbert.")}
        if linear:  # EgoVLP has no other
            formats["egovlp"] = (Same("projection.", "txt_proj.1."), *_rows("text_model."))
        return formats


def _rows(prefix: str) -> Names:
    return (
        Same("blocks.", f"{prefix}transformer.layer."),
        Same("token_embedding.", f"{prefix}embeddings.word_embeddings."),
        Same("positional_embedding", f"{prefix}embeddings.position_embeddings.weight"),
        Same("ln_embed.", f"{prefix}embeddings.LayerNorm."),
        *BLOCK,
    )
