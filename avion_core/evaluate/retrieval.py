"""mAP and nDCG of multi-instance retrieval, as EPIC-KITCHENS-100 defines and publishes them.

Damen et al. 2022, section 4.6. Two properties of the published figures differ from textbooks:
- mAP counts only items of relevancy 1 as relevant, but the precision's numerator accumulates the
  fractional relevancies of everything above them;
- nDCG is graded, and cut at K = the number of items with relevancy above 0, for each query.

Both need only the relevancies in order of falling similarity. One sort of 64-bit numbers gives it, with the
similarity in the high half and the relevancy in the low half, a block of queries at a time. Among items of
equal similarity the least relevant comes first, so a tie never helps.

Shapes: Q queries, K candidates; N clips, M sentences; B a block of queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.floating]
Scores = npt.NDArray[np.float64]

PAIRS_AT_ONCE = 1 << 19
"""Query-candidate pairs ranked at a time: about 30 MB at the widest."""


@dataclass(frozen=True)
class RetrievalFigures:
    """One metric in both directions and their mean, 0…1. NaN when no query can be scored."""

    video_to_text: float
    text_to_video: float
    mean: float

    @staticmethod
    def of(video_to_text: Scores, text_to_video: Scores) -> RetrievalFigures:
        """Mean over the queries of each direction, without those that have nothing to find (NaN)."""
        forth, back = _mean(video_to_text), _mean(text_to_video)
        return RetrievalFigures(forth, back, (forth + back) / 2)


@dataclass(frozen=True)
class RankingScores:
    """Scores of each query. NaN where the query has no relevant item (of relevancy 1 for average
    precision, above 0 for nDCG)."""

    average_precision: Scores
    ndcg: Scores


@dataclass(frozen=True)
class RetrievalScores:
    """Scores of each clip as a query for sentences, and of each sentence as a query for clips."""

    video_to_text: RankingScores
    text_to_video: RankingScores

    def figures(self) -> dict[str, dict[str, float]]:
        """`{"mAP": {"video_to_text", "text_to_video", "mean"}, "nDCG": {…}}`."""
        forth, back = self.video_to_text, self.text_to_video
        return {
            "mAP": asdict(RetrievalFigures.of(forth.average_precision, back.average_precision)),
            "nDCG": asdict(RetrievalFigures.of(forth.ndcg, back.ndcg)),
        }


def score_retrieval(similarity_NM: Matrix, relevancy_NM: Matrix) -> RetrievalScores:
    """Both metrics in both directions, per query. Rows are clips, columns sentences.

    Raises ValueError when the shapes differ or a value is not a number.
    """
    return RetrievalScores(
        score_rankings(similarity_NM, relevancy_NM), score_rankings(similarity_NM.T, relevancy_NM.T)
    )


def count_unreadable(
    scores: RetrievalScores, relevancy_AM: Matrix, rows_N: npt.NDArray[np.integer]
) -> RetrievalScores:
    """The scores of N readable clips out of A, once the others count as wrong.

    An unreadable clip scores 0 as a query. As a candidate it adds nothing to a sentence's gain but counts in
    the ideal gain, so no score can rise.
    """
    relevancy_MA = relevancy_AM.T
    forth, back = scores.video_to_text, scores.text_to_video
    hits_M, read_hits_M = ((matrix == 1).sum(1) for matrix in (relevancy_MA, relevancy_MA[:, rows_N]))
    ideal_M, read_ideal_M = _ideal_gain(relevancy_MA), _ideal_gain(relevancy_MA[:, rows_N])
    precision_A = np.where((relevancy_AM == 1).any(1), 0.0, np.nan)
    gain_A = np.where((relevancy_AM > 0).any(1), 0.0, np.nan)
    precision_A[rows_N], gain_A[rows_N] = forth.average_precision, forth.ndcg
    return RetrievalScores(
        RankingScores(precision_A, gain_A),
        RankingScores(
            _ratio(np.nan_to_num(back.average_precision) * read_hits_M, hits_M),
            _ratio(np.nan_to_num(back.ndcg) * read_ideal_M, ideal_M),
        ),
    )


def dual_softmax(similarity_NM: Matrix, copies_M: npt.NDArray[np.number], *, scale: float = 500.0) -> Scores:
    """The log of EgoVLP's dual softmax of similarities D of clips and sentences, N,M in float64.

    Each sentence's D is multiplied by its softmax over the clips of D / `scale`; the softmax over the
    sentences follows. `copies_M` is how often a sentence counts in that, as EgoVLP ranks one per clip.
    """
    exact_NM: Scores = similarity_NM.astype(np.float64)
    weighted_NM = exact_NM * np.exp(_log_softmax(exact_NM / scale, axis=0))
    return _log_softmax(weighted_NM, axis=1, copies=copies_M)


def _log_softmax(x_NM: Scores, *, axis: int, copies: npt.NDArray[np.number] | float = 1.0) -> Scores:
    x_NM = x_NM - x_NM.max(axis, keepdims=True)
    total: Scores = np.log((copies * np.exp(x_NM)).sum(axis, keepdims=True))
    return x_NM - total


def sentence_clips(relevancy_NM: Matrix) -> npt.NDArray[np.int64]:
    """The clip that each sentence is resampled with, int64[M]: one of those it describes best.

    Sentences that describe the same clips are spread over them.
    """
    best_MN = relevancy_NM.max(0)[:, None] == relevancy_NM.T
    described = [np.flatnonzero(best_N) for best_N in best_MN]
    return np.array([clips[place % len(clips)] for place, clips in enumerate(described)], np.int64)


def mean_average_precision(similarity_NM: Matrix, relevancy_NM: Matrix) -> RetrievalFigures:
    """The published mAP. Rows are clips, columns sentences."""
    return _both_directions(average_precision, similarity_NM, relevancy_NM)


def ndcg(similarity_NM: Matrix, relevancy_NM: Matrix) -> RetrievalFigures:
    """The published nDCG. Rows are clips, columns sentences."""
    return _both_directions(normalised_gain, similarity_NM, relevancy_NM)


def _both_directions(
    score: Callable[[npt.NDArray[np.float32]], Scores], similarity_NM: Matrix, relevancy_NM: Matrix
) -> RetrievalFigures:
    pairs = (similarity_NM, relevancy_NM), (similarity_NM.T, relevancy_NM.T)
    return RetrievalFigures.of(
        *(np.concatenate([score(ranked) for ranked in ranked_relevancies(*pair)]) for pair in pairs)
    )


def score_rankings(similarity_QK: Matrix, relevancy_QK: Matrix) -> RankingScores:
    """Average precision and nDCG of each query (row)."""
    blocks = [
        (average_precision(ranked), normalised_gain(ranked))
        for ranked in ranked_relevancies(similarity_QK, relevancy_QK)
    ]
    return RankingScores(*(np.concatenate(scores) for scores in zip(*blocks, strict=True)))


def ranked_relevancies(similarity_QK: Matrix, relevancy_QK: Matrix) -> Iterator[npt.NDArray[np.float32]]:
    """Relevancies of each query in the order of falling similarity, in blocks of queries B,K.

    Equal similarities come with the lower relevancy first. Values are compared as 32-bit floats.
    Raises ValueError when the shapes differ, are empty, or a value is not finite.
    """
    if similarity_QK.shape != relevancy_QK.shape or similarity_QK.ndim != 2 or not similarity_QK.size:
        shapes = f"{similarity_QK.shape} and {relevancy_QK.shape}"
        raise ValueError(
            f"retrieval: similarity and relevancy need one shape, queries × candidates; got {shapes}"
        )
    step = max(1, PAIRS_AT_ONCE // similarity_QK.shape[1])
    for start in range(0, len(similarity_QK), step):
        similarity = np.ascontiguousarray(similarity_QK[start : start + step], np.float32)
        relevancy = np.ascontiguousarray(relevancy_QK[start : start + step], np.float32)
        if not np.isfinite(similarity).all():
            raise ValueError(f"retrieval: similarity of query {start} or soon after is not a finite number")
        if not (relevancy >= 0).all():
            raise ValueError(
                f"retrieval: relevancy of query {start} or soon after is negative or not a number"
            )
        keys = _falling(similarity) << np.uint64(32)
        keys |= (relevancy + np.float32(0)).view(np.uint32)
        keys.sort(axis=1)
        yield keys.astype(np.uint32).view(np.float32)


def _falling(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """Integers that sort ascending where the values sort descending (IEEE 754: flip sign and magnitude)."""
    bits = (values + np.float32(0)).view(np.uint32)  # adding 0 makes −0 equal to 0
    negative = bits >> np.uint32(31) == 1
    return np.where(negative, bits, bits ^ np.uint32(0x7FFFFFFF)).astype(np.uint64)


def average_precision(ranked_BK: npt.NDArray[np.float32]) -> Scores:
    """Published average precision of ranked relevancies, one number a query; NaN without a relevancy of 1.

    At each item of relevancy 1, the sum of all relevancies down to it over its position; their mean.
    """
    gathered_BK = np.cumsum(ranked_BK, axis=1, dtype=np.float64)
    query, position = np.nonzero(ranked_BK == 1)
    precision = gathered_BK[query, position] / (position + 1)
    hits_B = np.bincount(query, minlength=len(ranked_BK))
    return _ratio(np.bincount(query, precision, minlength=len(ranked_BK)), hits_B)


def normalised_gain(ranked_BK: npt.NDArray[np.float32]) -> Scores:
    """Published nDCG of ranked relevancies, one number a query; NaN when every relevancy is 0.

    The gain is the relevancy over log2(position + 1), summed over the first as many positions as there
    are relevancies above 0; the ideal order has the largest first.
    """
    discounts_K = _discounts(ranked_BK.shape[1])
    counted_BK = np.arange(ranked_BK.shape[1]) < np.count_nonzero(ranked_BK, axis=1)[:, None]
    ideal_BK = np.sort(ranked_BK, axis=1)[:, ::-1]  # zero beyond the count by itself
    gain_B = np.where(counted_BK, ranked_BK, np.float32(0)) @ discounts_K
    return _ratio(gain_B, ideal_BK @ discounts_K)


def chance_figures(relevancy_NM: Matrix) -> dict[str, dict[str, float]]:
    """Expected mAP and nDCG of a random ranking, in the form of `RetrievalScores.figures`.

    The mean over all orders in closed form, so without sampling noise.
    """
    forth, back = _expected(relevancy_NM), _expected(relevancy_NM.T)
    return RetrievalScores(forth, back).figures()


def _expected(relevancy_QK: Matrix) -> RankingScores:
    """Expectation of both scores over all orders of a query's candidates, each equally likely.

    An item of relevancy 1 is at each position p of K with equal chance; above it, p − 1 of the other
    items gather (p − 1)(S − 1)/(K − 1) on average, S being the sum of all relevancies. So its precision
    is [1 + (p − 1)(S − 1)/(K − 1)] / p, averaged over p. The gain at each position is S / K on average.
    """
    columns = relevancy_QK.shape[1]
    total = relevancy_QK.sum(1, dtype=np.float64)
    inverse = float(np.mean(1 / np.arange(1, columns + 1)))  # the mean of 1/p
    others = (total - 1) / max(columns - 1, 1)
    has_one = (relevancy_QK == 1).any(1)
    precision = np.where(has_one, inverse + others * (1 - inverse), np.nan)
    discounts = _discounts(columns)
    counts = np.count_nonzero(relevancy_QK, axis=1)
    expected_gain = total / columns * np.concatenate([[0.0], np.cumsum(discounts)])[counts]
    return RankingScores(precision, _ratio(expected_gain, _ideal_gain(relevancy_QK)))


def _ideal_gain(relevancy_QK: Matrix) -> Scores:
    """Gain of the best order of each query's candidates."""
    columns = relevancy_QK.shape[1]
    discounts = _discounts(columns)
    step = max(1, PAIRS_AT_ONCE // columns)
    ideal = [
        np.sort(relevancy_QK[start : start + step], axis=1)[:, ::-1] @ discounts
        for start in range(0, len(relevancy_QK), step)
    ]
    return np.concatenate(ideal)


def _discounts(count: int) -> Scores:
    return 1 / np.log2(np.arange(count) + 2)


def _ratio(numerator: npt.NDArray[np.number], denominator: npt.NDArray[np.number]) -> Scores:
    """Quotient, NaN where the denominator is 0."""
    empty = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=empty, where=denominator > 0)


def _mean(scores: Scores) -> float:
    scored = scores[~np.isnan(scores)]
    return float(scored.mean()) if len(scored) else float("nan")
