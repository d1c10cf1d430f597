"""The workflow at work is killed: the same command finishes it, with equal results, repeating nothing."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from harness import PRICES, ChatServer, copy_workspace, finished, kill_when, snakemake


def contents(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(pattern))}


def test_transcode_continues_at_the_chunk(annotated: Path, tmp_path: Path) -> None:
    workspace = copy_workspace(annotated, tmp_path / "workspace")
    for dataset in ("ego4d", "ek100", "kinetics"):
        for name in ("chunks", "clips"):
            shutil.rmtree(workspace / "data" / dataset / name)
        for name in ("chunks.parquet", "quarantine.json"):
            (workspace / "data" / dataset / name).unlink()
    chunks = workspace / "data/ego4d/chunks"

    def written() -> list[Path]:
        return sorted(chunks.glob("*/chunks/*.mp4")) if chunks.exists() else []

    kill_when(workspace, "transcode", reached=lambda: len(written()) >= 2)
    before = {path: path.stat().st_mtime_ns for path in written()}
    finished(workspace, "transcode")
    assert len(written()) > len(before)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    pattern = "data/*/chunks/*/chunks/*.mp4"
    killed, undisturbed = contents(workspace, pattern), contents(annotated, pattern)
    assert killed.keys() == undisturbed.keys()
    # An encoder that begins with a later chunk has another rate control's history, so bytes may differ there.
    other = {Path(name).parent for name in killed if killed[name] != undisturbed[name]}
    assert len(other) <= 2  # the shards' videos in work
    places = ["video_id", "chunk", "start_frame", "frames", "fps_num", "fps_den", "width", "height"]
    for dataset in ("ego4d", "ek100", "kinetics"):
        tables = [pq.read_table(at / "data" / dataset / "chunks.parquet") for at in (workspace, annotated)]
        assert tables[0].select(places).equals(tables[1].select(places))


def test_narration_asks_only_what_was_not_answered(
    annotated: Path, tmp_path: Path, start_server: Callable[..., ChatServer]
) -> None:
    def overlay(server: ChatServer) -> dict[str, Any]:
        shared = {"base_url": server.url, "parallel_requests": 2, **PRICES}
        own = {"provider": "language_model", "language_model": {"model": "test-model"}}
        return {"language_model": shared, "narrate": own}

    key = {"OPENAI_API_KEY": "sk-test"}
    calm, shaken = start_server(), start_server("--delay", "0.1")
    undisturbed = copy_workspace(annotated, tmp_path / "undisturbed")
    finished(undisturbed, "narrate", overlay=overlay(calm), **key)
    workspace = copy_workspace(annotated, tmp_path / "workspace")
    kill_when(workspace, "narrate", reached=lambda: len(shaken.asked()) >= 10, overlay=overlay(shaken), **key)
    assert len(shaken.asked()) < len(calm.asked())
    finished(workspace, "narrate", overlay=overlay(shaken), **key)
    tables = "data/ego4d/narrations/openai/*.arrow"
    assert contents(workspace, tables) == contents(undisturbed, tables)
    in_flight = 2 * 2  # shards at once, requests each
    assert sorted(set(shaken.asked())) == sorted(calm.asked())
    assert len(shaken.asked()) <= len(calm.asked()) + in_flight


def test_pretraining_continues_at_the_checkpoint_bit_for_bit(annotated: Path, tmp_path: Path) -> None:
    model = "results/llm/pretrain/model.safetensors"
    whole = copy_workspace(annotated, tmp_path / "undisturbed")
    finished(whole, model)
    workspace = copy_workspace(whole, tmp_path / "workspace")
    undisturbed, stage = ((folder / model).parent for folder in (whole, workspace))
    shutil.rmtree(stage)
    kill_when(workspace, model, reached=lambda: any(stage.glob("checkpoints/*/step-*")))
    assert not (stage / "model.safetensors").exists()
    finished(workspace, model)
    log = (workspace / "results/logs/train/llm-pretrain.log").read_text()
    assert re.search(r"resumed after step [1-9]\d* of 12", log), log
    assert (stage / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()

    def losses(folder: Path) -> list[tuple[int, float]]:
        lines = (folder / "train.jsonl").read_text().splitlines()
        return [(json.loads(line)["step"], json.loads(line)["loss"]) for line in lines]

    assert losses(stage) == losses(undisturbed)
    assert not (stage / "checkpoints").exists()


@pytest.mark.parametrize(("processes", "number"), [(1, signal.SIGUSR1), (2, signal.SIGTERM)])
def test_a_queues_signal_to_all_of_the_workflow_lets_a_training_save_and_log_it(
    annotated: Path, tmp_path: Path, number: int, processes: int
) -> None:
    workspace = copy_workspace(annotated, tmp_path / "workspace")
    pretrain = {"epochs": 300, "checkpoint_every_steps": 900, "processes": processes}
    runs = {"one": {"title": "One", "stages": {"pretrain": pretrain}, "evaluations": []}}
    curve, log = (workspace / "results" / name for name in ("one/pretrain", "logs/train/one-pretrain.log"))

    def trains() -> bool:
        return any(file.stat().st_size for file in curve.glob("**/train.jsonl"))

    kill_when(
        workspace,
        "pretrain",
        reached=trains,
        overlay={"selected_runs": ["one"], "runs": runs},
        number=number,
    )
    saved = re.search(r"asked to stop; saved after step (\d+) of", log.read_text())
    assert saved, (workspace / "killed.log").read_text()[-6000:]
    assert [int(path.name[5:]) for path in curve.glob("checkpoints/*/step-*")] == [int(saved[1])]


def test_second_workflow_over_a_living_one_is_refused(tmp_path: Path) -> None:
    answers = []

    def second_was_tried() -> bool:
        if (tmp_path / ".snakemake/owner.json").exists():
            answers.append(snakemake(tmp_path, "annotate"))
        return bool(answers)

    kill_when(tmp_path, "annotate", reached=second_was_tried)
    assert answers[0].returncode != 0
    assert "cannot be locked" in answers[0].stdout


def test_ctrl_c_twice_makes_trainings_save_and_ends_in_three_lines(annotated: Path, tmp_path: Path) -> None:
    """A terminal sends it to Snakemake, its shells, torchrun, its processes and their loaders at once."""
    workspace, model = (
        copy_workspace(annotated, tmp_path / "workspace"),
        "results/llm/pretrain/model.safetensors",
    )
    training = {"processes": 2, "loader_workers": 1, "epochs": 8, "checkpoint_every_steps": 1000}
    overlay = {"stages": {"pretrain": {**training, "log_every_steps": 1}}}
    logs = (workspace / "results/llm/pretrain").glob
    kill_when(
        workspace,
        model,
        reached=lambda: any(path.stat().st_size for path in logs("**/train.jsonl")),
        overlay=overlay,
        number=signal.SIGINT,
        times=2,
    )
    screen = (workspace / "killed.log").read_text()
    assert "Traceback" not in screen
    assert max(len(line) for line in screen.splitlines() if not line.startswith("  Command: ")) < 400
    stopped, kept, way_on = screen.splitlines()[-3:]
    saved = re.fullmatch(r"Kept: every finished job; llm/pretrain saved after step (\d+) of 48\.", kept)
    assert saved, kept
    assert (stopped, way_on) == ("Stopped.", "The same command goes on from there.")
    finished(workspace, model, overlay=overlay)
    log = (workspace / "results/logs/train/llm-pretrain.log").read_text()
    assert f"resumed after step {saved[1]} of 48" in log
