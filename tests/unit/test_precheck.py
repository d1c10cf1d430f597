"""What would fail later is one list before any job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avion_core.config import load_settings
from avion_core.configfile import lay_over, read_config
from avion_core.precheck import problems
from avion_core.workflow import Workflow

ROOT = Path(__file__).parents[2]
DEMO = read_config(ROOT / "config.yaml")


def found(overlay: dict[str, Any], *runs: str) -> list[str]:
    """Problems of the demo with this overlay."""
    return problems(Workflow(load_settings(lay_over(DEMO, overlay)), runs))


def test_the_demo_has_no_problems() -> None:
    assert found({}) == []


def test_every_problem_is_listed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    overlay = {
        "narrate": {"provider": "openai"},
        "datasets": {"ek100": {"layout": "ek100", "source": "local", "local": {"path": "nowhere"}}},
        "stages": {"pretrain": {"start_weights": "wieghts/vit.pt"}, "finetune_cls": {"image_size_px": 90}},
    }
    lines = found(overlay)
    for word in ("OPENAI_API_KEY", "nowhere", "wieghts/vit.pt: no such file", "image_size_px (90)"):
        assert sum(word in line for line in lines) >= 1, lines
    assert found(overlay, "scratch") == []


def test_an_ffmpeg_that_is_not_there_stops_a_run_with_videos_to_transcode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVION_FFMPEG", str(tmp_path / "ffmpeg"))
    overlay = {"data_dir": str(tmp_path)}
    [line] = found(overlay)
    assert "unset AVION_FFMPEG" in line
    for dataset in ("ego4d", "ek100", "kinetics"):
        (tmp_path / dataset).mkdir()
        (tmp_path / dataset / "chunks.parquet").touch()
    assert found(overlay) == []
