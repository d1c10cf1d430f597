"""Relevancy against hand-computed values and a plain loop."""

import numpy as np
import pytest

from avion_core.evaluate.relevancy import equal_text_relevancy, relevancy_matrix


def test_hand_computed_values():
    relevancy = relevancy_matrix([3, 3, 5], [[1, 2], [1], [7, 8, 9]], [3, 5], [[2, 1, 1], [9, 8]])
    expected = [[1.0, 0.0], [0.5 + 0.25, 0.0], [0.0, 0.5 + 1 / 3]]
    np.testing.assert_allclose(relevancy, expected, atol=1e-7)
    assert relevancy.dtype == np.float32


def test_equals_a_plain_loop_over_pairs_across_blocks(monkeypatch):
    monkeypatch.setattr("avion_core.evaluate.relevancy.ROWS_AT_ONCE", 7)
    rng = np.random.default_rng(0)
    verbs, nouns = rng.integers(4, size=60), [rng.integers(9, size=rng.integers(1, 5)) for _ in range(60)]
    found = relevancy_matrix(verbs[:40], nouns[:40], verbs[40:], nouns[40:])
    for row in range(40):
        for column in range(20):
            left, right = set(nouns[row].tolist()), set(nouns[40 + column].tolist())
            iou = len(left & right) / len(left | right)
            equal = float(verbs[row] == verbs[40 + column])
            assert found[row, column] == pytest.approx((equal + iou) / 2, abs=1e-6)


def test_agreement_in_everything_is_exactly_one():
    nouns = [list(range(size)) for size in range(1, 60)]
    verbs = np.zeros(len(nouns), int)
    assert (np.diag(relevancy_matrix(verbs, nouns, verbs, [item[::-1] for item in nouns])) == 1).all()


def test_two_items_without_nouns_have_equal_nouns():
    np.testing.assert_array_equal(relevancy_matrix([1, 1], [[], [2]], [1], [[]]), [[1.0], [0.5]])


def test_verbs_and_nouns_of_different_length_are_refused():
    with pytest.raises(ValueError, match="one of each an item"):
        relevancy_matrix([1, 2], [[1]], [1], [[1]])


def test_equal_text():
    found = equal_text_relevancy(["a", "b", "a"], ["b", "a"])
    np.testing.assert_array_equal(found, [[0, 1], [1, 0], [0, 1]])
