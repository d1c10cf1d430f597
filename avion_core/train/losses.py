"""Losses as pure functions of embeddings, logits and targets.

A stage selects a contrastive or a ranking loss by name; `config/losses.py` has its settings and its function.
A contrastive loss is called with (video_BD, text_BD, scale=, bias=, gather=) and the entries of the batch
that its settings name, a ranking loss with (video_BD, text_BD, relevancy_GG, gather=), and both with their
own settings by name.

Shapes: B clips of this process, G clips of all processes, K classes, V verb and N noun tags, D embedding
size. Contrastive and ranking losses take embeddings of unit length, row i of `video` belonging to row i of
`text`. With `gather` (see `distributed.World.gather`) the means over the processes of their values and
gradients are those of one process that holds all G clips.

All losses are computed in at least 32-bit floats, whatever the precision of the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Gather = Callable[[Tensor], Tensor]

LOGITS_AT_ONCE = 2**22
"""Most logits of a contrastive loss in memory at a time, 16 MiB of 32-bit floats."""

RELEVANCY_RESOLUTION = 1.1 / 240
"""Relevancies that differ by less count as equal: EPIC-KITCHENS' values are multiples of 1/240."""


def local(x_BD: Tensor) -> Tensor:
    """Identity gather: negatives come from this process alone."""
    return x_BD


def info_nce(
    video_BD: Tensor,
    text_BD: Tensor,
    *,
    scale: Tensor | float,
    bias: Tensor | float | None = None,
    gather: Gather = local,
    narrated: Tensor | None = None,
    narrated_scale: Tensor | float | None = None,
) -> Tensor:
    """Symmetric InfoNCE (CLIP, arXiv 2103.00020, figure 3): `scale` is the inverse temperature.

    A bias on all logits does not change the softmax and is ignored. A process compares its own clips with all
    texts, and its own texts with all clips.

    With `narrated`, bool B, the pairs of narrated clips have the scale `narrated_scale`, and a narrated clip
    and another one the geometric mean of both scales, as in LaViLa's code.
    """
    with _plain_precision(video_BD):
        if narrated is not None:
            theirs, ours = (torch.as_tensor(x).to(_wide(video_BD)) for x in (narrated_scale, scale))
            root_B1 = torch.where(narrated, theirs, ours).sqrt()[:, None]
            video_BD, text_BD, scale = root_B1 * _wide(video_BD), root_B1 * _wide(text_BD), 1.0
        video_BD, text_BD, video_GD, text_GD = _own_and_all(video_BD, text_BD, gather)
        scale = torch.as_tensor(scale).to(video_BD)
        among_texts = _sum_over_rows(_log_sum_exp, [video_BD], text_GD, scale)
        among_clips = _sum_over_rows(_log_sum_exp, [text_BD], video_GD, scale)
        return (among_texts + among_clips) / (2 * len(video_BD)) - scale * _own_similarity(video_BD, text_BD)


def ego_nce(
    video_BD: Tensor,
    text_BD: Tensor,
    *,
    scale: Tensor | float,
    bias: Tensor | float | None = None,
    gather: Gather = local,
    verb_tags: Tensor | None = None,
    noun_tags: Tensor | None = None,
) -> Tensor:
    """EgoNCE (EgoVLP, arXiv 2206.01670, equation 4): InfoNCE whose clips have several texts, and vice versa.

    A clip's texts are its own and those of clips that share one of the `verb_tags`, bool BV, and one of the
    `noun_tags`, bool BN; of the two, one that is not given is not required, and without both only the own
    text is left. The probability is summed over them inside the logarithm. The two directions are added, not
    averaged, as in EgoVLP's code: without tags it is twice the InfoNCE. A bias is ignored. A process compares
    as in `info_nce`.
    """
    given = [tags_BC for tags_BC in (verb_tags, noun_tags) if tags_BC is not None]
    if not given:
        return 2 * info_nce(video_BD, text_BD, scale=scale, gather=gather)
    with _plain_precision(video_BD):
        video_BD, text_BD, video_GD, text_GD = _own_and_all(video_BD, text_BD, gather)
        scale = torch.as_tensor(scale).to(video_BD)
        # a clip with a tag of each kind shares them with itself, any other shares none with anyone
        tagged_B = torch.stack([tags_BC.any(dim=1) for tags_BC in given]).all(dim=0)
        tags = [(_wide(tags_BC), _wide(gather(tags_BC))) for tags_BC in given]
        rows = [tagged_B, torch.arange(len(tagged_B), device=tagged_B.device)]
        loss = partial(_log_sum_exp_less_sharers, tags=tags)
        among_clips = _sum_over_rows(loss, [text_BD, *rows], video_GD, scale)
        among_texts = _sum_over_rows(loss, [video_BD, *rows], text_GD, scale)
        untagged = (~tagged_B * (video_BD * text_BD).sum(dim=1)).sum()
        return (among_clips + among_texts - 2 * scale * untagged) / len(video_BD)


