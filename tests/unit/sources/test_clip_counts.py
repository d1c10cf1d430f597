"""How many clips the tables can have is known from annotations and file names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from avion_core.config import DatasetSettings
from avion_core.sources.download import DataSet
from tests.support.epic import write_epic


def local(layout: str, origin: Path) -> DatasetSettings:
    return DatasetSettings.model_validate(
        {"layout": layout, "source": "local", "local": {"path": str(origin)}}
    )


def clips_at_most(settings: DatasetSettings, recorded: list[str]) -> dict[str, int]:
    return DataSet("it", settings, Path("nowhere")).source().clips_at_most(recorded)


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_epic_kitchens_counts_the_clips_of_videos_that_are_there(tmp_path: Path) -> None:
    write_epic(tmp_path)
    settings = local("ek100", tmp_path)
    assert clips_at_most(settings, []) == {"train": 0, "validation": 0}
    touched(tmp_path / "P01/videos/P01_01.MP4")
    assert clips_at_most(settings, []) == {"train": 2, "validation": 0}
    assert clips_at_most(settings, ["P01_02", "P02_01"]) == {"train": 3, "validation": 1}  # away


def test_kinetics_counts_listed_clips(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a.mp4 1 0\nb.mp4 1 0\n")
    (tmp_path / "val.txt").write_text("c.mp4 1 0\n")
    (tmp_path / "classes.txt").write_text("wash\n")
    touched(tmp_path / "b.mp4")
    assert clips_at_most(local("kinetics", tmp_path), []) == {"train": 1, "val": 0}


def test_ego4d_counts_questions_whose_videos_are_all_there(tmp_path: Path) -> None:
    settings = local("ego4d", tmp_path)
    touched(tmp_path / "v2/annotations/narration.json").write_text('{"videos": {}}')
    assert clips_at_most(settings, []) == {"egomcq": 0}
    choices = {str(n): {"video_uid": f"v{n % 2}", "clip_start": 0, "clip_end": 1} for n in range(5)}
    question = {"answer": 0, "types": 1, "query": {"clip_text": "#C C takes a cup"}, "choices": choices}
    (tmp_path / "egomcq.json").write_text(json.dumps({"q": question}))
    touched(tmp_path / "v2/full_scale/v0.mp4")
    assert clips_at_most(settings, []) == {"egomcq": 0}
    touched(tmp_path / "v2/full_scale/v1.mp4")
    assert clips_at_most(settings, []) == {"egomcq": 1}
    download: dict[str, Any] = {"layout": "ego4d", "source": "ego4d"}
    assert clips_at_most(DatasetSettings.model_validate(download), []) == {"egomcq": 0}
    with_questions = {**download, "ego4d": {"egomcq": "egomcq.json"}}
    assert clips_at_most(DatasetSettings.model_validate(with_questions), []) == {}  # not known yet


@pytest.mark.parametrize(
    ("rows", "fraction", "counts"),
    [
        ("a.mp4,0,1,x,train\na.mp4,1,2,x,validation\n", 0.2, {"train": 1, "validation": 1}),
        ("a.mp4,0,1,x,\nb.mp4,1,2,x,\n", 0.0, {"train": 2, "validation": 0}),
        ("a.mp4,0,1,x,\nb.mp4,1,2,x,\n", 1.0, {"train": 0, "validation": 2}),
    ],
)
def test_a_folder_counts_rows_by_split(
    tmp_path: Path, rows: str, fraction: float, counts: dict[str, int]
) -> None:
    (tmp_path / "n.csv").write_text("video,start,end,text,split\n" + rows)
    files = {
        "videos": str(tmp_path),
        "narrations": str(tmp_path / "n.csv"),
        "validation_fraction": fraction,
    }
    settings = {"layout": "folder", "source": "folder", "folder": files}
    assert clips_at_most(DatasetSettings.model_validate(settings), []) == counts
