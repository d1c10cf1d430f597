"""What some losses are told about each clip of a batch."""

import numpy as np
import pytest

from avion_core.data.clips import ClipTable
from avion_core.train.entries import RowEntries

CLIP = {"video_id": "a", "start_s": 0.0, "end_s": 1.0, "texts": ["x"]}


def test_tags_are_multi_hot_over_the_classes_of_the_table():
    tags = [([2], [0, 3]), ([], []), (None, None), ([0, 1], [1])]
    rows = [{**CLIP, "verb_tags": verbs, "noun_tags": nouns} for verbs, nouns in tags]
    found = RowEntries(ClipTable.from_rows(rows), ["verb_tags", "noun_tags"])
    assert [np.flatnonzero(found(row)["verb_tags"]).tolist() for row in range(4)] == [[2], [], [], [0, 1]]
    assert [np.flatnonzero(found(row)["noun_tags"]).tolist() for row in range(4)] == [[0, 3], [], [], [1]]
    assert (found(1)["verb_tags"].shape, found(1)["noun_tags"].shape) == ((3,), (4,))


def test_narrated_clips_are_told_from_others():
    rows = [{**CLIP, "source": source} for source in ("human", "rephrased", "narrated")]
    found = RowEntries(ClipTable.from_rows(rows), ["narrated"])
    assert [found(row)["narrated"].tolist() for row in range(3)] == [False, False, True]
    without = RowEntries(ClipTable.from_rows([CLIP]), ["narrated"])
    assert not without(0)["narrated"]


@pytest.mark.parametrize("tags", [{}, {"verb_tags": [], "noun_tags": []}])
def test_clips_without_tags_are_refused_with_the_way_out(tags):
    with pytest.raises(
        ValueError, match=r"no clip has noun tags, which this loss needs.*egoclip.*tags: none"
    ):
        RowEntries(ClipTable.from_rows([{**CLIP, **tags}]), ["noun_tags"])


def test_an_unknown_entry_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'verb_tags'"):
        RowEntries(ClipTable.from_rows([CLIP]), ["verb_tag"])
