"""The Narrator: a language model attends to the pooled tokens of a frozen vision tower (LaViLa, CVPR 2023).

Shapes: B clips, R texts (R/B consecutive ones per clip), L tokens of a text, Q pooled tokens, D width of the
language model, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import ClassVar

import torch
from torch import Tensor, nn

from avion_core.models.architecture import NarratorConfig
from avion_core.models.attention_pool import LAVILA, AttentionPool
from avion_core.models.base import VideoModel, vision_class
from avion_core.models.causal_lm import Cache, CausalLM, lavila_names
from avion_core.models.names import Part

TEXT_TOKENS = 12
"""Length in tokens, begin and end included, of the texts of a dry run."""
STEM = "text_decoder."
"""Prefix of the language model in LaViLa's files."""
BIASES = "img_attn_pool*.beta"
"""Constants in LaViLa's files."""
CROSSING = re.compile(r"language_model\.blocks\.(\d+)\.cross\.attn\.q\.weight")


class Narrator(VideoModel):
    """Clips and the beginnings of texts to the logits of the next token."""

    kind: ClassVar[str] = "narrator"
    towers: ClassVar[tuple[str, ...]] = ("vision", "language_model")
    not_weights: ClassVar[tuple[str, ...]] = (
        f"{STEM}lm_head.weight",
        BIASES,
        "language_model.blocks.*.masked_bias",
        "language_model.blocks.*.attn.bias",
        "language_model.blocks.*.crossattention.bias",
    )
    config: NarratorConfig

    def __init__(
        self,
        config: NarratorConfig,
        *,
        frames: int,
        image_size_px: int,
        dropout: float = 0.0,
        freeze_language_model: bool = False,
        text_only: bool = False,
    ) -> None:
        """The vision tower gets no gradients and stays in evaluation mode.

        With `freeze_language_model`, only the pooling and the gated cross-attention are trained; with
        `text_only`, only the language model: gates stay closed, and `forward` ignores the clips. `dropout` is
        the language model's.
        """
        super().__init__(config, frames=frames, image_size_px=image_size_px)
        self.vision = vision_class(config.vision)(
            config.vision, frames=frames, image_size_px=image_size_px, activation=config.activation
        )
        self.vision.requires_grad_(False).eval()
        self.text_only = text_only
        language = config.language_model
        self.pool = AttentionPool(
            queries=config.queries,
            width=language.width,
            token_width=config.vision.width,
            heads=config.pool_heads,
            head_width=config.pool_head_width,
        )
        self.language_model = CausalLM(
            language, cross_attention_every=config.cross_attention_every, dropout=dropout
        )
        for name, weight in (*self.pool.named_parameters("pool"), *self.language_model.named_parameters()):
            sees_clip = name.startswith("pool.") or ".cross." in name
            weight.requires_grad_(not (text_only if sees_clip else freeze_language_model))

    def video_tokens(self, frames_BCTHW: Tensor) -> Tensor:
        """Normalised frames to the tokens of the frozen vision tower."""
        self.check_frames(frames_BCTHW)
        return self.vision.tokens(frames_BCTHW)

    def encode_clip(self, frames_BCTHW: Tensor) -> Tensor:
        """Normalised frames to the clip's tokens for `next_token`, B,Q,D."""
        pooled_BQD: Tensor = self.pool(self.video_tokens(frames_BCTHW))
        return pooled_BQD

    def next_token(self, tokens_RL: Tensor, clip_BQD: Tensor, *, cache: Cache | None = None) -> Tensor:
        """Logits R,L,V of the token after each; with a `cache`, of tokens after those of earlier calls."""
        logits_RLV: Tensor = self.language_model(tokens_RL, clip_BQD, cache=cache)
        return logits_RLV

    def forward(self, frames_BCTHW: Tensor, tokens_RL: Tensor) -> Tensor:
        """Normalised frames and token ids to the logits of the token after each, R,L,V."""
        if self.text_only:
            logits_RLV: Tensor = self.language_model(tokens_RL)
            return logits_RLV
        return self.next_token(tokens_RL, self.encode_clip(frames_BCTHW))

    def dry_run(self, frames_BCTHW: Tensor) -> Tensor:
        """Logits of texts of TEXT_TOKENS tokens, or of as many as fit; the last one is only predicted."""
        length = min(TEXT_TOKENS, self.config.context_length)
        return self(frames_BCTHW, torch.zeros(len(frames_BCTHW), length - 1, dtype=torch.long))

    @classmethod
    def names(cls, config: NarratorConfig) -> tuple[Part, ...]:
        return (
            Part("vision.", vision_class(config.vision).names(config.vision)),
            Part("pool.", {"lavila": LAVILA}),
            Part("language_model.", {"lavila": lavila_names(STEM)}),
        )

    def check_foreign(self, weights: Mapping[str, Tensor]) -> None:
        """Raise ValueError for cross-attention in other blocks, for an output layer of its own, and for
        pooling whose norms have biases."""
        theirs = {int(found[1]) for name in weights if (found := CROSSING.fullmatch(name))}
        ours = {i for i, block in enumerate(self.language_model.blocks) if block.cross is not None}
        if theirs and theirs != ours:
            listed = [", ".join(map(str, sorted(blocks))) for blocks in (theirs, ours)]
            raise ValueError(
                f"its blocks {listed[0]} have cross-attention, this model's {listed[1]}; set "
                "cross_attention_every in an architecture file"
            )
        head, table = (
            weights.get(name) for name in (f"{STEM}lm_head.weight", "language_model.token_embedding.weight")
        )
        tied = head is None or table is None or head.is_meta or _are_equal(head, table)
        if not tied:
            raise ValueError("its output layer is not its token table, as it is in this model")
        for name, tensor in weights.items():
            if fnmatchcase(name, BIASES) and not tensor.is_meta and bool(tensor.any()):
                raise ValueError(f"its attention pooling has biases ({name}), which are zero in LaViLa's")

    def after_start(self, fresh: Collection[str]) -> None:
        """With `text_only`, close the gates of a narrator that has learnt to look.

        Raises ValueError for a frozen language model that is fresh.
        """
        for name, weight in self.language_model.named_parameters("language_model"):
            if name in fresh and not weight.requires_grad and ".cross." not in name:
                raise ValueError(
                    f"freeze_language_model: {name} is not among the start weights and would stay random; "
                    "start from a narrator, or set it to false"
                )
        for name, weight in self.language_model.named_parameters() if self.text_only else ():
            if name.endswith("_gate"):
                nn.init.zeros_(weight)

    def foreign_copies(self) -> dict[str, Tensor]:
        """The output layer and the zeros that LaViLa's files have besides the weights."""
        norms = {
            "img_attn_pool.norm": self.pool.query_norm,
            "img_attn_pool.context_norm": self.pool.token_norm,
            "img_attn_pool_norm": self.pool.out_norm,
        }
        zeros = {f"{name}.beta": torch.zeros_like(norm.weight) for name, norm in norms.items()}
        return {f"{STEM}lm_head.weight": self.language_model.token_embedding.weight, **zeros}


def _are_equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other.to(one.dtype))
