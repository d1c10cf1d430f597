"""What classifiers share: a head for the label, and one for each of further labels.

Shapes: B clips, K outputs of all heads together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from avion_core.models.attentive_head import AttentiveHead
from avion_core.models.base import VideoModel

Head = nn.Linear | AttentiveHead


class Classifier(VideoModel):
    """Clips to logits, with a head for the label and, as in LaViLa, heads for further labels."""

    dropout: nn.Dropout
    head: Head
    further_heads: nn.ModuleDict
    """By label; empty for a classifier of one label."""

    def make_heads(
        self, make: Callable[[int], Head], *, classes: int, further_classes: Mapping[str, int] | None
    ) -> list[Head]:
        """Set the heads, each made for a number of classes, and return them, the label's first."""
        self.head = make(classes)
        further = {label: make(count) for label, count in (further_classes or {}).items()}
        self.further_heads = nn.ModuleDict(further)
        return [self.head, *further.values()]

    def classify(self, x: Tensor) -> Tensor:
        """What the heads read (embeddings, or tokens for attentive ones) to logits_BK.

        The heads' logits are side by side, the label's first. Each head draws its own dropout (LaViLa).
        """
        heads = (self.head, *self.further_heads.values())
        attentive = isinstance(self.head, AttentiveHead)
        logits = [head(x if attentive else self.dropout(x)) for head in heads]
        return logits[0] if len(logits) == 1 else torch.cat(logits, dim=1)

    @classmethod
    def optional_arguments(cls, weights: Iterable[str]) -> dict[str, Any]:
        return {"head": "attentive"} if "head.query" in weights else {}

    def foreign_copies(self) -> dict[str, Tensor]:
        """Nothing. Raises ValueError for an attentive head, for which third-party files have no names."""
        if isinstance(self.head, AttentiveHead):
            raise ValueError("no format has names for an attentive head; the model's own folder keeps it")
        return {}
