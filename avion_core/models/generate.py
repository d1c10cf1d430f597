"""Texts that a narrator writes for clips: sampled with a cache, stopped at their end, with a score.

The scheme is LaViLa's: temperature, then nucleus, and a score by entropy. A text ends with its end token, and
a clip leaves the batch with the last of its texts.

A clip's draws depend only on its own seed, not on the clips beside it, which change logits by rounding alone.

Shapes: B clips, N texts of a clip, R = B·N texts, L tokens of a text, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avion_core.models.causal_lm import Cache
from avion_core.models.narrator import Narrator
from avion_core.models.next_token import entropy

GOLDEN = -0x61C8864680B583EB
"""2**64 over the golden ratio, as a signed number."""
MASK_53 = (1 << 53) - 1
SORTED_AT_FIRST = 1024
"""Tokens among which a nucleus is looked for before the whole vocabulary is sorted."""


@dataclass(frozen=True, kw_only=True)
class TextSampling:
    """How texts are drawn; the defaults are LaViLa's."""

    texts: int = 10
    """Texts of a clip."""
    temperature: float = 0.7
    """Divisor of the logits; 0 takes the likeliest token."""
    nucleus: float = 0.95
    """Tokens are drawn from the fewest likeliest ones that have more than this probability together."""
    max_tokens: int = 77
    """Longest text, begin and end included."""


@dataclass(frozen=True)
class Generated:
    """Texts of clips."""

    tokens: Tensor
    """B,N,L: token ids int64 with begin and end, zeros after the end; a text that is too long has no end."""
    scores: Tensor
    """B,N: exp of the mean entropy of each text's steps, the end token's included; lower is surer."""

    def words(self, *, begin: int, end: int) -> list[list[list[int]]]:
        """Token ids of each clip's texts, without begin, end and what follows."""
        return [[_inner(text, begin, end) for text in clip] for clip in self.tokens.tolist()]


def _inner(text: list[int], begin: int, end: int) -> list[int]:
    assert text[0] == begin
    return text[1 : text.index(end, 1)] if end in text[1:] else text[1:]


def clip_seed(seed: int, video_id: str, start_s: float, end_s: float) -> int:
    """Seed of a clip's texts."""
    digest = hashlib.sha256(repr((seed, video_id, float(start_s), float(end_s))).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=False) >> 1


@torch.no_grad()
def generate(
    model: Narrator, frames_BCTHW: Tensor, sampling: TextSampling, *, seeds: Sequence[int]
) -> Generated:
    """Texts for clips of normalised frames; as `write_texts`."""
    return write_texts(model, model.encode_clip(frames_BCTHW), sampling, seeds=seeds)


@torch.no_grad()
def write_texts(
    model: Narrator, clip_BQD: Tensor, sampling: TextSampling, *, seeds: Sequence[int]
) -> Generated:
    """Texts for the tokens of clips; `seeds` has one for each clip.

    The model must be in evaluation mode. Raises ValueError for a longest text that it has no positions for.
    """
    language = model.config.language_model
    if not 2 <= sampling.max_tokens <= language.positions:
        raise ValueError(f"max_tokens is {sampling.max_tokens}; this model takes 2 to {language.positions}")
    assert len(seeds) == len(clip_BQD) and not model.training
    batch = _Batch(model, clip_BQD, sampling, seeds)
    for place in range(1, sampling.max_tokens):
        if not batch.advance(place):
            break
    return Generated(batch.tokens_BNL, (batch.entropy_BN / batch.steps_BN).exp())


