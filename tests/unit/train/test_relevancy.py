"""The relevancy of a batch is the evaluation's, value for value."""

import numpy as np
import pytest
import torch

from avion_core.data.clips import ClipTable, Sentences
from avion_core.evaluate.relevancy import relevancy_matrix
from avion_core.train.relevancy import PairRelevancy

CPU = torch.device("cpu")


def random_classes(items: int, rng: np.random.Generator) -> tuple[np.ndarray, list[list[int]]]:
    """Verbs and nouns as skewed as EPIC-KITCHENS-100's: 97 and 300 classes, 0 to 6 nouns, some twice."""
    verbs = np.minimum(rng.geometric(0.08, items) - 1, 96)
    nouns = np.minimum(rng.geometric(0.03, (items, 6)) - 1, 299)
    return verbs, [row[:count].tolist() for row, count in zip(nouns, rng.integers(0, 7, items), strict=True)]


def tables(clips: int, sentences: int) -> tuple[ClipTable, Sentences]:
    rng = np.random.default_rng(0)
    verbs, nouns = random_classes(clips, rng)
    rows = [
        {"video_id": "a", "start_s": 0.0, "end_s": 1.0, "texts": ["x"], "verb": verb, "nouns": row}
        for verb, row in zip(verbs.tolist(), nouns, strict=True)
    ]
    verbs, nouns = random_classes(sentences, rng)
    return ClipTable.from_rows(rows), Sentences(texts=["x"] * sentences, verbs=verbs, nouns=nouns)


def test_a_batchs_relevancy_equals_the_evaluations():
    clips, sentences = tables(3000, 900)
    all_nouns = [clips.nouns(row) for row in range(len(clips))]
    whole = relevancy_matrix(clips.column("verb"), all_nouns, sentences.verbs, sentences.nouns)
    pairs, rng = PairRelevancy(clips, sentences, device=CPU), np.random.default_rng(1)
    seen = set()
    for _ in range(5):
        rows, text_ids = rng.integers(3000, size=128), rng.integers(900, size=100)
        found = pairs(torch.from_numpy(rows), torch.from_numpy(text_ids))
        assert found.dtype == torch.float32
        assert np.array_equal(found.numpy(), whole[rows][:, text_ids])
        seen |= set(found.unique().tolist())
    assert {0.0, 0.5, 1.0} < seen


def test_relevancy_by_hand():
    row = {"video_id": "a", "start_s": 0.0, "end_s": 1.0, "texts": ["x"]}
    clips = ClipTable.from_rows([{**row, "verb": 1, "nouns": [2, 3]}, {**row, "verb": 0, "nouns": []}])
    sentences = Sentences(texts=["x"] * 3, verbs=np.array([1, 0, 1]), nouns=[[3], [], [2, 3, 3]])
    found = PairRelevancy(clips, sentences, device=CPU)(torch.tensor([1, 0]), torch.tensor([0, 1, 2]))
    assert found.tolist() == [[0.0, 1.0, 0.0], [0.75, 0.0, 1.0]]


def test_autocast_leaves_it_exact():
    clips, sentences = tables(50, 40)
    pairs, rows, text_ids = PairRelevancy(clips, sentences, device=CPU), torch.arange(50), torch.arange(40)
    exact = pairs(rows, text_ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pairs(rows, text_ids), exact)


def test_clips_without_classes_are_refused():
    row = {"video_id": "a", "start_s": 0.0, "end_s": 1.0, "texts": ["x"]}
    _, sentences = tables(1, 2)
    with pytest.raises(ValueError, match="no column 'nouns'"):
        PairRelevancy(ClipTable.from_rows([row]), sentences, device=CPU)
