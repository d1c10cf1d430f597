"""kill -9 of the workflow at work: the same command finishes it, with equal results, repeating nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from harness import copy_workspace, finished, kill_when


def contents(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(pattern))}


def test_transcode_continues_at_the_video(annotated: Path, tmp_path: Path) -> None:
    workspace = copy_workspace(annotated, tmp_path / "workspace")
    for dataset in ("ego4d", "ek100", "kinetics"):
        for name in ("chunks", "clips"):
            shutil.rmtree(workspace / "data" / dataset / name)
        for name in ("chunks.parquet", "quarantine.json"):
            (workspace / "data" / dataset / name).unlink()
    chunks = workspace / "data/ego4d/chunks"

    def written() -> list[Path]:
        return sorted(chunks.glob("*/*.mp4")) if chunks.exists() else []

    kill_when(workspace, "transcode", reached=lambda: len(written()) >= 2)
    before = {path: path.stat().st_mtime_ns for path in written()}
    finished(workspace, "transcode")
    assert len(written()) > len(before)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert contents(workspace, "data/*/chunks/*/*.mp4") == contents(annotated, "data/*/chunks/*/*.mp4")
    assert contents(workspace, "data/*/chunks.parquet") == contents(annotated, "data/*/chunks.parquet")


def test_pretraining_continues_at_the_checkpoint_bit_for_bit(reported: Path, tmp_path: Path) -> None:
    workspace = copy_workspace(reported, tmp_path / "workspace")
    stage = workspace / "results/llm/pretrain"
    shutil.rmtree(stage)
    kill_when(workspace, "pretrain", reached=lambda: any(stage.glob("checkpoints/*/*")))
    assert not (stage / "model.safetensors").exists()
    finished(workspace, "pretrain")
    log = (workspace / "results/logs/train/llm-pretrain.log").read_text()
    assert "resum" in log, log
    undisturbed = reported / "results/llm/pretrain"
    assert (stage / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()

    def losses(folder: Path) -> list[tuple[int, float]]:
        lines = (folder / "train.jsonl").read_text().splitlines()
        return [(json.loads(line)["step"], json.loads(line)["loss"]) for line in lines]

    assert losses(stage) == losses(undisturbed)
    assert not (stage / "checkpoints").exists()
