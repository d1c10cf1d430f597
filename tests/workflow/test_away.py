"""Data whose source videos are away."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from harness import finished


def test_chunks_outlive_their_sources_with_another_number_of_shards(tmp_path: Path) -> None:
    index = "data/ek100/chunks.parquet"
    finished(tmp_path, index)
    data = tmp_path / "data/ek100"
    before = {path: path.stat().st_mtime_ns for path in data.glob("chunks/*/chunks/*")}
    assert before
    for videos in (data / "raw").glob("*/videos"):
        shutil.rmtree(videos)
    finished(tmp_path, index, overlay={"shards": 3})
    assert len(list(data.glob("chunks/*-of-3.parquet"))) == 3
    assert {path: path.stat().st_mtime_ns for path in data.glob("chunks/*/chunks/*")} == before
    assert json.loads((data / "quarantine.json").read_text()) == []
