"""Clips narrated by a server that looks, through the workflow; and kills that pay for nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pytest
from harness import PRICES, PYTHON, ROOT, ChatServer, wait_until

from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import ClipTable, write_clips
from avion_core.data.tables import map_table
from avion_core.media.crop import center_crop
from avion_core.media.sample import frame_range, segment_frames
from avion_core.narrate.bill import total
from avion_core.narrate.ledger import read_ledgers
from avion_core.narrate.narrated import NARRATED
from tests.support.chunk_index import chunk_index
from tests.support.warm_python import wait_for_forks_in

PARALLEL = 4

SHELL = {"OPENAI_API_KEY": "none", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


@pytest.fixture
def start_vision(tmp_path: Path) -> Iterator[Callable[..., ChatServer]]:
    """Start a server process that looks; it is stopped by its process id at the end."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*flags: str) -> ChatServer:
        files = ["--port-file", str(tmp_path / "port"), "--log", str(tmp_path / "log")]
        command = [sys.executable, "-m", "tests.support.vision_server", *files, *flags]
        running.append(subprocess.Popen(command, cwd=ROOT))
        wait_until((tmp_path / "port").exists, "the server's port")
        return ChatServer(f"http://127.0.0.1:{(tmp_path / 'port').read_text()}/v1", tmp_path / "log")

    yield start
    for process in running:
        process.kill()
        process.wait()


def overlay(server: ChatServer, **vision: Any) -> dict[str, Any]:
    own = {"base_url": server.url, "model": "m", "image_size_px": 64, **PRICES, **vision}
    stage = {"narrations": ["human", "rephrased", "narrated"], "epochs": 1}
    return {
        "narrator": {"provider": "vision", "texts_per_clip": 2, "vision": own},
        "runs": {"told": {"title": "Told", "stages": {"pretrain": stage}, "evaluations": ["egomcq"]}},
        "selected_runs": ["told"],
    }


def shown(server: ChatServer) -> list[str]:
    """What each answered request about a clip showed."""
    lines = [line for line in server.requests() if line["said"] == "ok" and line["images"]]
    return ["+".join(line["images"]) for line in lines if not line["probe"]]


def test_clips_and_windows_are_estimated_narrated_trained_on_and_reported(annotated, tmp_path, start_vision):
    folder = harness.copy_workspace(annotated, tmp_path / "workspace")
    server = start_vision()
    chosen = overlay(server)
    said = harness.finished(folder, "estimate", overlay=chosen)
    line = next(line for line in said.splitlines() if "distinct clips" in line)
    requests, images = (int(line.split(f" {word}")[0].split()[-1]) for word in ("requests", "images"))
    assert images == 4 * requests and "MB to send" in line and "all together: " in said
    assert not server.requests(), "the estimate sends nothing"

    assert harness.planned_jobs(folder, "narrate", overlay=chosen)["narrate_clips"] == 2
    harness.finished(folder, overlay=chosen, **SHELL)
    assert len(shown(server)) == len(set(shown(server))) == requests
    assert sum(line["probe"] for line in server.requests()) == 1, "one probe for both shards"

    home = folder / "data/ego4d"
    narrated, human = (
        ClipTable.load(home / name) for name in ("narrations/vision/train.arrow", "clips/train.arrow")
    )
    assert len(narrated) > len(human)
    chunks = ChunkIndex.load(home / "chunks.parquet")
    for row in range(0, len(narrated), 7):
        told = np.array([text.split()[-3:] for text in narrated.texts(row)]).astype(int)
        assert np.abs(told - mean_colour(narrated, row, chunks)).max() <= 3
    page = (folder / "results/report/index.html").read_text()
    assert "narrated by vision" in page and f"{len(narrated)} clips narrated from their frames" in page
    assert harness.planned_jobs(folder, overlay=chosen) == {}
    cheaper = {**chosen, "narrator": {**chosen["narrator"], "max_failed_share": 0.9}}
    assert harness.planned_jobs(folder, "pretrain", overlay=cheaper) == {}, "limits trigger no rerun"


def mean_colour(clips: ClipTable, row: int, chunks: ChunkIndex) -> np.ndarray:
    """Mean colour of the four frames of a clip, cropped from the centre."""
    name = clips.video_id(row)
    start, end = frame_range(
        clips.start_s(row),
        clips.end_s(row),
        fps=float(chunks.fps(name)),
        frame_count=chunks.frame_count(name),
    )
    frames = chunks.read(
        name, segment_frames(start, end, 4), crop=center_crop(*chunks.size(name)), size_px=64
    )
    return frames.reshape(-1, 3).mean(0)