def sigmoid(
    video_BD: Tensor, text_BD: Tensor, *, scale: Tensor | float, bias: Tensor | float, gather: Gather = local
) -> Tensor:
    """Sigmoid loss (SigLIP, arXiv 2303.15343, equation 1): a binary decision for each pair.

    A process compares its own clips with all texts. A matching pair costs softplus(−logit), which is
    softplus(logit) − logit, any other softplus(logit).
    """
    with _plain_precision(video_BD):
        video_BD, text_BD, text_GD = _wide(video_BD), _wide(text_BD), _wide(gather(text_BD))
        scale, bias = torch.as_tensor(scale).to(video_BD), torch.as_tensor(bias).to(video_BD)
        every_pair = _sum_over_rows(_softplus, [video_BD], text_GD, scale, bias)
        return every_pair / len(video_BD) - (scale * _own_similarity(video_BD, text_BD) + bias)


def max_margin(
    video_BD: Tensor,
    text_BD: Tensor,
    relevancy_GG: Tensor | None = None,
    *,
    margin: float,
    gather: Gather = local,
) -> Tensor:
    """Max-margin ranking in both directions, without the diagonal (MI-MM of EPIC-KITCHENS-100).

    The margin does not depend on the relevancy.
    """
    gap_2GG = _gaps(cosine_similarity(gather(video_BD), gather(text_BD)))
    return _mean_off_diagonal(F.relu(margin - gap_2GG))


def adaptive_max_margin(
    video_BD: Tensor, text_BD: Tensor, relevancy_GG: Tensor, *, margin: float, gather: Gather = local
) -> Tensor:
    """Max margin with the margin scaled by the relevancy of each clip to its own sentence.

    `relevancy_GG` as in `symmetric_multi_similarity`; only its diagonal is used.
    """
    gap_2GG = _gaps(cosine_similarity(gather(video_BD), gather(text_BD)))
    margin_G1 = margin * relevancy_GG.diagonal().to(gap_2GG)[:, None]
    return _mean_off_diagonal(F.relu(margin_G1 - gap_2GG))


def symmetric_multi_similarity(
    video_BD: Tensor,
    text_BD: Tensor,
    relevancy_GG: Tensor,
    *,
    margin: float,
    relaxation: float,
    gather: Gather = local,
) -> Tensor:
    """Symmetric multi-similarity loss (arXiv 2406.12256).

    `relevancy_GG[i, j]` is the relevancy of clip i to sentence j, over the gathered batch. The target gap
    between a clip's own sentence and another is `margin` times the difference of their relevancies: a lower
    bound if the own one is more relevant, an upper bound if the other is, and if both are equal, a value to
    meet within `relaxation` (the paper's tau).
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
    """Cross-entropy against a distribution over the classes, as from mixup."""
    with _plain_precision(logits_BK):
        return F.cross_entropy(_wide(logits_BK), _wide(targets_BK))


def masked_pixels(prediction_BMP: Tensor, target_BMP: Tensor) -> Tensor:
    """Mean squared error over the M masked patches of P pixels (VideoMAE, arXiv 2203.12602)."""
    with _plain_precision(prediction_BMP):
        return F.mse_loss(prediction_BMP.float(), target_BMP.float())


def cosine_similarity(video_GD: Tensor, text_GD: Tensor) -> Tensor:
    """Similarity of every clip with every text, in 32-bit floats at least, also under autocast."""
    with _plain_precision(video_GD):
        return _wide(video_GD) @ _wide(text_GD).T


def _plain_precision(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _own_and_all(video_BD: Tensor, text_BD: Tensor, gather: Gather) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Own clips and texts, all clips and texts, in 32-bit floats at least."""
    video_GD, text_GD = gather(video_BD), gather(text_BD)
    return _wide(video_BD), _wide(text_BD), _wide(video_GD), _wide(text_GD)


