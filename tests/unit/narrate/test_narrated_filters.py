"""Gathering leaves out the texts that the filters judge so, and counts them."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from avion_core.config import NarratorSettings
from avion_core.data.clips import ClipTable, write_clips
from avion_core.data.tables import write_table
from avion_core.files import read_json
from avion_core.narrate.narrated import FILTERED, NARRATED, gather_narrated
from avion_core.narrate.quality import NO_TAG, REPEATED, UNLIKE
from tests.support.chunk_index import chunk_index

VIDEOS = {"a": [60], "b": [60]}
HUMAN = [("b", 0.0, 1.0, "#C C opens the drawer"), ("a", 0.0, 2.0, "#C C washes a cup")]
TOLD: dict[tuple[str, float], list[str]] = {
    ("a", 0.0): ["#C C washes a cup", "#C C a cup washes", "washes a cup", "#C C opens a drawer"],
    ("b", 0.0): ["#C C closes the drawer", "#C C pulls out the drawer"],
    ("b", 1.0): ["#C C closes the drawer"],
    ("b", 1.5): ["a drawer"],
}
SCORES = {place: [float(k) for k in range(len(texts))] for place, texts in TOLD.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made")
    chunk_index(home, VIDEOS)
    write_clips(
        home / "clips.arrow",
        [
            {"video_id": video, "start_s": start, "end_s": end, "texts": [text], "narration_id": f"id {text}"}
            for video, start, end, text in HUMAN
        ],
    )
    ids = {(video, start): f"id {text}" for video, start, _, text in HUMAN}
    ends = {(video, start): end for video, start, end, _ in HUMAN}
    rows: list[dict[str, Any]] = [
        {
            "video_id": video,
            "start_s": start,
            "end_s": ends.get((video, start), start + 0.5),
            "narration_id": ids.get((video, start)),
            "texts": texts,
            "scores": SCORES[video, start],
            "reason": None,
            "tries": 0,
        }
        for (video, start), texts in TOLD.items()
    ]
    write_table(home / "1-of-1.arrow", rows, NARRATED)
    return home


def gather(made: Path, out: Path, **filters: Any) -> tuple[ClipTable, dict[str, Any]]:
    chosen = {"provider": "vision", "window_seconds": 0.5, "step_seconds": 0.5, "filters": filters}
    gather_narrated(
        made / "clips.arrow",
        made / "chunks.parquet",
        [made / "1-of-1.arrow"],
        settings=NarratorSettings.model_validate(chosen),
        journal_dir=out / "journal",
        out=out / "train.arrow",
    )
    return ClipTable.load(out / "train.arrow"), read_json(out / "summary.json")


def test_texts_are_left_out_with_their_scores_and_counted_with_examples(made, tmp_path):
    table, summary = gather(made, tmp_path)
    assert [(table.video_id(row), table.texts(row)) for row in range(len(table))] == [
        ("a", ["#C C washes a cup", "#C C opens a drawer"]),
        ("b", ["#C C pulls out the drawer"]),
        ("b", ["#C C closes the drawer"]),
    ]
    assert table.arrow()["scores"].to_pylist() == [[0, 3], [1], [0]]
    assert summary["written"] == 8
    assert summary["filtered"] == {NO_TAG: 2, REPEATED: 1, UNLIKE["opposite"]: 1}
    (opposite,) = summary["examples"][UNLIKE["opposite"]]
    human = "#C C opens the drawer"
    assert opposite == {
        "video_id": "b",
        "start_s": 0,
        "end_s": 1,
        "text": "#C C closes the drawer",
        "human": human,
    }
    with (tmp_path / "dead_letters.csv").open() as stream:
        (dead,) = csv.DictReader(stream)
    assert (dead["video_id"], dead["start_s"], dead["reason"]) == ("b", "1.5", FILTERED)


def test_narrated_clips_have_the_tags_of_the_human_ones(made, tmp_path):
    human = ClipTable.load(made / "clips.arrow").arrow()
    tags = [[number, 100] for number in range(len(human))]
    for name in ("verb_tags", "noun_tags"):
        human = human.append_column(name, pa.array(tags, pa.list_(pa.int32())))
    shutil.copytree(made, tmp_path / "made")
    write_clips(tmp_path / "made" / "clips.arrow", human)
    table, _ = gather(tmp_path / "made", tmp_path)
    expected = dict(zip(human["narration_id"].to_pylist(), tags, strict=True))
    ids = table.arrow()["narration_id"].to_pylist()
    assert None in ids and {*ids} == {*expected, None}
    for name in ("verb_tags", "noun_tags"):
        assert table.arrow()[name].to_pylist() == [expected.get(own, []) for own in ids]


def test_without_filters_every_text_stays(made, tmp_path):
    off = {"tagged": False, "least_words": 1, "alike": None, "unlike_human": []}
    table, summary = gather(made, tmp_path, **off)
    assert [table.texts(row) for row in range(len(table))] == [*TOLD.values()]
    assert summary["filtered"] == {} and summary["written"] == 8
    assert not {"verb_tags", "noun_tags"} & {*table.arrow().column_names}


def test_filters_change_no_text_that_is_asked_for(made):
    plain, strict = (
        NarratorSettings.model_validate({"provider": "vision", "filters": {"tagged": tagged}})
        for tagged in (False, True)
    )
    assert plain != strict
    assert plain.recipe() == strict.recipe() and plain.job_settings() == strict.job_settings()
