"""Evaluation metrics of LaViLa and EgoVLP on recorded cases of their own programs."""

import json
from pathlib import Path

import numpy as np
import pytest

from avion_core.evaluate.bootstrap import Scores
from avion_core.evaluate.inference import unit_length
from avion_core.evaluate.multiple_choice import choice_figures, choice_similarity
from avion_core.evaluate.recognition import class_right, marginal
from avion_core.evaluate.retrieval import dual_softmax
from avion_core.evaluate.zero_shot_classes import class_embeddings, precisions, probabilities

RECORDED = json.loads((Path(__file__).parent / "data" / "metrics.json").read_text(encoding="utf-8"))


def arrays(name, *fields):
    return [np.array(RECORDED[name][field]) for field in fields]


def test_accuracy_of_egomcq():
    figures = choice_figures(*arrays("egomcq", "scores", "answer", "types"))
    assert figures["inter_video"] == pytest.approx(RECORDED["egomcq"]["accuracy_type_1_inter"])
    assert figures["intra_video"] == pytest.approx(RECORDED["egomcq"]["accuracy_type_2_intra"])


def test_similarity_of_egomcq_in_both_projects():
    texts_QD, choices_QCD, *expected = arrays(
        "egomcq_scoring", "query_features", "option_features", "lavila_scores", "egovlp_scores"
    )
    units_QCD = unit_length(choices_QCD.reshape(-1, choices_QCD.shape[2])).reshape(choices_QCD.shape)
    dot_QC = choice_similarity(choices_QCD, texts_QD)
    cosine_QC = choice_similarity(units_QCD, unit_length(texts_QD))
    for found_QC, expected_QC in zip((dot_QC, cosine_QC), expected, strict=True):
        np.testing.assert_allclose(found_QC, expected_QC, atol=1e-5 * np.abs(expected_QC).max(), rtol=0)
    differ_Q = dot_QC.argmax(1) != cosine_QC.argmax(1)
    assert differ_Q.tolist() == RECORDED["egomcq_scoring"]["answers_differ"]


def test_scores_of_zero_shot_classes():
    recorded = RECORDED["zero_shot"]
    text_MD, views_VND = arrays("zero_shot", "text_features", "video_features_view_clip")
    class_of_M = np.repeat(np.arange(5), recorded["texts_per_class"])
    classes_KD = class_embeddings(text_MD, class_of_M, 5)
    views_VNK = np.stack([unit_length(view_ND) @ classes_KD.T for view_ND in views_VND])
    one_NK, three_NK = arrays("zero_shot", "scores_one_view", "scores_three_views")
    np.testing.assert_allclose(views_VNK[0], one_NK, atol=1e-5, rtol=0)
    np.testing.assert_allclose(probabilities(views_VNK.max(0)), three_NK, atol=1e-5, rtol=0)


def test_accuracies_of_egtea():
    """LaViLa's mean also has classes that are predicted and do not occur; here such scores are taken out."""
    recorded = RECORDED["egtea"]
    scores_NK, labels_N = arrays("egtea", "scores", "target")
    right = class_right(scores_NK, labels_N)
    assert 100 * right["top1"].mean() == pytest.approx(recorded["top1"])
    assert 100 * right["top5"].mean() == pytest.approx(recorded["top5_of_accuracy"])
    assert class_mean(right["top1"], labels_N) == pytest.approx(recorded["mean_over_occurring_classes_only"])
    predicted_N = scores_NK.argmax(1)
    assert lavila_class_mean(predicted_N, labels_N) == pytest.approx(recorded["mean_class_accuracy"])
    possible_NK = scores_NK[:, : labels_N.max() + 1]
    assert class_mean(class_right(possible_NK, labels_N)["top1"], labels_N) == pytest.approx(
        lavila_class_mean(possible_NK.argmax(1), labels_N)
    )


def class_mean(right_N, labels_N):
    numbers = np.arange(len(labels_N))
    return Scores(numbers, numbers, {"mean": 100.0 * right_N}, {"mean": labels_N}).values()["mean"]


def lavila_class_mean(predicted_N, labels_N):
    """The recorded rule: the mean over the union of classes that occur and that are predicted."""
    shares = [
        (predicted_N[labels_N == k] == k).mean() if (labels_N == k).any() else 0.0
        for k in np.union1d(labels_N, predicted_N)
    ]
    return 100 * np.mean(shares)


@pytest.mark.parametrize("emptied", [None, 4])
def test_average_precision_of_charades_ego(emptied):
    recorded = RECORDED["charades"]
    scores_NK, labels_NK = arrays("charades", "scores", "labels")
    if emptied is not None:
        labels_NK[:, emptied] = 0
    ranked = precisions(scores_NK, labels_NK.astype(bool))
    expected = recorded["AP_per_class" if emptied is None else f"AP_per_class_with_class_{emptied}_emptied"]
    assert ranked.average() == pytest.approx({k: one for k, one in enumerate(expected) if one is not None})
    if emptied is None:
        assert np.mean(list(ranked.average().values())) == pytest.approx(recorded["mAP"])
        assert np.flatnonzero(~labels_NK.any(1)).tolist() == recorded["clips_without_labels"]


def test_verbs_and_nouns_of_actions():
    probabilities_NK, verbs, nouns = arrays(
        "action_marginals", "probabilities", "verb_of_action", "noun_of_action"
    )
    verb_NG, noun_NG = arrays("action_marginals", "verb", "noun")
    found_NG = marginal(probabilities_NK, verbs)
    there = np.unique(verbs)
    np.testing.assert_allclose(found_NG[:, there], verb_NG[:, there], atol=1e-6)
    assert set(range(verb_NG.shape[1])) - set(there) == {2} and not found_NG[:, 2].any()
    np.testing.assert_allclose(marginal(probabilities_NK, nouns), noun_NG, atol=1e-6)


def test_dual_softmax_of_egovlp():
    recorded = RECORDED["dual_softmax"]
    dots_MN, wanted_MN = arrays("dual_softmax", "dot_products_text_by_video", "result_text_by_video")
    found_NM = np.exp(dual_softmax(dots_MN.T, np.ones(len(dots_MN))))
    np.testing.assert_allclose(found_NM.T, wanted_MN, atol=1e-5 * np.abs(wanted_MN).max(), rtol=0)
    assert recorded["result_text_by_video"] != recorded["after_first"]