def _own_similarity(video_BD: Tensor, text_BD: Tensor) -> Tensor:
    """Mean similarity of a clip with its own text."""
    return (video_BD * text_BD).sum(dim=1).mean()


def _log_sum_exp(rows_bD: Tensor, others_GD: Tensor, scale: Tensor) -> Tensor:
    return (scale * rows_bD @ others_GD.T).logsumexp(dim=1).sum()


def _softplus(rows_bD: Tensor, others_GD: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.softplus(scale * rows_bD @ others_GD.T + bias).sum()


def _log_sum_exp_less_sharers(
    rows_bD: Tensor,
    tagged_b: Tensor,
    places_b: Tensor,
    others_GD: Tensor,
    scale: Tensor,
    *,
    tags: Sequence[tuple[Tensor, Tensor]],
) -> Tensor:
    """Log-sum-exp of a row's logits less, for a tagged row, that over those who share each kind of tag.

    `tags` has for each kind BC and GC, of which `places_b` are the rows' own.
    """
    logits_bG = scale * rows_bD @ others_GD.T
    shared_bG = torch.stack([own_BC[places_b] @ tags_GC.T > 0 for own_BC, tags_GC in tags]).all(dim=0)
    sharers_b = logits_bG.masked_fill(~shared_bG, -torch.inf).logsumexp(dim=1)
    return (logits_bG.logsumexp(dim=1) - torch.where(tagged_b, sharers_b, 0)).sum()


def _sum_over_rows(
    loss: Callable[..., Tensor], rows: Sequence[Tensor], others_GD: Tensor, *factors: Tensor
) -> Tensor:
    """`loss(*rows, others_GD, *factors)`, a sum over rows, with at most LOGITS_AT_ONCE logits in memory.

    Of `rows`, tensors of equal length, the first may need a gradient.
    """
    total: Tensor = _RowBlocks.apply(loss, len(rows), *rows, others_GD, *factors)
    return total


class _RowBlocks(torch.autograd.Function):
    """A sum over rows and its gradient, block by block.

    Rows are independent, so a block's gradient is computed right after its value, and nothing of size B×G is
    kept for the backward pass.
    """

    @staticmethod
    def forward(context: Any, loss: Callable[..., Tensor], split: int, *tensors: Tensor) -> Tensor:
        (rows_BD, *facts), shared = tensors[:split], tensors[split:]
        needed, shared_needed = context.needs_input_grad[2], context.needs_input_grad[2 + split :]
        leaves = [x.detach().requires_grad_(need) for x, need in zip(shared, shared_needed, strict=True)]
        size = max(1, LOGITS_AT_ONCE // len(shared[0]))
        blocks = rows_BD.detach().split(size)
        total = rows_BD.new_zeros(())
        for rows_bD, *facts_b in zip(blocks, *(x.split(size) for x in facts), strict=True):
            with torch.enable_grad():
                value = loss(rows_bD.requires_grad_(needed), *facts_b, *leaves)
            total += value.detach()
            if value.requires_grad:
                value.backward()
        rows_gradient = torch.cat([rows_bD.grad for rows_bD in blocks]) if needed else None
        context.save_for_backward(rows_gradient, *(leaf.grad for leaf in leaves))
        context.unsplit = len(facts)
        return total

    @staticmethod
    @once_differentiable
    def backward(context: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        rows, *shared = (None if x is None else factor * x for x in context.saved_tensors)
        return (None, None, rows, *[None] * context.unsplit, *shared)


def _gaps(score_GG: Tensor) -> Tensor:
    """Own pair minus other pair, for clips against texts and for texts against clips: (2, G, G)."""
    own_G1 = score_GG.diagonal()[:, None]
    return torch.stack([own_G1 - score_GG, own_G1 - score_GG.T])


def _mean_off_diagonal(loss_2GG: Tensor) -> Tensor:
    if loss_2GG.shape[-1] < 2:
        raise ValueError("a ranking loss needs a batch of at least two clips; set batch_size higher")
    clips = loss_2GG.shape[-1]
    # from the first element on, every (clips + 1)th is on the diagonal; a mask would wait for the device
    others = loss_2GG.flatten(1)[:, 1:].unflatten(1, (clips - 1, clips + 1))[..., :-1]
    return others.flatten(1).mean()
