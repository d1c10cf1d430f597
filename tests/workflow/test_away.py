"""Data whose source videos are away."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from harness import copy_workspace, finished, planned_jobs

INDEX = "data/ek100/chunks.parquet"


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos that are not transcoded yet."""
    folder = tmp_path_factory.mktemp("fetched")
    finished(folder, "data/ek100/videos.parquet")
    return folder


def test_chunks_outlive_their_sources_with_another_number_of_shards(fetched: Path, tmp_path: Path) -> None:
    workspace = copy_workspace(fetched, tmp_path / "workspace")
    finished(workspace, INDEX)
    data = workspace / "data/ek100"
    before = {path: path.stat().st_mtime_ns for path in data.glob("chunks/*/chunks/*")}
    assert before
    for videos in (data / "raw").glob("*/videos"):
        shutil.rmtree(videos)
    finished(workspace, INDEX, overlay={"shards": 3})
    assert len(list(data.glob("chunks/*-of-3.parquet"))) == 3
    assert {path: path.stat().st_mtime_ns for path in data.glob("chunks/*/chunks/*")} == before
    assert json.loads((data / "quarantine.json").read_text()) == []


def test_a_video_that_is_back_is_transcoded_by_itself(fetched: Path, tmp_path: Path) -> None:
    """Away is also what a synchronised folder leaves of a file: nothing but its name."""
    workspace = copy_workspace(fetched, tmp_path / "workspace")
    data = workspace / "data/ek100"
    video = min((data / "raw").glob("*/videos/*"))
    video.rename(tmp_path / "elsewhere")
    video.touch()
    finished(workspace, INDEX)
    (refused,) = json.loads((data / "quarantine.json").read_text())
    assert refused["away"] and not planned_jobs(workspace, INDEX)
    (tmp_path / "elsewhere").replace(video)
    assert planned_jobs(workspace, INDEX) == {"transcode_videos": 1, "gather_chunks": 1}
    finished(workspace, INDEX)
    assert json.loads((data / "quarantine.json").read_text()) == []
    assert not planned_jobs(workspace, INDEX)
