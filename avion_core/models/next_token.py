"""How well a language model predicts next tokens: losses of given texts, and the entropy of its predictions.

All are computed in at least 32-bit floats, whatever the precision of the forward pass.

Shapes: B texts, L tokens, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = 0
"""Token id after the end of a text. It is never learned, although it is also that of "!"."""


def token_losses(logits_BLV: Tensor, labels_BL: Tensor) -> Tensor:
    """Cross-entropy of every token of a text, B,L, zero where the label is PADDING."""
    with torch.autocast(logits_BLV.device.type, enabled=False):
        wide_BVL = logits_BLV.to(torch.promote_types(logits_BLV.dtype, torch.float32)).transpose(1, 2)
        return F.cross_entropy(wide_BVL, labels_BL, ignore_index=PADDING, reduction="none")


def mean_losses(losses_BL: Tensor, labels_BL: Tensor) -> Tensor:
    """Mean of each text's `token_losses` over its tokens, B; its exp is the text's perplexity."""
    return losses_BL.sum(dim=1) / (labels_BL != PADDING).sum(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of the distributions in the last dimension."""
    log_probabilities = logits.float().log_softmax(dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1)
