"""LaViLa's score of given texts, from all logits at once."""

from torch import Tensor

from avion_core.models.next_token import entropy


def text_scores(logits_BLV: Tensor, tokens_BL: Tensor, *, end: int) -> Tensor:
    """exp of the mean entropy of each text's steps, that of the end token included.

    `logits_BLV[:, i]` is the distribution of the token at i + 1, so that its last entry is not used. A text
    without an end is scored to its last place.
    """
    entropies_BS, is_end_BS = entropy(logits_BLV[:, :-1]), tokens_BL[:, 1:] == end
    in_text_BS = (is_end_BS.cumsum(dim=1) - is_end_BS.long()) == 0
    return ((entropies_BS * in_text_BS).sum(dim=1) / in_text_BS.sum(dim=1)).exp()
