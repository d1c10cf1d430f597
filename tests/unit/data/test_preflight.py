import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avion_core.config import TranscodeSettings
from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import Question, write_clips, write_questions
from avion_core.data.preflight import Preflight, check_dataset
from avion_core.files import write_json
from avion_core.media.chunk_table import read_chunk_table
from avion_core.report.preflight import write_page
from tests.support.chunked import transcode_all
from tests.support.counted_video import write_counted


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two videos of two seconds as chunks of one second, and a sound clip table."""
    names = ["a", "b"]
    paths = [str(write_counted(tmp_path / f"{name}.mp4", 60, width=96, height=64)) for name in names]
    pq.write_table(pa.table({"video_id": names, "path": paths, "bytes": [1, 1]}), tmp_path / "videos.parquet")
    transcode_all(tmp_path, TranscodeSettings(chunk_seconds=1, short_side_px=64, preset="ultrafast"))
    write_json(tmp_path / "dropped.json", {"clips": 0, "reasons": {}, "tables": {}})
    write_clips(tmp_path / "train.arrow", [clip("a", 0, 1), clip("b", 0.5, 1.5), clip("b", 1, 2)])
    return tmp_path


def clip(video_id: str, start_s: float, end_s: float) -> dict:
    return {"video_id": video_id, "start_s": start_s, "end_s": end_s, "texts": ["a text"]}


def look(home: Path, table: str = "train", *, samples: int = 10, **options: Any) -> Preflight:
    arguments = {"dropped": home / "dropped.json", "needed": {}, "seed": 0, "clip_timeout_s": 60.0, **options}
    tables = {table: home / f"{table}.arrow"}
    return check_dataset("kitchen", home / "chunks.parquet", tables, samples=samples, **arguments)


def check(home: Path, table: str = "train", **options: Any) -> dict[str, tuple[str, int, str]]:
    found = look(home, table, **options)
    write_page([found], out=home / "page.html")
    return {problem.what: (problem.where, problem.count, problem.example) for problem in found.problems}


def test_nothing_is_found_where_nothing_is_wrong(home):
    found = look(home, samples=2)
    assert (found.tables[0].clips, found.chunks, found.decoded, found.problems) == (3, 4, 2, [])
    write_page([found], out=home / "page.html")
    assert "Nothing found that would fail" in (home / "page.html").read_text()


def test_each_kind_of_problem_is_counted_with_an_example(home):
    rows = [clip("a", 0, 1), clip("gone", 0, 1), clip("b", 1, 3.5)]
    write_clips(home / "train.arrow", (pa.Table.from_pylist([row]) for row in rows))  # a batch each
    problems = check(home)
    assert problems.keys() == {
        "clips are of videos that have no chunks",
        "clips end more than a second after their video",
        "sampled clips cannot be decoded",
    }
    assert problems["clips are of videos that have no chunks"] == (
        "train",
        1,
        "row 1: 0.00 to 1.00 s of gone",
    )
    late = problems["clips end more than a second after their video"]
    assert late == ("train", 1, "row 2: 1.00 to 3.50 s of b, which has 2.00 s")
    assert "<code>row 1: 0.00 to 1.00 s of gone</code>" in (home / "page.html").read_text()


def test_a_chunk_that_is_gone_and_one_that_was_changed_are_found(home):
    first, second, *_ = read_chunk_table(home / "chunks.parquet")["path"].to_pylist()
    Path(first).unlink()
    content = bytearray(Path(second).read_bytes())
    content[len(content) // 2] ^= 0xFF
    Path(second).write_bytes(content)  # the same size: only a decode can tell
    write_clips(home / "train.arrow", [clip("a", 0, 1), clip("a", 1, 2), clip("b", 0, 1)])
    problems = check(home)
    assert problems["chunk files are gone or changed"][:2] == ("chunks", 1)
    assert problems["sampled clips cannot be decoded"][1] >= 1


def test_the_choices_of_questions_are_clips_too(home):
    question = Question("q", 1, "a text", 0, ["a", "b", "gone"], [0.0, 0.5, 0.0], [1.0, 1.0, 1.0])
    write_questions(home / "egomcq.arrow", [vars(question)])
    assert check(home, "egomcq")["clips are of videos that have no chunks"] == (
        "egomcq",
        1,
        "row 2: 0.00 to 1.00 s of gone",
    )


def test_a_clip_that_hangs_is_a_clip_that_cannot_be_decoded(home, monkeypatch):
    monkeypatch.setattr(ChunkIndex, "read", lambda *arguments, **options: time.sleep(5))
    found = look(home, samples=1, clip_timeout_s=0.05)
    assert [problem.what for problem in found.problems] == ["sampled clips cannot be decoded"]
    assert "took longer than 0.05 seconds" in found.problems[0].example


def test_clips_that_were_left_out_are_shown_for_each_table(home):
    reasons = {"train": {"the video has no chunks": 7, "the clip lies outside its video": 2}, "val": {"x": 1}}
    write_json(home / "dropped.json", {"clips": 10, "reasons": {}, "tables": reasons})
    found = look(home)
    assert found.tables[0].dropped == reasons["train"] and found.problems == []
    check(home)
    page = (home / "page.html").read_text()
    assert "the video has no chunks: 7; the clip lies outside its video: 2" in page


def test_an_empty_table_and_one_that_fills_no_batch_are_problems(home):
    write_json(home / "dropped.json", {"clips": 4, "reasons": {}, "tables": {"train": {"why": 4}}})
    assert look(home, needed={"train": 3}).problems == []
    found = check(home, needed={"train": 4})
    assert found == {"clips do not fill a batch": ("train", 3, "4 are needed; left out: why: 4")}
    write_clips(home / "train.arrow", [])
    assert check(home) == {"clips: the table is empty": ("train", 0, "1 are needed; left out: why: 4")}
