"""EPIC-KITCHENS-100's files: rows, classes, sentences; and the real ones, where they are."""

import os
from pathlib import Path

import numpy as np
import pytest

from avion_core.data import ek100, ek100_files
from avion_core.data.source_videos import SourceError

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
        ("00:02:35.74", "soon", "line 2: column 'start_timestamp': 'soon' is not a time hh:mm:ss"),
        ("00:02:35.74", "02:35.7", "line 2: column 'start_timestamp': '02:35.7' is not a time"),
        ("00:02:35.74", "00:02:nan", "line 2: column 'start_timestamp'"),
        ("00:02:35.74", "00:02:-5", "line 2: column 'start_timestamp'"),
        ("01:02:47.01", "01:62:47.01", "line 2: column 'stop_timestamp'"),
        ("00:02:35.74", "00:0_2:35.74", "line 2: column 'start_timestamp'"),
        ("put-in,5,", "put-in,five,", "line 2: column 'verb_class': 'five' is not a class number"),
        ("put-in,5,", "put-in,97,", "line 2: column 'verb_class': 97 is not in the class list"),
        ("plate,2,", "plate,-1,", "line 2: column 'noun_class': -1 is not in the class list"),
        ("[2, 60]", "[2, 300]", "line 2: column 'all_noun_classes': .*is not in the class list"),
        ("[2, 60]", "[2, 60", "line 2: column 'all_noun_classes': .*is not a list of class numbers"),
        ("[2, 60]", "2", "line 2: column 'all_noun_classes': '2' is not a list of class numbers"),
        ("[2, 60]", "[]", "line 2: column 'all_noun_classes'"),
        ("[2, 60]", "['plate']", "line 2: column 'all_noun_classes'"),
        ("[2, 60]", "[True]", "line 2: column 'all_noun_classes'"),
        (
            "plate,2,\"['plate', 'rack']\",\"[2, 60]\"",
            "plate",
            "line 2: the row ends before column 'noun_class'",
        ),
        ('[2, 60]"', '[2, 60]",x', "line 2: more values than columns"),
        ("P01_11_56,", ",", "line 2: column 'narration_id': it is empty"),
        (",put plate in", ',"put plate in', "line 2: a quotation mark"),
        ("stop_timestamp", "end", "line 1: column 'stop_timestamp' is missing"),
        ("all_nouns,", "verb,", "line 1: column 'verb' is there more than once"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, old, new, message):
    path = tmp_path / "EPIC_100_validation.csv"
    path.write_text((HEADER + ROW).replace(old, new))
    with pytest.raises(SourceError, match=message):
        ek100.read_segments(path, verbs=97, nouns=300)


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
    with pytest.raises(SourceError, match="line 2: column 'narration_id': 'b' is in none of"):
        ek100.read_sentences(path, {})
    path.write_text('narration_id,narration,verb_class,noun_classes\nb,take cup,3,"[1, 2]"\n')
    assert ek100.read_sentences(path, {})[0]["nouns"] == [1, 2]
    path.write_text("narration_id,narration,verb_class,noun_classes\nb,take cup,3,1\n")
    with pytest.raises(SourceError, match="line 2: column 'noun_classes': '1' is not a list"):
        ek100.read_sentences(path, {})
    path.write_text("narration_id,narration\nb,\n")
    with pytest.raises(SourceError, match="line 2: column 'narration': it is empty"):
        ek100.read_sentences(path, clips)


def test_a_test_sentence_is_the_narration_of_its_clip_where_the_file_is_shifted(tmp_path):
    path = tmp_path / "sentence.csv"
    path.write_text("narration_id,narration\na,cut slice\nb,stir\n")
    clips = {
        name: ek100.Segment(name, "v", 0, 1, text, verb, 7, (7,))
        for name, text, verb in (("a", "wash cooker", 2), ("b", "cut slice", 7))
    }
    rows = ek100.read_sentences(path, clips, own_texts=True)
    assert [(row["text"], row["verb"]) for row in rows] == [("wash cooker", 2), ("cut slice", 7)]
    assert [row["text"] for row in ek100.read_sentences(path, clips)] == ["cut slice", "stir"]


def written(folder, **changes):
    """A whole small layout, with other texts for some of its files (by their names without suffix)."""
    names = {Path(name).stem: folder / name for name in ek100_files.ANNOTATIONS}
    texts = {
        "EPIC_100_train": HEADER + ROW,
        "EPIC_100_validation": HEADER + ROW.replace("P01_11_56", "P01_11_57"),
        "EPIC_100_retrieval_train_sentence": "narration_id,narration\nP01_11_56,put plate in rack\n",
        "EPIC_100_retrieval_test_sentence": "narration_id,narration\nP01_11_57,shifted\n",
        "EPIC_100_verb_classes": "id,key,instances\n" + "".join(f"{n},v{n},['a']\n" for n in range(6)),
        "EPIC_100_noun_classes": "id,key,instances\n" + "".join(f"{n},n{n},['a']\n" for n in range(61)),
    }
    (folder / "retrieval_annotations").mkdir(parents=True)
    for name, text in (texts | changes).items():
        names[name].write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def test_only_test_sentences_have_their_clips_texts(tmp_path):
    sentences = ek100.read_annotations(written(tmp_path)).sentences
    assert sentences["test"][0]["text"] == "put plate in rack"
    train = "narration_id,narration\nP01_11_56,another text\n"
    again = written(tmp_path / "again", EPIC_100_retrieval_train_sentence=train)
    assert ek100.read_annotations(again).sentences["train"][0]["text"] == "another text"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "EPIC_100_train",
            (HEADER + ROW.replace("plate", "caf\u00e9")).encode("latin-1"),
            "line 2: not UTF-8",
        ),
        ("EPIC_100_train", HEADER, "it has no rows"),
        ("EPIC_100_validation", HEADER + "P01_11_0,P01,P01_11\n", "line 2: the row ends before column"),
        ("EPIC_100_retrieval_test_sentence", "narration_id,narration\nx,y\n", "line 2: .*'x' is in none of"),
        ("EPIC_100_retrieval_train_sentence", "id,text\nx,y\n", "line 1: column 'narration_id' is missing"),
        (
            "EPIC_100_verb_classes",
            "id,key,instances\n1,take,['take']\n",
            "line 2: column 'id': class 1 where 0",
        ),
        (
            "EPIC_100_verb_classes",
            "id,key,instances\n0,take,take\n",
            "line 2: column 'instances': 'take' is not",
        ),
        ("EPIC_100_noun_classes", "id,key,instances\nx,a,[]\n", "line 2: column 'id'"),
    ],
)
def test_every_file_is_read_before_any_work(tmp_path, name, text, message):
    ek100.check(written(tmp_path / "good"))
    with pytest.raises(SourceError, match=rf"{name}\.csv: {message}"):
        ek100.check(written(tmp_path / "bad", **{name: text}))


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
    sentences = ek100.read_sentences(REAL / "EPIC_100_retrieval_test_sentence.csv", by_id, own_texts=True)
    assert len(sentences) == 3842
    assert [row["text"] for row in sentences[-3:]] == ["looking for something", "count", "stir"]
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
