"""Published mAP and nDCG on a recorded case of the original implementation."""

import json
from pathlib import Path

import numpy as np
import pytest

from avion_core.evaluate.retrieval import mean_average_precision, ndcg, score_retrieval

RECORDED = json.loads((Path(__file__).parent / "data" / "retrieval.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_figures_match_the_original(dtype):
    similarity, relevancy = (np.array(RECORDED[name], dtype) for name in ("similarity", "relevancy"))
    figures = score_retrieval(similarity, relevancy).figures()
    single = {"mAP": mean_average_precision(similarity, relevancy), "nDCG": ndcg(similarity, relevancy)}
    for name in ("mAP", "nDCG"):
        for side, value in RECORDED[name].items():
            assert figures[name][side] == pytest.approx(value, abs=1e-6)
            assert getattr(single[name], side) == pytest.approx(value, abs=1e-6)
