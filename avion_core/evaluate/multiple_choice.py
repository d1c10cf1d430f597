"""EgoMCQ: which of five clips does a sentence describe? Accuracy in per cent, by type of question.

Lin et al. 2022 (EgoVLP), section 4. In `egomcq.json` type 1 is inter-video (choices from different
videos) and type 2 intra-video (from the same video, the harder); EgoVLP's and LaViLa's programs print
the two names swapped, so figures taken from their logs must be swapped back.

EgoVLP compares by cosines; LaViLa by the products of embeddings that are not normalised (`eval_zeroshot.py`),
so that a clip with a long embedding is chosen more often.

Shapes: Q questions, C choices each, D numbers in an embedding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

QUESTION_TYPES = {"inter_video": 1, "intra_video": 2}
"""Types of question by their number in the file."""


def choice_similarity(
    choices_QCD: npt.NDArray[np.floating], texts_QD: npt.NDArray[np.floating]
) -> npt.NDArray[np.floating]:
    """Product of each question's text with each of its choices, Q,C: cosines if embeddings are units."""
    return np.asarray(np.einsum("qcd,qd->qc", choices_QCD, texts_QD))


def choice_figures(
    similarity_QC: npt.NDArray[np.floating],
    answers_Q: npt.NDArray[np.integer],
    types_Q: npt.NDArray[np.integer],
) -> dict[str, object]:
    """`inter_video` and `intra_video` accuracy in per cent, and `chance` with the same names.

    A type without questions is NaN. Raises ValueError for an unknown type and as `answered_right` does.
    """
    questions, choices = similarity_QC.shape
    if types_Q.shape != (questions,):
        raise ValueError(f"EgoMCQ: {questions} questions, {types_Q.shape} types")
    if not np.isin(types_Q, list(QUESTION_TYPES.values())).all():
        raise ValueError(f"EgoMCQ: question types must be among {QUESTION_TYPES}")
    right_Q = answered_right(similarity_QC, answers_Q)
    figures: dict[str, object] = {}
    for name, number in QUESTION_TYPES.items():
        asked_Q = types_Q == number
        figures[name] = 100 * float(right_Q[asked_Q].mean()) if asked_Q.any() else float("nan")
    figures["chance"] = dict.fromkeys(QUESTION_TYPES, 100 / choices)
    return figures


def answered_right(
    similarity_QC: npt.NDArray[np.floating], answers_Q: npt.NDArray[np.integer]
) -> npt.NDArray[np.bool_]:
    """Whether each question's answer is more similar than every other choice, bool[Q].

    Raises ValueError for an answer that is no choice, or a similarity that is not finite.
    """
    questions, choices = similarity_QC.shape
    if answers_Q.shape != (questions,):
        raise ValueError(f"EgoMCQ: {questions} questions, {answers_Q.shape} answers")
    if ((answers_Q < 0) | (answers_Q >= choices)).any():
        raise ValueError(f"EgoMCQ: an answer is not one of the {choices} choices")
    if not np.isfinite(similarity_QC).all():
        raise ValueError("EgoMCQ: a similarity is not a finite number")
    own_Q = similarity_QC[np.arange(questions), answers_Q]
    return np.asarray((similarity_QC >= own_Q[:, None]).sum(1) == 1)  # a tie is wrong


def choice_scores(
    right_Q: npt.NDArray[np.floating], types_Q: npt.NDArray[np.integer]
) -> dict[str, npt.NDArray[np.floating]]:
    """Scores of the questions by type name, NaN for questions of other types."""
    return {name: np.where(types_Q == number, right_Q, np.nan) for name, number in QUESTION_TYPES.items()}
