"""EPIC-KITCHENS-100's files: rows, classes, sentences; and the real ones, where they are."""

import os
from pathlib import Path

import numpy as np
import pytest

from avion_core.data import ek100
from avion_core.data.sources import SourceError

HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,"
    "stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)
ROW = (
    "P01_11_56,P01,P01_11,00:02:36.530,00:02:35.74,01:02:47.01,9344,10020,put plate in rack,put-in,5,"
    "plate,2,\"['plate', 'rack']\",\"[2, 60]\"\n"
)

REAL = Path(os.environ.get("EK100_ANNOTATIONS", Path(__file__).resolve().parents[4] / "shared/data/ek100"))
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real annotation files are not here")


def test_a_row_is_read(tmp_path):
    path = tmp_path / "EPIC_100_validation.csv"
    path.write_text(HEADER + ROW)
    (segment,) = ek100.read_segments(path)
    assert segment == ek100.Segment(
        "P01_11_56", "P01_11", 155.74, 3767.01, "put plate in rack", 5, 2, (2, 60)
    )
    assert segment.action == "5:2"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("00:02:35.74", "soon", "line 2: column 'start_timestamp': 'soon' cannot be read"),
        ("[2, 60]", "[2, 60", "line 2: column 'all_noun_classes'"),
        ("stop_timestamp", "end", "column 'stop_timestamp' is missing"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, old, new, message):
    path = tmp_path / "EPIC_100_validation.csv"
    path.write_text((HEADER + ROW).replace(old, new))
    with pytest.raises(SourceError, match=message):
        ek100.read_segments(path)


def test_action_classes_are_sorted_as_text():
    def segment(verb, noun):
        return ek100.Segment("", "", 0, 1, "", verb, noun, (noun,))

    classes = ek100.action_classes([segment(2, 3), segment(10, 3)], [segment(2, 11), segment(2, 3)])
    assert classes == ["10:3", "2:11", "2:3"]


def test_a_sentence_has_the_classes_of_its_clip(tmp_path):
    path = tmp_path / "sentence.csv"
    path.write_text("narration_id,narration\nb,take cup\n")
    clips = {"b": ek100.Segment("b", "v", 0, 1, "take mug", 0, 13, (13, 4))}
    assert ek100.read_sentences(path, clips) == [
        {"sentence_id": 0, "text": "take cup", "verb": 0, "nouns": [13, 4]}
    ]
    with pytest.raises(SourceError, match="line 2: narration_id 'b' is in none of"):
        ek100.read_sentences(path, {})
    path.write_text('narration_id,narration,verb_class,noun_classes\nb,take cup,3,"[1, 2]"\n')
    assert ek100.read_sentences(path, {})[0]["nouns"] == [1, 2]


def test_missing_files_are_listed(tmp_path):
    with pytest.raises(
        SourceError, match=r"EPIC_100_train\.csv, EPIC_100_validation\.csv, retrieval_annotations/"
    ):
        ek100.check(tmp_path)


@needs_real
def test_the_real_validation_split():
    segments = ek100.read_segments(REAL / "EPIC_100_validation.csv")
    assert len(segments) == 9668
    assert len({segment.video_id for segment in segments}) == 138
    assert all(segment.nouns[0] == segment.noun for segment in segments)
    by_id = {segment.narration_id: segment for segment in segments}
    sentences = ek100.read_sentences(REAL / "EPIC_100_retrieval_test_sentence.csv", by_id)
    assert len(sentences) == 3842
    assert {segment.text for segment in segments} == {sentence["text"] for sentence in sentences}


@needs_real
def test_the_real_class_lists_and_training_sentences():
    verbs, nouns = (ek100.read_class_list(REAL / f"EPIC_100_{kind}_classes.csv") for kind in ("verb", "noun"))
    assert (len(verbs), len(nouns)) == (97, 300)
    assert (verbs[0].key, nouns[1].key) == ("take", "spoon")
    assert "pick-up" in verbs[0].instances
    sentences = ek100.read_sentences(REAL / "EPIC_100_retrieval_train_sentence.csv", {})
    assert len(sentences) == 15989
    assert max(np.max(row["nouns"]) for row in sentences) < 300
