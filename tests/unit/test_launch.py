"""How trainings are started: the words that reach torchrun on a node, and the options that reach sbatch."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from snakemake.iocontainers import ResourceList
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string

from avion_core.config import StageSettings
from avion_core.launch import (
    ONE_NODE,
    TORCHRUN,
    TRANSCODE_BASE_MINUTES,
    growing,
    launcher,
    shard_minutes,
    slurm_resources,
)


def stage(**settings: Any) -> StageSettings:
    return StageSettings.model_validate({"task": "contrastive", "dataset": "any", "model": "any", **settings})


def sbatch(settings: StageSettings) -> list[str]:
    """Options of a training job that divide a cluster, as the executor writes them."""
    resources = {name: value for name, value in slurm_resources(settings).items() if value is not None}
    job = SimpleNamespace(
        resources=ResourceList(fromdict=resources), threads=settings.threads * settings.processes
    )
    names = ("run_uuid", "slurm_logfile", "comment_str", "account", "partition", "workdir")
    line = get_submit_command(job, dict.fromkeys(names, "")) + set_gres_string(job)
    return [word for word in line.split() if word.startswith(("--n", "--cpus", "--g"))]


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, ["--nodes=1", "--ntasks=1", "--cpus-per-task=1"]),
        ({"processes": 2, "threads": 3}, ["--nodes=1", "--ntasks=1", "--cpus-per-task=6"]),
        ({"processes": 8, "gpus": 8, "threads": 4}, ["--nodes=1", "--cpus-per-task=32", "--gpus=8"]),
        ({"nodes": 2, "threads": 3}, ["--nodes=2", "--ntasks=2", "--cpus-per-task=3"]),
        (
            {"nodes": 4, "processes": 8, "gpus": 8, "threads": 4},
            ["--nodes=4", "--ntasks=4", "--cpus-per-task=32", "--gres=gpu:8"],
        ),
    ],
)
def test_a_job_asks_for_its_nodes_with_one_task_on_each(settings: dict[str, Any], options: list[str]) -> None:
    assert sbatch(stage(**settings)) == options


def test_one_node_is_no_mpi_job() -> None:
    """The executor tests whether the resource is there, not its value."""
    assert slurm_resources(stage(processes=8))["mpi"] is None


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Run a launcher in the shell of a rule; srun and python print how they were called."""
    srun = 'echo "$@" | sed "s/ sh .*//"; until [ "$1" = sh ]; do shift; done; SLURM_NODEID=3 "$@"'
    programs = {"srun": srun, "python": 'echo "$@"', "hostname": "echo first"}
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)

    def run(settings: StageSettings) -> list[str]:
        shell = ["bash", "-euo", "pipefail", "-c", f"{launcher(settings)} -m module --title 'a b'"]
        path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
        environment = {"PATH": path, "SLURM_JOB_ID": "1230007"}
        return subprocess.check_output(shell, env=environment, text=True).splitlines()

    return run


def test_one_process_is_plain_python_and_more_on_a_node_are_torchruns(run: Any) -> None:
    assert run(stage()) == ["-m module --title a b"]
    assert run(stage(processes=2)) == [
        f"{TORCHRUN} {ONE_NODE} --nproc-per-node=2 -m module --title a b".removeprefix("python ")
    ]


def test_every_node_starts_torchrun_with_its_number_and_the_meeting_point_of_the_job(run: Any) -> None:
    srun, torchrun = run(stage(nodes=4, processes=8, gpus=8, threads=2))
    assert srun == "--nodes=4 --ntasks-per-node=1 --cpus-per-task=16 --gres=gpu:8 --kill-on-bad-exit=1"
    assert torchrun == (
        f"{TORCHRUN} --node-rank=3 --nnodes=4 --master-addr=first --master-port=20007 --nproc-per-node=8"
        " -m module --title a b"
    ).removeprefix("python ")
    assert "--gres" not in run(stage(nodes=2, processes=8))[0]


def test_a_resource_doubles_at_each_further_attempt() -> None:
    ask = growing(3000)
    assert [ask(None, attempt) for attempt in (1, 2, 3)] == [3000, 6000, 12000]


def test_a_shards_time_limit_fits_its_own_videos(tmp_path: Path) -> None:
    sizes = [4_000_000_000, 100, 6_000_000_000, 500_000_000, 0]
    pq.write_table(pa.table({"video_id": list("abcde"), "bytes": sizes}), tmp_path / "videos.parquet")
    limits = [
        shard_minutes(tmp_path / "videos.parquet", f"{number}-of-3", minutes_per_gb=30)
        for number in (1, 2, 3)
    ]
    assert [limit - TRANSCODE_BASE_MINUTES for limit in limits] == [4.5 * 30, 1, 6 * 30]


RULES = {path.name: path.read_text() for path in (Path(__file__).parents[2] / "rules").glob("*.smk")}


@pytest.mark.parametrize("name", sorted(name for name, text in RULES.items() if "shell:" in text))
def test_memory_and_time_of_every_rule_grow_with_its_attempts(name: str) -> None:
    """But for the memory of trainings and evaluations, which the user sets to what their machines have."""
    asked = re.findall(r"(?:mem_mb|runtime)=(.*)", RULES[name])
    grows = ("growing(", "transcode_minutes", "attempt", ".memory_mb")
    assert asked and all(any(word in ask for word in grows) for ask in asked), asked
