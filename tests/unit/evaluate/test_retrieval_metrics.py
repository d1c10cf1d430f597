"""mAP and nDCG against a naive version, by hand, and at their edges."""

import math

import numpy as np
import pytest

from avion_core.evaluate import retrieval
from avion_core.evaluate.retrieval import (
    chance_figures,
    count_unreadable,
    mean_average_precision,
    ndcg,
    score_rankings,
    score_retrieval,
    sentence_clips,
)


def naive_average_precision(similarity, relevancy):
    order = sorted(range(len(similarity)), key=lambda item: -similarity[item])
    gathered, precisions = 0.0, []
    for position, item in enumerate(order, start=1):
        gathered += relevancy[item]
        if relevancy[item] == 1:
            precisions.append(gathered / position)
    return sum(precisions) / len(precisions) if precisions else math.nan


def naive_ndcg(similarity, relevancy):
    order = sorted(range(len(similarity)), key=lambda item: -similarity[item])
    count = sum(value > 0 for value in relevancy)
    ideal = sorted(relevancy, reverse=True)
    gain = sum(relevancy[order[p]] / math.log2(p + 2) for p in range(count))
    best = sum(ideal[p] / math.log2(p + 2) for p in range(count))
    return gain / best if best else math.nan


def random_case(seed, shape):
    rng = np.random.default_rng(seed)
    relevancy = rng.choice([0, 0, 0, 0.25, 1 / 3, 0.5, 0.75, 1.0], size=shape)
    similarity = rng.permuted(np.linspace(-1, 1, math.prod(shape))).reshape(shape)
    return similarity, relevancy


@pytest.mark.parametrize(
    ("seed", "shape"), [(0, (13, 9)), (1, (1, 6)), (2, (30, 2)), (3, (8, 8)), (4, (5, 1))]
)
@pytest.mark.parametrize("pairs_at_once", [1, 20, 10_000])
def test_equals_the_naive_version_whatever_the_blocks(seed, shape, pairs_at_once, monkeypatch):
    monkeypatch.setattr(retrieval, "PAIRS_AT_ONCE", pairs_at_once)
    similarity, relevancy = random_case(seed, shape)
    scores = score_rankings(similarity, relevancy)
    pairs = list(zip(similarity.tolist(), relevancy.astype(np.float32).tolist(), strict=True))
    np.testing.assert_allclose(scores.average_precision, [naive_average_precision(*pair) for pair in pairs])
    np.testing.assert_allclose(scores.ndcg, [naive_ndcg(*pair) for pair in pairs])


def test_directions_are_rows_and_columns():
    similarity, relevancy = random_case(5, (12, 7))
    figures, mirrored = (
        score_retrieval(a, b).figures() for a, b in [(similarity, relevancy), (similarity.T, relevancy.T)]
    )
    for name in ("mAP", "nDCG"):
        assert (
            figures[name]["video_to_text"]
            == mirrored[name]["text_to_video"]
            != figures[name]["text_to_video"]
        )
        sides = figures[name]["video_to_text"] + figures[name]["text_to_video"]
        assert figures[name]["mean"] == pytest.approx(sides / 2)
    assert mean_average_precision(similarity, relevancy).mean == figures["mAP"]["mean"]
    assert ndcg(similarity, relevancy).mean == figures["nDCG"]["mean"]


def test_the_numerator_holds_fractions_and_only_ones_are_relevant():
    """By hand: the order is 0.5, 1, 0, 1: precisions (0.5 + 1)/2 and 2.5/4."""
    scores = score_rankings(np.array([[0.9, 0.8, 0.7, 0.6]]), np.array([[0.5, 1.0, 0.0, 1.0]]))
    assert scores.average_precision[0] == pytest.approx((0.75 + 0.625) / 2)


def test_a_query_without_an_item_of_relevancy_one_is_left_out_of_map():
    similarity, relevancy = np.array([[0.3, 0.2], [0.2, 0.3]]), np.array([[1.0, 0.5], [0.5, 0.5]])
    scores = score_rankings(similarity, relevancy)
    assert scores.average_precision[0] == 1 and np.isnan(scores.average_precision[1])
    assert mean_average_precision(similarity, relevancy).video_to_text == 1
    assert not np.isnan(scores.ndcg).any()


