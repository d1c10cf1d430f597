"""Clip, sentence and question tables keep what was put in, and refuse what does not fit their schema."""

import numpy as np
import pyarrow as pa
import pytest

from avion_core.data.clips import (
    ClipTable,
    Question,
    Sentences,
    load_questions,
    write_clips,
    write_questions,
    write_sentences,
)
from avion_core.data.tables import TableError, write_table

ROWS = [
    {
        "video_id": "a",
        "start_s": 0.5,
        "end_s": 1.5,
        "texts": ["take cup", "grab cup"],
        "verb": 3,
        "nouns": [7, 1],
    },
    {"video_id": "b", "start_s": 2.0, "end_s": 2.5, "texts": ["open box"], "verb": 0, "nouns": [2]},
]


def test_a_written_table_reads_back(tmp_path):
    write_clips(tmp_path / "train.arrow", ROWS)
    clips = ClipTable.load(tmp_path / "train.arrow")
    assert len(clips) == 2
    assert (clips.video_id(1), clips.start_s(1), clips.end_s(1)) == ("b", 2.0, 2.5)
    assert clips.texts(0) == ["take cup", "grab cup"]
    assert clips.nouns(0) == [7, 1]
    np.testing.assert_array_equal(clips.column("verb"), [3, 0])
    assert clips.column("verb").dtype == np.int64
    assert clips.first_without_text() is None


def test_tables_are_joined_in_order_and_lacking_columns_are_absent(tmp_path):
    write_clips(tmp_path / "one.arrow", ROWS)
    bare = [{"video_id": "c", "start_s": 0.0, "end_s": 1.0, "texts": []}]
    write_clips(tmp_path / "two.arrow", bare)
    clips = ClipTable.load(tmp_path / "one.arrow", tmp_path / "two.arrow")
    assert [clips.video_id(row) for row in range(3)] == ["a", "b", "c"]
    assert clips.texts(2) == []
    assert not clips.has("verb")
    with pytest.raises(TableError, match="no column 'verb'"):
        clips.column("verb")


def test_rows_are_found_in_every_batch(tmp_path):
    def batches():
        for first in range(0, 90, 3):
            rows = [
                {"video_id": f"v{row}", "start_s": row / 2, "end_s": row / 2 + 1, "texts": ["a"] * (87 - row)}
                for row in range(first, first + 3)
            ]
            yield pa.Table.from_pylist(rows)

    write_clips(tmp_path / "train.arrow", batches())
    clips = ClipTable.load(tmp_path / "train.arrow")
    assert clips.arrow()["texts"].num_chunks == 30
    for row in range(90):
        assert (clips.video_id(row), clips.start_s(row), clips.end_s(row)) == (
            f"v{row}",
            row / 2,
            row / 2 + 1,
        )
        assert len(clips.texts(row)) == max(87 - row, 0)
    assert clips.first_without_text() == 87


def test_an_empty_table_has_the_required_columns(tmp_path):
    write_clips(tmp_path / "train.arrow", [])
    assert len(ClipTable.load(tmp_path / "train.arrow")) == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"video_id": "a", "start_s": 0.0, "end_s": 1.0, "texts": [], "verbs": 1}, "unknown columns.*verbs"),
        ({"video_id": "a", "start_s": "soon", "end_s": 1.0, "texts": []}, "does not fit"),
        ({"video_id": None, "start_s": 0.0, "end_s": 1.0, "texts": []}, "video_id.*without a value"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_published(tmp_path, row, message):
    with pytest.raises(TableError, match=message):
        write_clips(tmp_path / "train.arrow", [row])
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_required_column_is_named(tmp_path):
    write_table(tmp_path / "odd.arrow", [{"video_id": "a"}], pa.schema([("video_id", pa.string())]))
    with pytest.raises(TableError, match=r"odd\.arrow: missing column 'start_s'"):
        ClipTable.load(tmp_path / "odd.arrow")


def test_sentences_and_questions_read_back(tmp_path):
    rows = [{"sentence_id": 0, "text": "take cup", "verb": 3, "nouns": [7, 1]}]
    write_sentences(tmp_path / "sentences.arrow", rows)
    sentences = Sentences.load(tmp_path / "sentences.arrow")
    assert (sentences.texts, sentences.verbs.tolist(), sentences.nouns) == (["take cup"], [3], [[7, 1]])
    question = Question("0", 2, "C takes the cup", 1, list("abcde"), [0.0] * 5, [1.0] * 5)
    write_questions(tmp_path / "egomcq.arrow", [question.__dict__])
    assert load_questions(tmp_path / "egomcq.arrow") == [question]
