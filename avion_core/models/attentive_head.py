"""A classifier that attends to all tokens of a clip, after V-JEPA's attentive probe (arXiv 2404.08471).

Shapes: B clips, N tokens of the tower, D their width, h heads, d width of a head, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avion_core.models.layers import MLP, AttentionLayer, ClassLayer

MLP_RATIO = 4
NORM_EPS = 1e-6


class AttentiveHead(AttentionLayer):
    """One learned query attends to the tokens; a residual MLP, dropout and a linear layer follow."""

    def __init__(self, width: int, *, heads: int, classes: int, dropout: float, std: float) -> None:
        """`std` is the standard deviation of the fresh linear layer."""
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.empty(1, width))
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(width, 2 * width)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, hidden=MLP_RATIO * width, activation="gelu")
        self.dropout = nn.Dropout(dropout)
        self.linear = ClassLayer(width, classes)
        nn.init.trunc_normal_(self.query, std=0.02)
        for layer in (self.to_q, self.to_kv, self.mlp.fc1, self.mlp.fc2, self.linear):
            nn.init.trunc_normal_(layer.weight, std=std if layer is self.linear else 0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """The tower's tokens to logits_BK."""
        query_B1D = self.query.expand(len(tokens_BND), 1, -1)
        k_BNhd, v_BNhd = self.to_kv(self.norm1(tokens_BND)).unflatten(-1, (2, self.heads, -1)).unbind(2)
        q_B1hd = self.to_q(query_B1D).unflatten(-1, (self.heads, -1))
        x_B1D = query_B1D + self.attend(q_B1hd, k_BNhd, v_BNhd, False).flatten(2)
        x_B1D = x_B1D + self.mlp(self.norm2(x_B1D))
        logits_BK: Tensor = self.linear(self.dropout(x_B1D[:, 0]))
        return logits_BK
