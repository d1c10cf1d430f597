"""Multi-instance retrieval evaluator: mAP and nDCG.

Shapes: N clips that could be read, M sentences, D numbers in an embedding; A all clips of a table, readable
or not; Q queries, the A clips and then the M sentences.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from avion_core.config import RetrievalSettings
from avion_core.data.clips import ClipTable, Sentences
from avion_core.evaluate.bootstrap import Scores
from avion_core.evaluate.relevancy import equal_text_relevancy, relevancy_matrix
from avion_core.evaluate.retrieval import (
    Matrix,
    RetrievalScores,
    chance_figures,
    count_unreadable,
    dual_softmax,
    score_retrieval,
    sentence_clips,
)
from avion_core.evaluate.subject import (
    Arrays,
    EvaluationError,
    Measurement,
    Rows,
    Subject,
    clip_counts,
    filled,
    video_numbers,
)
from avion_core.evaluations import DUAL_SOFTMAX
from avion_core.file_arguments import ENSEMBLE


class Retrieval:
    """MIR: clips and sentences ranked by the cosine of their embeddings, or by what the settings make of it.

    Outputs: `rows_N, video_embed_ND, text_embed_MD`, and the M sentences as a JSON list in the header.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.settings = cast(RetrievalSettings, subject.settings)

    def run(self) -> Measurement:
        encoder = self.subject.embedder()
        clips = ClipTable.load(self.subject.files["clips"])
        texts, relevancy = self._sentences(clips)
        videos = self.subject.embed_clips(clips, encoder, mirror=self.settings.mirror)
        text_embed_MD = self.subject.embed_texts(texts, encoder)
        relevancy_NM = relevancy[videos.rows] if videos.bad else relevancy
        similarity_NM = self._with_others(videos.outputs @ text_embed_MD.T, videos.rows, texts)
        if self.settings.dual_softmax:
            similarity_NM = _dual(similarity_NM, clips, texts)
        scores = score_retrieval(similarity_NM, relevancy_NM)
        figures = {
            **scores.figures(),
            "chance": chance_figures(relevancy_NM),
            **clip_counts(clips, videos),
            "sentences": len(texts),
            "bad_clips": videos.bad_clips(),
            **({DUAL_SOFTMAX: True} if self.settings.dual_softmax else {}),
        }
        outputs: Arrays = {
            "rows_N": videos.rows,
            "video_embed_ND": videos.outputs,
            "text_embed_MD": text_embed_MD,
        }
        header = {"sentences": json.dumps(texts, ensure_ascii=False)}
        found = strict = _both_directions(clips, relevancy, scores, videos.rows)
        if videos.bad:
            counted = count_unreadable(scores, relevancy, videos.rows)
            strict = _both_directions(clips, relevancy, counted, np.arange(len(clips)))
        return Measurement(figures, outputs, found, strict, header)

    def _with_others(self, similarity_NM: Matrix, rows_N: Rows, texts: list[str]) -> Matrix:
        """The mean of the similarities with those of the evaluations in `ensemble`.

        Raises EvaluationError for one that was measured on other clips or sentences.
        """
        total_NM, members = similarity_NM.astype(np.float64), self.settings.ensemble
        for number, member in enumerate(members, start=1):
            path = self.subject.files[f"{ENSEMBLE}{number}"]
            with safe_open(path, "np") as stored:
                sentences = json.loads(stored.metadata()["sentences"])
                names = ("rows_N", "video_embed_ND", "text_embed_MD")
                rows, video_embed_ND, text_embed_MD = (stored.get_tensor(name) for name in names)
            if sentences != texts or not np.array_equal(rows, rows_N):
                raise EvaluationError(
                    f"{self.subject.title}: ensemble: {member.run}/{member.evaluation} has other sentences, "
                    "or could read other clips; repair the clips, or leave it out"
                )
            total_NM += video_embed_ND @ text_embed_MD.T
        return total_NM / (1 + len(members)) if members else similarity_NM

    def _sentences(self, clips: ClipTable) -> tuple[list[str], npt.NDArray[np.float32]]:
        """The sentences to rank, and the relevancy of each to every clip, N,M.

        With a table of sentences, by verb and noun classes; without one, the clips' own distinct texts in
        the order in which they first appear, by equal text.
        """
        if "sentences" not in self.subject.files:
            texts_N = [_first_text(clips, row) for row in range(len(clips))]
            texts_M = list(dict.fromkeys(texts_N))
            return texts_M, equal_text_relevancy(texts_N, texts_M)
        sentences = Sentences.load(self.subject.files["sentences"])
        nouns_N = [clips.nouns(row) for row in range(len(clips))]
        return sentences.texts, relevancy_matrix(
            clips.column("verb"), nouns_N, sentences.verbs, sentences.nouns
        )


def _dual(similarity_NM: Matrix, clips: ClipTable, texts: list[str]) -> Matrix:
    """`dual_softmax`, spread out so that float32 keeps the order; a sentence counts once for each clip."""
    counts = Counter(_first_text(clips, row) for row in range(len(clips)))
    dual_NM = dual_softmax(similarity_NM, np.array([max(1, counts[text]) for text in texts]))
    return (dual_NM - dual_NM.mean()) / (dual_NM.std() or 1.0)


def _both_directions(
    clips: ClipTable, relevancy_AM: npt.NDArray[np.float32], scores: RetrievalScores, rows_N: Rows
) -> Scores:
    """Scores of every clip and sentence as queries, NaN for clips outside `rows_N`, which `scores` lacks."""
    count, sentences = relevancy_AM.shape
    clips_Q = np.concatenate([np.arange(count), sentence_clips(relevancy_AM)])
    nothing_M = np.full(sentences, np.nan)
    queries: dict[str, npt.NDArray[Any]] = {}
    for metric, name in (("mAP", "average_precision"), ("nDCG", "ndcg")):
        forth_A = filled(getattr(scores.video_to_text, name), rows_N, count, np.nan)
        back_M = getattr(scores.text_to_video, name)
        queries[f"{metric}.video_to_text"] = np.concatenate([forth_A, nothing_M])
        queries[f"{metric}.text_to_video"] = np.concatenate([np.full(count, np.nan), back_M])
    return Scores(clips_Q, video_numbers(clips)[clips_Q], queries, {}, top=1.0)


def _first_text(clips: ClipTable, row: int) -> str:
    texts = clips.texts(row)
    if not texts:
        where = f"clip {row} ({clips.video_id(row)} at {clips.start_s(row):g} s)"
        raise EvaluationError(f"retrieval: {where} has no text to be found by")
    return texts[0]
