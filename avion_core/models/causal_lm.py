"""A causal language model like GPT-2, with gated cross-attention to a clip in some blocks.

Shapes: B clips, R texts (R/B consecutive ones per clip), L tokens of a text, Q tokens of a clip, D width,
V vocabulary, H heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avion_core.models.architecture import LanguageModelConfig
from avion_core.models.base import Adapter, Tower
from avion_core.models.key_values import KeyValues
from avion_core.models.layers import MLP, Attention, AttentionLayer, TransformerBlock, run_blocks
from avion_core.models.names import Names, Same
from avion_core.models.positions import fit_context

INIT_STD = 0.02
"""Standard deviation of fresh weights, as in GPT-2."""
MLP_RATIO = 4


class CausalLM(Tower):
    """Token ids, and a clip's tokens if given, to the logits of the next token (Radford et al. 2019).

    The output layer is the token table. A fresh model's gates are zero, so it is the plain language model
    whatever the clip.
    """

    def __init__(
        self, config: LanguageModelConfig, *, cross_attention_every: int, dropout: float = 0.0
    ) -> None:
        """Blocks 0, `cross_attention_every` … get gated cross-attention.

        `dropout` is that of the embedding and of each residual branch.
        """
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.positional_embedding = nn.Parameter(torch.empty(config.positions, config.width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            DecoderBlock(config, crosses=index % cross_attention_every == 0, dropout=dropout)
            for index in range(config.layers)
        )
        self.ln_final = nn.LayerNorm(config.width, eps=config.norm_eps)
        self._init()

    def _init(self) -> None:
        """GPT-2's initialisation: narrower, by depth, for layers that feed the residual stream."""
        residual_std = INIT_STD * (2 * len(self.blocks)) ** -0.5
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(
                    layer.weight, std=residual_std if name.endswith(("proj", "fc2")) else INIT_STD
                )
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.token_embedding.weight, std=INIT_STD)
        nn.init.normal_(self.positional_embedding, std=INIT_STD)

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """Further positions stay fresh."""
        return {"positional_embedding": fit_context}

    def forward(
        self, tokens_RL: Tensor, clip_BQD: Tensor | None = None, *, cache: Cache | None = None
    ) -> Tensor:
        """Logits R,L,V of the token after each. Without a clip, cross-attention is left out.

        With a `cache`, the tokens continue those of earlier calls, and all calls but the first take one token
        per text. Raises ValueError for texts longer than the position table.
        """
        first = cache.length if cache else 0
        end = first + tokens_RL.shape[1]
        if end > len(self.positional_embedding):
            raise ValueError(f"texts of {end} tokens do not fit {len(self.positional_embedding)} positions")
        x_RLD = self.token_embedding(tokens_RL) + self.positional_embedding[first:end]
        x_RLD = self.dropout(x_RLD)
        if cache is None:
            x_RLD = run_blocks(self.blocks, x_RLD, clip_BQD=clip_BQD)
        else:
            for block, own, of_clip in zip(self.blocks, cache.own, cache.of_clip, strict=True):
                x_RLD = block(x_RLD, clip_BQD=clip_BQD, cache=own, clip_cache=of_clip)
        logits_RLV: Tensor = F.linear(self.ln_final(x_RLD), self.token_embedding.weight)
        return logits_RLV


class Cache:
    """Keys and values of unfinished texts and of their clips, for each block of a CausalLM."""

    def __init__(self, layers: int, *, tokens: int, clip_tokens: int) -> None:
        """`tokens` is the length of the longest text."""
        self.own = [KeyValues(tokens) for _ in range(layers)]
        self.of_clip = [KeyValues(clip_tokens) for _ in range(layers)]

    @property
    def length(self) -> int:
        """Tokens of each text so far."""
        return self.own[0].length

    def keep(self, clips_b: Tensor, texts_r: Tensor) -> None:
        """Keep only these clips and texts."""
        for own, of_clip in zip(self.own, self.of_clip, strict=True):
            own.keep(texts_r)
            of_clip.keep(clips_b)


class CausalAttention(Attention):
    """Self-attention of each token to itself and the tokens before it."""

    def forward(
        self,
        x_BND: Tensor,
        *,
        causal: bool = True,
        first_only: bool = False,
        cache: KeyValues | None = None,
    ) -> Tensor:
        """With a `cache`, the tokens continue those in it, and their keys and values are added.

        All calls but the first then take one token per text.
        """
        q_BNHd, k_BNHd, v_BNHd = self.queries_keys_values(x_BND, first_only=first_only)
        if cache is not None:
            assert not cache.length or x_BND.shape[1] == 1, "after the first call, one token at a time"
            k_BNHd, v_BNHd = cache.add(k_BNHd, v_BNHd)
            causal = causal and x_BND.shape[1] > 1
        out_BND: Tensor = self.proj(self.attend(q_BNHd, k_BNHd, v_BNHd, causal).flatten(2))
        return out_BND


