"""Attention pooling: learned queries turn a clip's tokens into a fixed number of them (CoCa; LaViLa).

Shapes: B clips, N tokens of the vision tower, Q queries, D width of the language model, h heads, w width of a
head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avion_core.models.layers import AttentionLayer
from avion_core.models.names import Names, Same

NORM_EPS = 1e-5


class AttentionPool(AttentionLayer):
    """Queries with several heads share one head of keys and values; no residual, no MLP, no biases."""

    def __init__(self, *, queries: int, width: int, token_width: int, heads: int, head_width: int) -> None:
        """`width` is that of the queries and the output, `token_width` that of the clip's tokens."""
        super().__init__()
        self.heads = heads
        self.queries = nn.Parameter(torch.randn(queries, width) * width**-0.5)
        self.query_norm = nn.LayerNorm(width, eps=NORM_EPS, bias=False)
        self.token_norm = nn.LayerNorm(token_width, eps=NORM_EPS, bias=False)
        self.to_q = nn.Linear(width, heads * head_width, bias=False)
        self.to_kv = nn.Linear(token_width, 2 * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, width, bias=False)
        self.out_norm = nn.LayerNorm(width, eps=NORM_EPS, bias=False)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """The clip's tokens to B,Q,D."""
        q_Qhw = self.to_q(self.query_norm(self.queries)).unflatten(-1, (self.heads, -1))
        k_BN1w, v_BN1w = self.to_kv(self.token_norm(tokens_BND)).unflatten(-1, (2, 1, -1)).unbind(2)
        q_BQhw = q_Qhw.expand(len(tokens_BND), -1, -1, -1)
        k_BNhw, v_BNhw = (x.expand(-1, -1, self.heads, -1) for x in (k_BN1w, v_BN1w))
        out_BQD = self.to_out(self.attend(q_BQhw, k_BNhw, v_BNhw, False).flatten(2))
        pooled_BQD: Tensor = self.out_norm(out_BQD)
        return pooled_BQD


LAVILA: Names = (
    Same("queries", "img_queries"),
    Same("query_norm.weight", "img_attn_pool.norm.gamma"),
    Same("token_norm.weight", "img_attn_pool.context_norm.gamma"),
    Same("to_", "img_attn_pool.to_"),
    Same("out_norm.weight", "img_attn_pool_norm.gamma"),
)
