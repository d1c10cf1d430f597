"""Launch commands of trainings, and the resources that jobs request from Slurm."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from avion_core.config import StageSettings
from avion_core.shards import shard_numbers

TORCHRUN = "python -m workflow_scripts.torchrun"
"""torchrun with a separate exit code for a training that was stopped and has saved."""
TRANSCODE_BASE_MINUTES = 120
"""A shard's base time limit: many short videos take longer than their size suggests."""
ONE_NODE = "--standalone --local-addr=127.0.0.1"
"""Processes of one node meet on its loopback, as its host name need not resolve."""


def launcher(stage: StageSettings) -> str:
    """The shell words before `-m module`.

    One process is plain Python; several on one node are started by our torchrun; on several nodes srun starts
    one torchrun each. These meet on the first node, where the job's script runs, at a port derived from the
    job id, below the ephemeral ports (from 32768). srun ends all when one fails.
    """
    processes = f"--nproc-per-node={stage.processes}"
    if stage.nodes > 1:
        cpus, gres = stage.threads * stage.processes, slurm_resources(stage)["gres"]
        return (
            f"srun --nodes={stage.nodes} --ntasks-per-node=1 --cpus-per-task={cpus}"
            f"{f' --gres={gres}' if gres else ''} --kill-on-bad-exit=1"
            f" sh -c 'exec {TORCHRUN} --node-rank=$SLURM_NODEID \"$@\"' torchrun"
            f" --nnodes={stage.nodes} --master-addr=$(hostname)"
            f" --master-port=$((20000 + SLURM_JOB_ID % 10000)) {processes}"
        )
    return f"{TORCHRUN} {ONE_NODE} {processes}" if stage.processes > 1 else "python"


def slurm_resources(stage: StageSettings) -> dict[str, int | str | None]:
    """Snakemake resources that the Slurm executor turns into `sbatch` options; None leaves one out.

    On one node the job is a single step, started by the executor. On several it is an `mpi` job, whose
    command calls srun itself with one task per node. Its GPUs are requested per node, as Slurm may divide
    those of `gpu` unevenly; and the executor reads `tasks` as tasks per GPU unless `tasks_per_gpu` is set.
    """
    if stage.nodes == 1:  # without `nodes` Slurm may take the GPUs from several nodes
        absent = dict.fromkeys(("mpi", "tasks", "tasks_per_gpu", "gres"))
        return {"nodes": 1, "gpu": stage.gpus, **absent}
    return {
        "nodes": stage.nodes,
        "gpu": None,
        "mpi": "srun",
        "tasks": stage.nodes,
        "tasks_per_gpu": 0,
        "gres": f"gpu:{stage.gpus}" if stage.gpus else None,
    }


def growing(amount: int) -> Callable[[Any, int], int]:
    """A rule's resource that doubles with each further attempt."""
    return lambda wildcards, attempt: amount * 2 ** (attempt - 1)


def shard_minutes(videos: Path, shard: str, *, minutes_per_gb: float) -> int:
    """Minutes to transcode the shard "k-of-n" of the list `videos`, by its videos' sizes."""
    first, shards = shard_numbers(shard)
    with videos.open("rb") as stream:  # an error for a missing file must name it, for Snakemake's planning
        sizes = pq.read_table(stream, columns=["bytes"])["bytes"].to_numpy()[first - 1 :: shards]
    return TRANSCODE_BASE_MINUTES + math.ceil(minutes_per_gb * float(sizes.sum()) / 1e9)
