"""EgoMCQ evaluator: inter-video and intra-video accuracy.

Shapes: Q questions of C choices, D numbers in an embedding; A all questions of a table, readable or not.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt

from avion_core.config.evaluations import MultipleChoiceSettings
from avion_core.data.clips import ClipTable, Question, load_questions
from avion_core.evaluate.bootstrap import Scores
from avion_core.evaluate.inference import Inference
from avion_core.evaluate.multiple_choice import (
    answered_right,
    choice_figures,
    choice_scores,
    choice_similarity,
)
from avion_core.evaluate.subject import (
    Arrays,
    EvaluationError,
    Measurement,
    Subject,
    clip_counts,
    filled,
    video_numbers,
)


class MultipleChoice:
    """EgoMCQ: choose which of five clips a sentence describes.

    Outputs: `similarity_QC, answers_Q, types_Q, questions_Q` (rows of the question table).
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def run(self) -> Measurement:
        encoder = self.subject.embedder()
        questions = load_questions(self.subject.files["clips"])
        clips, choices_QC = distinct_choices(questions)
        settings = cast(MultipleChoiceSettings, self.subject.settings)
        cosine = settings.similarity == "cosine"
        videos = self.subject.embed_clips(clips, encoder, normalize=cosine)
        texts = [question.text for question in questions]
        text_embed_QD = self.subject.embed_texts(texts, encoder, normalize=cosine)
        place = np.full(len(clips), -1)
        place[videos.rows] = np.arange(len(videos.rows))
        asked_Q = np.flatnonzero((place[choices_QC] >= 0).all(1))
        self._check_left_out(len(questions) - len(asked_Q), len(questions), videos)
        choice_embed_QCD = videos.outputs[place[choices_QC[asked_Q]]]
        similarity_QC = choice_similarity(choice_embed_QCD, text_embed_QD[asked_Q])
        answers_A = np.array([question.answer for question in questions])
        types_A = np.array([question.type for question in questions])
        figures = {
            **choice_figures(similarity_QC, answers_A[asked_Q], types_A[asked_Q]),
            **clip_counts(clips, videos),
            "questions": len(asked_Q),
            "questions_left_out": len(questions) - len(asked_Q),
            "bad_clips": videos.bad_clips(),
        }
        outputs: Arrays = {
            "similarity_QC": similarity_QC,
            "answers_Q": answers_A[asked_Q],
            "types_Q": types_A[asked_Q],
            "questions_Q": asked_Q,
        }
        right_Q = answered_right(similarity_QC, answers_A[asked_Q])
        answer_clips_A = choices_QC[np.arange(len(questions)), answers_A]
        scores, strict = (
            Scores(
                answer_clips_A,
                video_numbers(clips)[answer_clips_A],
                choice_scores(filled(100 * right_Q, asked_Q, len(questions), unread), types_A),
                {},
            )
            for unread in (np.nan, 0)
        )
        return Measurement(figures, outputs, scores, strict)

    def _check_left_out(self, left_out: int, questions: int, videos: Inference) -> None:
        """Raise EvaluationError if too many questions have an unreadable choice."""
        allowed = self.subject.settings.max_bad_share
        if left_out > allowed * questions:
            raise EvaluationError(
                f"{self.subject.title}: {left_out} of {questions} questions have a choice that cannot be "
                f"read, beyond the share of {allowed:g} that max_bad_share allows; the last: "
                f"{videos.bad[-1].reason}. Repair the clips, or raise the evaluation's max_bad_share"
            )


def distinct_choices(questions: list[Question]) -> tuple[ClipTable, npt.NDArray[np.int64]]:
    """The distinct clips among the choices, and the row of each choice in them, Q,C.

    Raises EvaluationError without questions or when their numbers of choices differ.
    """
    if len({len(question.video_ids) for question in questions}) != 1:
        raise EvaluationError("EgoMCQ: no questions, or they differ in their number of choices")
    number: dict[tuple[str, float, float], int] = {}
    rows_QC = [
        [number.setdefault(clip, len(number)) for clip in zip(q.video_ids, q.starts_s, q.ends_s, strict=True)]
        for q in questions
    ]
    names = ("video_id", "start_s", "end_s")
    clips = ClipTable.from_rows({**dict(zip(names, clip, strict=True)), "texts": []} for clip in number)
    return clips, np.array(rows_QC, np.int64)
