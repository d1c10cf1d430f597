"""Relevancy of a training batch's clips to its sentences, computed on the model's device at each step.

It equals `avion_core.evaluate.relevancy`, value for value. Only a row of classes per clip and sentence is
kept (20 MB for the clips of EPIC-KITCHENS-100); a matrix of all pairs would take a GB.

Shapes: N clips and M sentences of a batch, C noun classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from avion_core.data.clips import ClipTable, Sentences


class PairRelevancy:
    """Function from rows of the clip table and of the sentences to the relevancy of every pair."""

    def __init__(self, clips: ClipTable, sentences: Sentences, *, device: torch.device) -> None:
        """Raises ValueError (a TableError) if the clips have no verb and noun classes."""
        clip_nouns = [clips.nouns(row) for row in range(len(clips))]
        classes = 1 + max((noun for nouns in (*clip_nouns, *sentences.nouns) for noun in nouns), default=0)
        self._clip_verbs = torch.from_numpy(clips.column("verb")).to(device)
        self._clip_nouns = _members(clip_nouns, classes).to(device)
        self._sentence_verbs = torch.from_numpy(sentences.verbs).to(device)
        self._sentence_nouns = _members(sentences.nouns, classes).to(device)

    def __call__(self, rows_N: Tensor, text_ids_M: Tensor) -> Tensor:
        """float32 N,M in 0…1, without a gradient: the mean of verb equality and noun-set IoU."""
        left_NC, right_MC = self._clip_nouns[rows_N].float(), self._sentence_nouns[text_ids_M].float()
        shared_NM = left_NC @ right_MC.T  # small whole numbers, exact under autocast too
        union_NM = left_NC.sum(dim=1)[:, None] + right_MC.sum(dim=1) - shared_NM
        iou_NM = torch.where(union_NM > 0, shared_NM / union_NM, 1.0)
        return 0.5 * (iou_NM + (self._clip_verbs[rows_N][:, None] == self._sentence_verbs[text_ids_M]))


def _members(sets: Sequence[Sequence[int]], classes: int) -> Tensor:
    """The classes in each set, bool[sets, classes]."""
    holds = np.zeros((len(sets), classes), bool)
    rows = np.repeat(np.arange(len(sets)), [len(members) for members in sets])
    holds[rows, [member for members in sets for member in members]] = True
    return torch.from_numpy(holds)
