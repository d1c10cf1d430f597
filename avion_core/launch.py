"""How a training's processes are started, and what a job over several nodes asks Slurm for."""

from __future__ import annotations

from avion_core.config import StageSettings

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
"""What torchrun hands on to its processes."""


def launcher(stage: StageSettings) -> str:
    """The shell words before `-m module`.

    One process is plain Python; more on one node are started by torchrun, and on several nodes by one torchrun
    each, which srun starts. These meet on the first node, where the job's script runs, at a port that belongs
    to the job and is below those that systems hand out (from 32768).
    """
    torchrun = f"--nproc-per-node={stage.processes} --signals-to-handle={SIGNALS}"
    if stage.nodes > 1:
        gpus = f" --gres={slurm_resources(stage)['gres']}" if stage.gpus else ""
        return (
            f"srun --nodes={stage.nodes} --ntasks-per-node=1 --cpus-per-task={stage.threads * stage.processes}"
            f"{gpus} --kill-on-bad-exit=1 sh -c 'exec torchrun --node-rank=$SLURM_NODEID \"$@\"' torchrun"
            f" --nnodes={stage.nodes} --master-addr=$(hostname)"
            f" --master-port=$((20000 + SLURM_JOB_ID % 10000)) {torchrun}"
        )
    return f"torchrun --standalone {torchrun}" if stage.processes > 1 else "python"


def slurm_resources(stage: StageSettings) -> dict[str, int | str | None]:
    """Snakemake resources that the Slurm executor makes `sbatch` options of; None leaves one out.

    On one node the job is a single step, which the executor starts. On several it is a job of `mpi`, whose
    command calls srun itself: one task a node, and GPUs a node, as `gpu` would let Slurm divide them unevenly.
    The executor takes `tasks` for tasks a GPU unless `tasks_per_gpu` is there; 0 asks for nothing.
    """
    several = stage.nodes > 1
    return {
        "nodes": stage.nodes,  # without it Slurm may take the GPUs from several nodes
        "mpi": "srun" if several else None,
        "tasks": stage.nodes if several else None,
        "tasks_per_gpu": 0 if several else None,
        "gpu": None if several else stage.gpus,
        "gres": f"gpu:{stage.gpus}" if several and stage.gpus else None,
    }
