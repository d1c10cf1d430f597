"""EgoMCQ accuracy by kind of question: known answers."""

import numpy as np
import pytest

from avion_core.evaluate.multiple_choice import choice_figures

SIMILARITY = np.array([[0.9, 0.1, 0.2], [0.1, 0.8, 0.2], [0.3, 0.1, 0.2], [0.1, 0.2, 0.3]])


def test_type_1_is_inter_video_and_type_2_intra_video():
    """Questions 0–2 are of type 1 and two are right; question 3 of type 2 is wrong."""
    figures = choice_figures(SIMILARITY, np.array([0, 1, 2, 0]), np.array([1, 1, 1, 2]))
    assert figures["inter_video"] == pytest.approx(200 / 3)
    assert figures["intra_video"] == 0


def test_chance_of_five_choices_is_a_fifth():
    figures = choice_figures(np.eye(5), np.arange(5), np.full(5, 1))
    assert figures["chance"] == {"inter_video": 20, "intra_video": 20}
    assert figures["inter_video"] == 100 and np.isnan(figures["intra_video"])


def test_a_tie_is_no_right_answer():
    assert choice_figures(np.zeros((2, 5)), np.array([0, 4]), np.array([1, 1]))["inter_video"] == 0


@pytest.mark.parametrize(
    ("answers", "types", "message"),
    [([0, 1, 2, 3], [1, 1, 1, 2], "answer"), ([0, 1, 2, 0], [0, 1, 1, 2], "types"), ([0], [1], "questions")],
)
def test_what_is_no_question_is_refused(answers, types, message):
    with pytest.raises(ValueError, match=message):
        choice_figures(SIMILARITY, np.array(answers), np.array(types))