class _Batch:
    """Clips whose texts are being written. b: the clips with unfinished texts, r: the texts of these."""

    def __init__(
        self, model: Narrator, clip_BQD: Tensor, sampling: TextSampling, seeds: Sequence[int]
    ) -> None:
        self.model, self.sampling = model, sampling
        language, device = model.config.language_model, clip_BQD.device
        shape = (len(seeds), sampling.texts)
        self.tokens_BNL = torch.zeros(*shape, sampling.max_tokens, dtype=torch.long, device=device)
        self.tokens_BNL[..., 0] = language.begin_token
        self.entropy_BN, self.steps_BN = (torch.zeros(shape, device=device) for _ in range(2))
        self.ended_BN = torch.zeros(shape, dtype=torch.bool, device=device)
        self.seeds_b = torch.tensor(seeds, dtype=torch.long, device=device)
        self.clip_BQD = clip_BQD
        self.places_b = torch.arange(len(seeds), device=device)
        self.cache = Cache(language.layers, tokens=sampling.max_tokens, clip_tokens=model.config.queries)

    def advance(self, place: int) -> bool:
        """Write the tokens at `place`; returns whether any text is unfinished."""
        before_r1 = self.tokens_BNL[self.places_b, :, place - 1].reshape(-1, 1)
        logits_rV = self.model.next_token(before_r1, self.clip_BQD, cache=self.cache)[:, 0].float()
        keys_r = draw_keys(self.seeds_b, texts=self.sampling.texts, place=place)
        drawn_r = draw(logits_rV, keys_r, self.sampling)
        drawn_bN, entropy_bN = (
            x_r.unflatten(0, (-1, self.sampling.texts)) for x_r in (drawn_r, entropy(logits_rV))
        )
        ended_bN = self.ended_BN[self.places_b]
        self.tokens_BNL[self.places_b, :, place] = drawn_bN.where(~ended_bN, 0)
        self.entropy_BN[self.places_b] += entropy_bN.where(~ended_bN, 0)
        self.steps_BN[self.places_b] += (~ended_bN).float()
        ended_bN = ended_bN | (drawn_bN == self.model.config.language_model.end_token)
        self.ended_BN[self.places_b] = ended_bN
        self._keep((~ended_bN.all(dim=1)).nonzero()[:, 0])
        return len(self.places_b) > 0

    def _keep(self, clips_b: Tensor) -> None:
        """Continue with these of the unfinished clips."""
        if len(clips_b) == len(self.places_b):
            return
        texts_r = (clips_b[:, None] * self.sampling.texts).add(
            torch.arange(self.sampling.texts, device=clips_b.device)
        )
        self.cache.keep(clips_b, texts_r.flatten())
        self.places_b, self.seeds_b = self.places_b[clips_b], self.seeds_b[clips_b]


def draw(logits_RV: Tensor, keys_R: Tensor, sampling: TextSampling) -> Tensor:
    """Token ids R, drawn by the noise that belongs to each key and token.

    The token with the highest sum of log probability and Gumbel noise is a draw from the distribution
    (Gumbel, 1954). Rounding of the probabilities hardly ever changes it.
    """
    if sampling.temperature == 0:
        return logits_RV.argmax(dim=-1)
    kept_RK, ids_RK = nucleus(logits_RV / sampling.temperature, sampling.nucleus)
    uniform_RK = ((_mixed(keys_R[:, None] + GOLDEN * (1 + ids_RK)) >> 11) & MASK_53).double()
    gumbel_RK = -(-((uniform_RK + 0.5) / 2**53).log()).log()
    choice_R1 = (kept_RK.double().log() + gumbel_RK).argmax(dim=-1, keepdim=True)
    return ids_RK.gather(1, choice_R1)[:, 0]


def draw_keys(seeds_b: Tensor, *, texts: int, place: int) -> Tensor:
    """Keys R of the draws of all texts of clips with these seeds, at a place; int64, on any device alike."""
    texts_N = torch.arange(1, texts + 1, device=seeds_b.device)
    return _mixed(_mixed(seeds_b[:, None] + GOLDEN * texts_N) + place).flatten()


def _mixed(x: Tensor) -> Tensor:
    """SplitMix64's finaliser (Steele et al., 2014): int64 numbers to int64 numbers that look random."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def nucleus(logits_RV: Tensor, size: float) -> tuple[Tensor, Tensor]:
    """Probabilities R,K of the fewest likeliest tokens with more than `size` together, and their ids.

    They are in descending order, followed by zeros; K is the same for all texts. (Holtzman et al., 2020.)
    """
    log_total_R1 = logits_RV.logsumexp(dim=-1, keepdim=True)
    for count in (min(SORTED_AT_FIRST, logits_RV.shape[-1]), logits_RV.shape[-1]):
        sorted_RK, ids_RK = logits_RV.topk(count, dim=-1)
        probabilities_RK = (sorted_RK - log_total_R1).exp()
        ends_RK = probabilities_RK.cumsum(dim=-1)
        if bool((ends_RK[:, -1] > size).all()):
            break
    before_RK = ends_RK - probabilities_RK
    before_RK[:, 0] = 0  # the likeliest one stays, whatever the size
    return probabilities_RK.where(before_RK <= size, 0), ids_RK
