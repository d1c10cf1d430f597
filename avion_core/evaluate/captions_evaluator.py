"""Captions evaluator: a narrator's captions of held-out clips, and the likelihood of human narrations.

Shapes: N clips that could be read, L tokens of a text; A all clips of a table, readable or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avion_core.data.clips import ClipTable, load_questions
from avion_core.data.tables import column_names
from avion_core.data.tokenizer import decode, tokenize
from avion_core.evaluate.bootstrap import Scores
from avion_core.evaluate.captions import CIDER_SCALE, cider, rouge_l
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
from avion_core.models.generate import Generated, TextSampling, clip_seed, write_texts
from avion_core.models.narrator import Narrator
from avion_core.models.next_token import mean_losses, token_losses

SEED = 0
"""Of the captions, so that an evaluation repeats."""


class Captions:
    """One sampled caption of each clip against its human narrations, and the likelihood of the first of them.

    Outputs: `rows_N, tokens_NL` (captions with begin and end) and `log_likelihood_N` (mean of the tokens').
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def run(self) -> Measurement:
        narrator = self.subject.narrator()
        clips = narrated_clips(self.subject.files["clips"])
        texts = [clips.texts(row) for row in range(len(clips))]
        self._check_texts(clips, texts)
        found = self.subject.over_clips(clips, _Captioning(narrator, clips, texts))
        rows = found.rows
        log_likelihood_N, tokens_NL = found.outputs[:, 0], found.outputs[:, 1:].astype(np.int64)
        references = [texts[row] for row in rows]
        captions = _decoded(narrator, tokens_NL)
        others = [own[0] for own in [*references[1:], *references[:1]]]  # the next clip's narration
        measured = _scores(captions, references) | {"likelihood": np.exp(log_likelihood_N)}
        figures: dict[str, Any] = {
            **{name: float(score_N.mean()) for name, score_N in measured.items()},
            "chance": {name: float(score_N.mean()) for name, score_N in _scores(others, references).items()}
            | {"likelihood": 1 / narrator.config.language_model.vocabulary},
            "perplexity": float(np.exp(-log_likelihood_N.astype(np.float64)).mean()),
            **clip_counts(clips, found),
            "bad_clips": found.bad_clips(),
        }
        outputs: Arrays = {"rows_N": rows, "tokens_NL": tokens_NL, "log_likelihood_N": log_likelihood_N}
        scores, strict = (_by_clip(clips, rows, measured, unread) for unread in (np.nan, 0))
        return Measurement(figures, outputs, scores, strict)

    def _check_texts(self, clips: ClipTable, texts: Sequence[Sequence[str]]) -> None:
        """Raise EvaluationError for a clip without a narration."""
        for row, own in enumerate(texts):
            if not own or not own[0].strip():
                where = f"clip {row} ({clips.video_id(row)} at {clips.start_s(row):g} s)"
                raise EvaluationError(f"{self.subject.title}: {where} has no text to compare a caption with")


def narrated_clips(path: Path) -> ClipTable:
    """The clips of a table with their texts; of multiple-choice questions, the right choices."""
    if "question_id" not in column_names(path):
        return ClipTable.load(path)
    return ClipTable.from_rows(
        {
            "video_id": question.video_ids[question.answer],
            "start_s": question.starts_s[question.answer],
            "end_s": question.ends_s[question.answer],
            "texts": [question.text],
        }
        for question in load_questions(path)
    )


class _Captioning:
    """For a batch of clips: the mean log-likelihood of the first text's tokens, then a caption's tokens."""

    def __init__(self, narrator: Narrator, clips: ClipTable, texts: Sequence[Sequence[str]]) -> None:
        config = narrator.config
        self.narrator, self.clips = narrator, clips
        self.tokens_AL = tokenize(
            [own[0] for own in texts], config.context_length, tokenizer=config.tokenizer
        )
        self.sampling = TextSampling(texts=1, max_tokens=config.context_length)

    def __call__(self, frames_BTHWC: Tensor, rows: Sequence[int]) -> Tensor:
        frames_BCTHW = self.narrator.normalise(frames_BTHWC)
        tokens_BL = self.tokens_AL[list(rows)].to(frames_BCTHW.device)
        clip_BQD, labels_BL = self.narrator.encode_clip(frames_BCTHW), tokens_BL[:, 1:]
        losses_BL = token_losses(self.narrator.next_token(tokens_BL[:, :-1], clip_BQD), labels_BL)
        log_likelihood_B = -mean_losses(losses_BL, labels_BL)
        seeds = clip_seeds(self.clips, rows, seed=SEED)
        captions = write_texts(self.narrator, clip_BQD, self.sampling, seeds=seeds)
        return torch.cat([log_likelihood_B[:, None], captions.tokens[:, 0].float()], dim=1)


def clip_seeds(clips: ClipTable, rows: Sequence[int], *, seed: int) -> list[int]:
    """Seeds of the texts of these clips."""
    return [clip_seed(seed, clips.video_id(row), clips.start_s(row), clips.end_s(row)) for row in rows]


def _decoded(narrator: Narrator, tokens_NL: npt.NDArray[np.int64]) -> list[str]:
    """Captions as text."""
    language = narrator.config.language_model
    generated = Generated(torch.from_numpy(tokens_NL)[:, None], torch.empty(0))
    words = generated.words(begin=language.begin_token, end=language.end_token)
    return [decode(text, tokenizer=language.tokenizer) for (text,) in words]


def _scores(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, npt.NDArray[np.float64]]:
    return {"cider": cider(captions, references), "rouge_l": rouge_l(captions, references)}


def _by_clip(clips: ClipTable, rows_N: Rows, measured: dict[str, npt.NDArray[Any]], unread: float) -> Scores:
    scores = {name: filled(score_N, rows_N, len(clips), unread) for name, score_N in measured.items()}
    tops = {"cider": CIDER_SCALE}
    return Scores(np.arange(len(clips)), video_numbers(clips), scores, {}, top=1.0, tops=tops)