def start_shard(home: Path, server: ChatServer, **more: Any) -> subprocess.Popen[bytes]:
    """The rule's program on the first of one shards."""
    vision = {
        "base_url": server.url,
        "model": "m",
        "image_size_px": 64,
        **PRICES,
        "parallel_requests": PARALLEL,
        **more,
    }
    recipe = {"provider": "vision", "texts_per_clip": 2, "window_seconds": 0.5, "step_seconds": 0.5}
    command = [str(PYTHON.path), str(ROOT / "workflow_scripts/narrate_clips.py"), str(home / "train.arrow")]
    command += ["--chunks", str(home / "chunks.parquet"), "--shard", "1-of-1"]
    command += ["--recipe", json.dumps({**recipe, "vision": vision})]
    command += ["--journal", str(home / "journal"), "--out", str(home / "1-of-1.arrow")]
    return subprocess.Popen(command, env={**os.environ, **SHELL, "PYTHONPATH": str(ROOT)}, cwd=home)


def kill(process: subprocess.Popen[bytes], home: Path) -> None:
    process.kill()
    process.wait()
    wait_for_forks_in(home)


@pytest.mark.parametrize("flags", [(), ("--images", "1", "--choices", "refused")], ids=["whole", "sheet"])
def test_kills_pay_for_nothing_twice(tmp_path, start_vision, flags):
    chunk_index(tmp_path, {"a": [600]})
    row = {"video_id": "a", "start_s": 0.0, "end_s": 0.5, "texts": ["#C C sits"], "narration_id": "1"}
    write_clips(tmp_path / "train.arrow", [row])
    server = start_vision("--delay", "0.05", *flags)
    kills = (0, 2, 9, 25)
    for answers in kills:
        process = start_shard(tmp_path, server)
        wait_until(lambda answers=answers: len(shown(server)) >= answers and server.requests(), "answers")
        kill(process, tmp_path)
    assert start_shard(tmp_path, server).wait() == 0
    counts, rows = Counter(shown(server)), map_table(tmp_path / "1-of-1.arrow", NARRATED).to_pylist()
    assert len(counts) == len(rows) == 40 and all(row["texts"] for row in rows)
    assert sum(counts.values()) - 40 <= PARALLEL * len(kills), "only what was on its way is asked again"
    bill = total(ledger.bills() for _, ledger in read_ledgers(tmp_path / "journal"))["m"]
    billed = [line for line in server.requests() if line["said"] == "ok"]
    assert 0 <= bill.requests - len(billed) <= PARALLEL * len(kills), "every request is on the bill"
    after = len(server.requests())
    (tmp_path / "1-of-1.arrow").unlink()
    assert start_shard(tmp_path, server).wait() == 0
    assert (
        len(server.requests()) == after and map_table(tmp_path / "1-of-1.arrow", NARRATED).to_pylist() == rows
    )


def test_batches_of_clips_survive_a_kill_and_cost_half(tmp_path, start_vision, start_server):
    chunk_index(tmp_path, {"a": [600]})
    row = {"video_id": "a", "start_s": 0.0, "end_s": 0.5, "texts": ["#C C sits"], "narration_id": "1"}
    write_clips(tmp_path / "train.arrow", [row])
    eyes = start_vision()
    flags = ("--upstream", eyes.url, "--key", "none", "--batches", "expired,ok", "--batch-seconds", "2")
    server = start_server(*flags, batches=True)
    in_batches = {"batch": True, "batch_poll_seconds": 0.1, "batch_requests": 25}
    process = start_shard(tmp_path, server, **in_batches)
    wait_until(lambda: len(server.events("look")) > 1, "two batches")
    kill(process, tmp_path)
    assert start_shard(tmp_path, server, **in_batches).wait() == 0
    counts, rows = Counter(shown(eyes)), map_table(tmp_path / "1-of-1.arrow", NARRATED).to_pylist()
    assert len(counts) == counts.total() == len(rows) == 40 and all(row["texts"] for row in rows)
    ((path, ledger),) = read_ledgers(tmp_path / "journal")
    bill = ledger.bills()["m"]
    assert (bill.requests, bill.lost) == (len(eyes.requests()), 0)
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    prices = sorted({line["usd"] for line in lines if "answers" in line and "probe" not in line["texts"]})
    assert prices == [prices[0], pytest.approx(2 * prices[0])], "the first one is sent directly"


def test_narrated_texts_without_anybody_to_narrate_are_refused(tmp_path):
    chosen = {"runs": {"llm": {"stages": {"pretrain": {"narrations": ["narrated"]}}}}}
    result = harness.snakemake(tmp_path, "narrate", overlay=chosen, options=("--dry-run",))
    assert result.returncode != 0
    assert "runs.llm.stages.pretrain: narrations: 'narrated' needs narrator.provider" in result.stdout
