"""Shards of narrated clips and their table, with a provider that knows its texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from avion_core.config import NarratorSettings
from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import ClipTable, write_clips
from avion_core.files import read_json
from avion_core.narrate import narrated
from avion_core.narrate.clip_provider import ClipProvider, ClipTexts, ClipWork
from avion_core.narrate.narrated import gather_narrated, narrate_shard
from tests.support.chunk_index import chunk_index

SETTINGS = NarratorSettings.model_validate({"provider": "vision", "window_seconds": 1, "step_seconds": 1})


class Counting(ClipProvider):
    """Narrates clips of two distinct keys by their start; has no words for what starts at 2 s."""

    model: Path | None = None

    def keys(self, clips: pa.Table, chunks: ChunkIndex) -> NDArray[np.uint64]:
        return np.floor(clips["start_s"].to_numpy()).astype(np.uint64) + 7

    def narrate(self, work: ClipWork) -> Iterator[ClipTexts]:
        Counting.model = work.model
        for start in work.clips.take(pa.array(work.places))["start_s"].to_pylist():
            if int(start) == 2:
                yield ClipTexts([], reason="dark", tries=3)
            else:
                yield ClipTexts(
                    [f"#C C counts {int(start)}", "#C C waits for the kettle"], scores=[1.5, 2.5 + int(start)]
                )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    chunk_index(tmp_path, {"a": [120], "b": [60]})
    rows = [
        {
            "video_id": name,
            "start_s": start,
            "end_s": start + 0.5,
            "texts": ["x"],
            "narration_id": f"{name}{start}",
        }
        for name, start in (("b", 1.0), ("a", 0.0), ("a", 2.5))
    ]
    write_clips(tmp_path / "train.arrow", rows)
    monkeypatch.setattr(narrated, "clip_provider_of", Counting)
    return tmp_path


def test_shards_and_their_table_leave_out_the_same_windows(home: Path) -> None:
    clip = {"video_id": "a", "texts": ["x"]}
    write_clips(home / "validation.arrow", [{**clip, "start_s": 1.0, "end_s": 1.7}])
    (home / "other").mkdir()
    write_clips(home / "other" / "validation.arrow", [{**clip, "start_s": 0.0, "end_s": 4.0}])
    held_out = [home / "validation.arrow", home / "other" / "validation.arrow"]
    common = {"settings": SETTINGS, "journal_dir": home / "journal", "held_out": held_out}
    files = (home / "train.arrow", home / "chunks.parquet")
    narrate_shard(*files, **common, shard="1-of-1", model=None, out=home / "1.arrow")
    gather_narrated(*files, [home / "1.arrow"], **common, out=home / "narrated.arrow")
    rows = ClipTable.load(home / "narrated.arrow").arrow().to_pylist()
    places = [(row["video_id"], row["start_s"], row["end_s"]) for row in rows]
    assert places[:4] == [("a", 0.0, 0.5), ("a", 0.0, 1.0), ("a", 1.7, 2.7), ("a", 3.0, 4.0)]


@pytest.mark.parametrize("shards", [1, 2, 3, 9])
def test_the_table_is_the_same_whatever_the_shards(home: Path, shards: int) -> None:
    files = [home / f"{number}.arrow" for number in range(1, shards + 1)]
    for number, out in enumerate(files, 1):
        narrate_shard(
            home / "train.arrow",
            home / "chunks.parquet",
            settings=SETTINGS,
            shard=f"{number}-of-{shards}",
            model=home / "model.safetensors",
            journal_dir=home / "journal",
            out=out,
        )
    gather_narrated(
        home / "train.arrow",
        home / "chunks.parquet",
        files,
        settings=SETTINGS,
        journal_dir=home / "journal",
        out=home / "narrated.arrow",
    )
    found = ClipTable.load(home / "narrated.arrow").arrow().to_pylist()
    places = [(row["video_id"], row["start_s"]) for row in found]
    assert places == [("a", 0.0), ("a", 0.5), ("a", 1.5), ("a", 3.0), ("b", 0.0), ("b", 1.0), ("b", 1.0)]
    for row in found:
        start = int(row["start_s"])
        assert row["texts"] == [f"#C C counts {start}", "#C C waits for the kettle"] and row["scores"] == [
            1.5,
            2.5 + start,
        ]
        assert row["source"] == "narrated"
    assert [row["narration_id"] for row in found].count(None) == 5
    assert (
        home / "dead_letters.csv"
    ).read_text() == "video_id,start_s,end_s,reason,tries\na,2.5,3.0,dark,3\n"
    summary = read_json(home / "summary.json")
    assert (summary["texts"], summary["windows"], summary["reasons"]) == (8, 5, {"dark": 1})
    assert Counting.model == home / "model.safetensors"
