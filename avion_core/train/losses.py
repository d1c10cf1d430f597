"""The objectives, as pure functions of embeddings, logits and targets.

Shapes: B clips of this process, G clips of all processes, K classes, D embedding size. The ranking
losses and InfoNCE take embeddings of unit length, row i of `video` belonging to row i of `text`. With
`gather` (see `distributed.World.gather`) every process computes the loss of the whole batch, so the
value and the averaged gradient are those of one process that holds all G clips.

All losses are computed in 32-bit floats, whatever the precision of the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Gather = Callable[[Tensor], Tensor]

RELEVANCY_RESOLUTION = 1.1 / 240
"""Relevancies that differ by less count as equal: EPIC-KITCHENS' values are multiples of 1/240."""


def local(x_BD: Tensor) -> Tensor:
    """The gather that does not: negatives come from this process alone."""
    return x_BD


def info_nce(video_BD: Tensor, text_BD: Tensor, *, scale: Tensor | float, gather: Gather = local) -> Tensor:
    """Symmetric InfoNCE (CLIP, arXiv 2103.00020, figure 3): `scale` is the inverse temperature."""
    logits_GG = scale * cosine_similarity(gather(video_BD), gather(text_BD))
    targets_G = torch.arange(len(logits_GG), device=logits_GG.device)
    return (F.cross_entropy(logits_GG, targets_G) + F.cross_entropy(logits_GG.T, targets_G)) / 2


def max_margin(video_BD: Tensor, text_BD: Tensor, *, margin: float, gather: Gather = local) -> Tensor:
    """Max-margin ranking in both directions, the diagonal left out (MI-MM of EPIC-KITCHENS-100)."""
    gap_2GG = _gaps(cosine_similarity(gather(video_BD), gather(text_BD)))
    return _mean_off_diagonal(F.relu(margin - gap_2GG))


def adaptive_max_margin(
    video_BD: Tensor, text_BD: Tensor, relevancy_B: Tensor, *, margin: float, gather: Gather = local
) -> Tensor:
    """Max margin whose margin is multiplied by the relevancy of each clip to its own sentence."""
    gap_2GG = _gaps(cosine_similarity(gather(video_BD), gather(text_BD)))
    margin_G1 = margin * gather(relevancy_B).float()[:, None]
    return _mean_off_diagonal(F.relu(margin_G1 - gap_2GG))


def symmetric_multi_similarity(
    video_BD: Tensor,
    text_BD: Tensor,
    relevancy_GG: Tensor,
    *,
    margin: float = 0.6,
    relaxation: float = 0.1,
    gather: Gather = local,
) -> Tensor:
    """Symmetric multi-similarity loss (arXiv 2406.12256).

    `relevancy_GG[i, j]` is the relevancy of clip i to sentence j, over the gathered batch. The wanted
    gap between a clip's own sentence and another is `margin` times the difference of their
    relevancies: a lower bound where the own one is more relevant, an upper bound where the other is,
    and, where both are the same, a value to be met within `relaxation` (the paper's tau).
    """
    similarity_GG = cosine_similarity(gather(video_BD), gather(text_BD))
    difference_2GG = _gaps(relevancy_GG.to(similarity_GG))
    shortfall_2GG = margin * difference_2GG - _gaps(similarity_GG)
    loss_2GG = torch.where(
        difference_2GG > RELEVANCY_RESOLUTION,
        F.relu(shortfall_2GG),
        torch.where(
            difference_2GG < -RELEVANCY_RESOLUTION,
            F.relu(-shortfall_2GG),
            F.relu(shortfall_2GG.abs() - relaxation),
        ),
    )
    return _mean_off_diagonal(loss_2GG)


def soft_target_cross_entropy(logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """Cross-entropy against a distribution over the classes, such as mixup makes."""
    with _plain_precision(logits_BK):
        return F.cross_entropy(logits_BK.float(), targets_BK.float())


def masked_pixels(prediction_BMP: Tensor, target_BMP: Tensor) -> Tensor:
    """Mean squared error over the M hidden patches of P pixels (VideoMAE, arXiv 2203.12602)."""
    with _plain_precision(prediction_BMP):
        return F.mse_loss(prediction_BMP.float(), target_BMP.float())


def cosine_similarity(video_GD: Tensor, text_GD: Tensor) -> Tensor:
    """Similarity of every clip with every text, in 32-bit floats also under autocast."""
    with _plain_precision(video_GD):
        return video_GD.float() @ text_GD.float().T


def _plain_precision(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)


def _gaps(score_GG: Tensor) -> Tensor:
    """Own pair minus other pair, for clips against texts and for texts against clips: (2, G, G)."""
    own_G1 = score_GG.diagonal()[:, None]
    return torch.stack([own_G1 - score_GG, own_G1 - score_GG.T])


def _mean_off_diagonal(loss_2GG: Tensor) -> Tensor:
    if loss_2GG.shape[-1] < 2:
        raise ValueError("a ranking loss needs a batch of at least two clips; set batch_size higher")
    others_GG = ~torch.eye(loss_2GG.shape[-1], dtype=torch.bool, device=loss_2GG.device)
    return loss_2GG[:, others_GG].mean()
