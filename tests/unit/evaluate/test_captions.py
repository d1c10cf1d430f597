"""Captions against reference sentences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avion_core.evaluate.captions import cider, longest_common_subsequence, rouge_l, words_of

CAPTIONS = [
    "#C C picks up the red mug",
    "#C C washes the knife",
    "#C C opens the drawer with the left hand and closes it",
    "Stir",
]
REFERENCES = [
    ["#C C picks the red mug from the table", "#C C picks up the mug"],
    ["#C C washes the knife"],
    ["#C C opens the drawer"],
    ["#C C cuts the onion", "#C C moves the onion"],
]
WORDS = ["picks", "puts", "the", "a", "red", "mug", "knife", "up", "down"]
SENTENCE = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8)
CLIPS = st.lists(st.tuples(SENTENCE, st.lists(SENTENCE, min_size=1, max_size=3)), min_size=2, max_size=8)


def test_scores_are_those_of_the_coco_caption_evaluation():
    """Recorded with pycocoevalcap 1.2."""
    assert cider(CAPTIONS, REFERENCES) == pytest.approx([5.540913576250791, 10.0, 2.712905312608524, 0.0])
    assert rouge_l(CAPTIONS, REFERENCES) == pytest.approx([0.9446902654867256, 1.0, 0.6765249537892792, 0.0])


@given(CLIPS)
def test_scores_stay_within_their_bounds_whatever_the_order(clips):
    captions = [" ".join(caption) for caption, _ in clips]
    references = [[" ".join(text) for text in texts] for _, texts in clips]
    for score, top in ((cider, 10), (rouge_l, 1)):
        found = score(captions, references)
        assert ((found >= 0) & (found <= top + 1e-9)).all()
        assert score(captions[::-1], references[::-1])[::-1] == pytest.approx(found)


@given(SENTENCE, SENTENCE)
def test_longest_common_subsequence_is_that_of_trying_all(one, other):
    def subsequences(words):
        return {some for size in range(len(words) + 1) for some in itertools.combinations(words, size)}

    longest = max(map(len, subsequences(one) & subsequences(other)))
    assert longest_common_subsequence(one, other) == longest


def test_a_copy_of_the_reference_has_the_highest_scores():
    references = [["picks up the red mug now"], ["washes a knife in the sink"]]
    captions = [texts[0] for texts in references]
    assert rouge_l(captions, references).tolist() == [1, 1]
    assert cider(captions, references)[1] == pytest.approx(10)


def test_an_empty_caption_has_no_score_and_a_single_clip_no_rarity():
    assert cider(["", "cut"], [["cut"], ["stir"]]).tolist() == [0, 0]
    assert rouge_l(["", "cut"], [["cut"], ["stir"]]).tolist() == [0, 0]
    assert cider(["cut it now please"], [["cut it now please"]]).tolist() == [0]
    assert not np.isnan(cider([], [])).any()


def test_a_punctuation_mark_is_a_word():
    assert words_of("#C C picks, it's 2.") == ["#", "c", "c", "picks", ",", "it", "'", "s", "2", "."]


@pytest.mark.parametrize("score", [cider, rouge_l])
def test_a_clip_without_references_is_an_error(score):
    with pytest.raises(ValueError, match="clip 1 has no reference"):
        score(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="2 captions, but references for 1"):
        score(["a", "b"], [["a"]])
