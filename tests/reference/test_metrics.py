"""Evaluation metrics of LaViLa and EgoVLP on recorded cases of their own programs."""

import json
from pathlib import Path

import numpy as np
import pytest

from avion_core.evaluate.inference import unit_length
from avion_core.evaluate.multiple_choice import choice_figures, choice_similarity

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