class DecoderBlock(TransformerBlock):
    """GPT-2's block, with or without gated cross-attention before it."""

    def __init__(self, config: LanguageModelConfig, *, crosses: bool, dropout: float) -> None:
        super().__init__()
        width, eps = config.width, config.norm_eps
        self.cross = GatedCrossAttention(config, dropout=dropout) if crosses else None
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = CausalAttention(width, heads=config.heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, hidden=MLP_RATIO * width, activation="gelu_tanh")
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x_RLD: Tensor,
        *,
        clip_BQD: Tensor | None = None,
        cache: KeyValues | None = None,
        clip_cache: KeyValues | None = None,
    ) -> Tensor:
        """Tokens R,L,D of texts to tokens R,L,D; without a clip, cross-attention is left out."""
        if self.cross is not None and clip_BQD is not None:
            x_RLD = self.cross(x_RLD, clip_BQD, clip_cache)
        x_RLD = x_RLD + self.dropout(self.attn(self.norm1(x_RLD), cache=cache))
        return x_RLD + self.dropout(self.mlp(self.norm2(x_RLD)))


class GatedCrossAttention(nn.Module):
    """Attention to a clip's tokens and an MLP, each behind a gate that starts closed (Flamingo; LaViLa)."""

    def __init__(self, config: LanguageModelConfig, *, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attn = CrossAttention(config.width, heads=config.heads)
        self.attention_gate = nn.Parameter(torch.zeros(()))
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = MLP(config.width, hidden=MLP_RATIO * config.width, activation="squared_relu")
        self.mlp_gate = nn.Parameter(torch.zeros(()))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_RLD: Tensor, clip_BQD: Tensor, cache: KeyValues | None) -> Tensor:
        attended_RLD = self.attn(self.norm1(x_RLD), clip_BQD, cache)
        x_RLD = x_RLD + self.attention_gate.tanh() * self.dropout(attended_RLD)
        return x_RLD + self.mlp_gate.tanh() * self.dropout(self.mlp(self.norm2(x_RLD)))


class CrossAttention(AttentionLayer):
    """Multi-head attention of texts to the tokens of their clip."""

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_RLD: Tensor, clip_BQD: Tensor, cache: KeyValues | None = None) -> Tensor:
        """Each text attends to its clip; after one call, its keys and values come from the `cache`."""
        if cache is not None and cache.length:
            k_BQHd, v_BQHd = cache.all()
        else:
            k_BQHd, v_BQHd = self.kv(clip_BQD).unflatten(-1, (2, self.heads, -1)).unbind(2)
            if cache is not None:
                cache.add(k_BQHd, v_BQHd)
        texts = len(x_RLD) // len(k_BQHd)
        # all texts of a clip are queries of one attention, so that the clip's keys are not repeated
        q_BnHd = self.q(x_RLD).unflatten(-1, (self.heads, -1)).unflatten(0, (-1, texts)).flatten(1, 2)
        out_BnD = self.attend(q_BnHd, k_BQHd, v_BQHd, False).flatten(2)
        out_RLD: Tensor = self.proj(out_BnD.unflatten(1, (texts, -1)).flatten(0, 1))
        return out_RLD


def lavila_names(stem: str) -> Names:
    """Names in LaViLa's files, behind the prefix `stem`: GPT-2's, whose matrices are transposed."""
    matrices = {
        ".cross.attn.q.": ".crossattention.q_attn.",
        ".cross.attn.kv.": ".crossattention.c_attn.",
        ".cross.attn.proj.": ".crossattention.c_proj.",
        ".cross.mlp.fc1.": ".mlp_crossattention.c_fc.",
        ".cross.mlp.fc2.": ".mlp_crossattention.c_proj.",
        ".attn.qkv.": ".attn.c_attn.",
        ".attn.proj.": ".attn.c_proj.",
        ".mlp.fc1.": ".mlp.c_fc.",
        ".mlp.fc2.": ".mlp.c_proj.",
    }
    return (
        Same("token_embedding.", f"{stem}transformer.wte."),
        Same("positional_embedding", f"{stem}transformer.wpe.weight"),
        Same("ln_final.", f"{stem}transformer.ln_f."),
        Same("blocks.", f"{stem}transformer.h."),
        Same(".cross.norm1.", ".ln_cross_attn."),
        Same(".cross.norm2.", ".ln_2_crossattention."),
        Same(".cross.attention_gate", ".alpha_cattn"),
        Same(".cross.mlp_gate", ".alpha_dense"),
        Same(".norm1.", ".ln_1."),
        Same(".norm2.", ".ln_2."),
        *(Same(ours, theirs, transposed=True) for ours, theirs in matrices.items()),
    )