def test_a_perfect_ranking_has_ndcg_one():
    relevancy = random_case(6, (20, 11))[1]
    perfect = score_rankings(relevancy + np.linspace(0, 1e-3, 11), relevancy).ndcg
    np.testing.assert_allclose(perfect[~np.isnan(perfect)], 1)


def test_a_tie_never_helps_and_the_sign_of_zero_is_no_difference():
    relevancy = np.array([[1.0, 0.0, 0.5]])
    worst = score_rankings(np.array([[0.0, 2.0, 1.0]]), relevancy)
    for tied in ([[0.0, 0.0, 0.0]], [[0.0, -0.0, 0.0]], [[-0.0, 0.0, -0.0]]):
        assert score_rankings(np.array(tied), relevancy).average_precision == worst.average_precision


@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_only_the_order_of_similarities_matters(shift):
    similarity, relevancy = random_case(7, (6, 40))
    a, b = (score_rankings(value, relevancy) for value in (similarity, np.exp(similarity) * 5 + shift))
    np.testing.assert_array_equal(a.average_precision, b.average_precision)
    np.testing.assert_array_equal(a.ndcg, b.ndcg)


def test_chance_is_the_mean_over_random_rankings():
    relevancy = random_case(8, (14, 10))[1].astype(np.float32)
    rng = np.random.default_rng(0)
    draws = [score_retrieval(rng.random(relevancy.shape), relevancy).figures() for _ in range(1500)]
    chance = chance_figures(relevancy)
    for name, figures in chance.items():
        for side, value in figures.items():
            seen = np.array([draw[name][side] for draw in draws])
            assert value == pytest.approx(seen.mean(), abs=4 * seen.std() / math.sqrt(len(seen)))


def test_chance_of_one_candidate_is_certainty():
    assert chance_figures(np.ones((3, 1)))["mAP"]["video_to_text"] == 1


@pytest.mark.parametrize(
    ("similarity", "relevancy", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), "one shape"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "one shape"),
        (np.array([[np.nan, 0]]), np.zeros((1, 2)), "similarity"),
        (np.zeros((1, 2)), np.array([[np.nan, 0]]), "relevancy"),
        (np.zeros((1, 2)), np.array([[-0.5, 0]]), "relevancy"),
    ],
)
def test_what_cannot_be_ranked_is_refused(similarity, relevancy, message):
    with pytest.raises(ValueError, match=message):
        score_rankings(similarity, relevancy)


def test_counting_unreadable_clips_can_only_lower_a_score():
    rng = np.random.default_rng(5)
    similarity, relevancy = rng.random((30, 12)), rng.choice([0, 0.3, 1], p=[0.7, 0.2, 0.1], size=(30, 12))
    relevancy[:, 0] = 0
    relevancy[27, 0] = 1  # a sentence that only an unreadable clip answers
    rows = np.arange(27)
    scores = score_retrieval(similarity[rows], relevancy[rows])
    counted = count_unreadable(scores, relevancy, rows)
    for name in ("average_precision", "ndcg"):
        forth, all_forth = getattr(scores.video_to_text, name), getattr(counted.video_to_text, name)
        np.testing.assert_array_equal(all_forth[:27], forth)
        has = (relevancy[27:] == 1 if name == "average_precision" else relevancy[27:] > 0).any(1)
        np.testing.assert_array_equal(all_forth[27:], np.where(has, 0, np.nan))
        back, all_back = getattr(scores.text_to_video, name), getattr(counted.text_to_video, name)
        assert np.isnan(back[0]) and all_back[0] == 0
        assert not (all_back > back).any() and (all_back < back).any()
        assert (np.isnan(all_back[1:]) == np.isnan(back[1:])).all()
    found, hits = (relevancy[:27] == 1).sum(0), (relevancy == 1).sum(0)
    some = found > 0
    expected = scores.text_to_video.average_precision[some] * found[some] / hits[some]
    np.testing.assert_allclose(counted.text_to_video.average_precision[some], expected)


def test_sentences_go_with_clips_that_they_describe_spread_over_them():
    relevancy = np.zeros((6, 4), np.float32)
    relevancy[:4, :3] = 1
    relevancy[5, 3] = 0.4
    assert sentence_clips(relevancy).tolist() == [0, 1, 2, 5]
