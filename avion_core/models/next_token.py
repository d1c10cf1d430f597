"""How well a language model predicts the next tokens of given texts: losses, perplexities, scores.

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


def text_perplexities(losses_BL: Tensor, labels_BL: Tensor) -> Tensor:
    """Perplexity of each text, B, from its `token_losses`: exp of their mean over its tokens."""
    return (losses_BL.sum(dim=1) / (labels_BL != PADDING).sum(dim=1)).exp()


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of the distributions in the last dimension."""
    log_probabilities = logits.float().log_softmax(dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1)


def text_scores(logits_BLV: Tensor, tokens_BL: Tensor, *, end: int) -> Tensor:
    """LaViLa's score of each text: exp of the mean entropy of its steps, that of the end token included.

    `logits_BLV[:, i]` is the distribution of the token at i + 1, so that its last entry is not used. A text
    without an end is scored to its last place. A uniform distribution over V tokens scores V.
    """
    entropies_BS, is_end_BS = entropy(logits_BLV[:, :-1]), tokens_BL[:, 1:] == end
    in_text_BS = (is_end_BS.cumsum(dim=1) - is_end_BS.long()) == 0
    return ((entropies_BS * in_text_BS).sum(dim=1) / in_text_BS.sum(dim=1)).exp()
