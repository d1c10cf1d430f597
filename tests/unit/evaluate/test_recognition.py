"""Top-k accuracy, verbs and nouns out of actions, and the best constant answer: known answers."""

import numpy as np
import pytest

from avion_core.evaluate.recognition import (
    UNKNOWN,
    accuracy_figures,
    action_chance,
    action_right,
    among_top,
    class_chance,
    class_right,
    constant_accuracy,
    marginal,
    parse_actions,
)


def test_top_k_equals_a_plain_sort():
    rng = np.random.default_rng(0)
    scores, labels = rng.random((200, 12)), rng.integers(12, size=200)
    for k in (1, 3, 5, 12):
        found = np.mean([label in np.argsort(-row)[:k] for row, label in zip(scores, labels, strict=True)])
        assert among_top(scores, labels, k).mean() == pytest.approx(found)


def test_a_model_that_cannot_tell_is_not_right_by_the_order_of_the_classes():
    assert not among_top(np.full((5, 6), 1 / 6), np.zeros(5, int), 5).any()


def test_an_unknown_label_is_wrong_and_counts():
    scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
    assert among_top(scores, np.array([0, UNKNOWN, 2, 0])).tolist() == [True, False, False, True]


def test_constant_accuracy_takes_the_most_frequent_classes():
    labels = np.array([7] * 5 + [1] * 3 + [2] * 2)
    assert constant_accuracy(labels) == 50
    assert constant_accuracy(labels, 2) == 80
    assert constant_accuracy(labels, 5) == 100


def test_a_verb_is_the_sum_over_its_actions_even_when_another_action_is_likelier():
    """Action 2:0 is likeliest, but verb 1 has more in its two actions, and noun 5 in three."""
    actions = ["1:5", "1:6", "2:0", "2:5"]
    probabilities = np.array([[0.3, 0.25, 0.35, 0.1]])
    right = action_right(
        probabilities, actions, labels_N=np.array([2]), verbs_N=np.array([1]), nouns_N=np.array([5])
    )
    assert right == {"verb_top1": [True], "noun_top1": [True], "action_top1": [True]}
    np.testing.assert_allclose(marginal(probabilities, np.array([1, 1, 2, 2])), [[0, 0.55, 0.45]])


def test_a_verb_with_a_head_of_its_own_is_not_summed_and_a_noun_without_one_is():
    given = {"labels_N": np.array([2]), "verbs_N": np.array([1]), "nouns_N": np.array([5])}
    actions, probabilities = ["1:5", "1:6", "2:0", "2:5"], np.array([[0.3, 0.25, 0.35, 0.1]])
    heads = {"verb": np.array([[0.2, 0.3, 0.5]])}
    right = action_right(probabilities, actions, **given, own_heads=heads)
    assert right == {"verb_top1": [False], "noun_top1": [True], "action_top1": [True]}


def test_an_action_outside_the_classes_still_counts_for_verb_and_noun():
    verbs_N, nouns_N = np.array([0, 0]), np.array([1, 0])
    right = action_right(
        np.array([[0.9, 0.1], [0.8, 0.2]]),
        ["0:0", "1:1"],
        labels_N=np.array([UNKNOWN, 0]),
        verbs_N=verbs_N,
        nouns_N=nouns_N,
    )
    figures = accuracy_figures(right, action_chance(verbs_N, nouns_N))
    chance = {"verb_top1": 100, "noun_top1": 50, "action_top1": 50}
    assert figures == {"verb_top1": 100, "noun_top1": 50, "action_top1": 50, "chance": chance}


def test_class_figures():
    scores = np.eye(8)[[0, 1, 2, 3]] + np.linspace(0, 0.5, 8)
    labels_N = np.array([0, 1, 3, 3])
    figures = accuracy_figures(class_right(scores, labels_N), class_chance(labels_N))
    assert figures == {"top1": 75, "top5": 75, "chance": {"top1": 50, "top5": 100}}


@pytest.mark.parametrize("name", ["3", "a:b", "1:2:3", "1.5:2"])
def test_an_action_of_another_form_is_refused(name):
    with pytest.raises(ValueError, match="verb:noun"):
        parse_actions(["1:2", name])


def test_classes_of_other_data_are_refused():
    labels = np.array([0])
    with pytest.raises(ValueError, match=r"2 classes.*3 actions"):
        action_right(np.ones((1, 2)), ["0:0", "0:1", "1:1"], labels_N=labels, verbs_N=labels, nouns_N=labels)


def test_scores_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="finite"):
        among_top(np.array([[np.nan, 1]]), np.array([0]))
