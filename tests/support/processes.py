"""Work for several processes: programs that torchrun starts, and functions in forks."""

import gc
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from avion_core.launch import ONE_NODE
from avion_core.train import distributed
from avion_core.train.distributed import World, join_world
from tests.support.warm_python import WarmPython

PYTHON = WarmPython()
PROCESSES = 2
PATIENCE_SECONDS = 300
"""Half of what the processes would wait for one another."""
CONTEXT = "spawn" if torch.cuda.is_available() else "fork"
"""A fork starts faster, but where there is a GPU, autograd fails in a fork of a process that has used it."""


def start(program: Path, *arguments: object, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a program as PROCESSES processes in a session of their own, until all of them have ended."""
    python = sys.executable if prefix else str(PYTHON.path)
    command = [*prefix, python, "-m", "workflow_scripts.torchrun", *ONE_NODE.split()]
    command += [f"--nproc-per-node={PROCESSES}"]
    repository = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(program), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        start_new_session=True,
    )


def exit_codes(
    work: Callable[[World], None],
    *,
    processes: int = PROCESSES,
    gpus: int = 0,
    context: str = CONTEXT,
    timeout_s: int = distributed.TIMEOUT_SECONDS,
) -> list[int | None]:
    """Exit codes of processes that each join a world and `work` in it; 0 if no thread of gloo outlives it.

    They wait `timeout_s` for one another within a step. In the context `spawn` they have imported little.
    """
    return in_processes(partial(_meet, timeout_s, gpus, work), processes=processes, context=context)


def in_processes(
    work: Callable[[], object], *, processes: int = PROCESSES, context: str = CONTEXT
) -> list[int | None]:
    """Exit codes of processes that each `work` with the variables by which they can join a world.

    Those that hang are killed, or the tests would never end.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = multiprocessing.get_context(context)
    places = [
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        for rank in range(processes)
    ]
    workers = [start.Process(target=_take, args=(place, work)) for place in places]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=PATIENCE_SECONDS)
        worker.kill()
        worker.join()
    return [worker.exitcode for worker in workers]


def _take(place: dict[str, str], work: Callable[[], object]) -> None:
    os.environ |= place
    torch.set_num_threads(1)  # a fork has none of its parent's threads
    work()


def _meet(timeout_s: int, gpus: int, work: Callable[[World], None]) -> None:
    distributed.TIMEOUT_SECONDS = timeout_s
    with join_world(processes=int(os.environ["WORLD_SIZE"]), gpus=gpus) as world:
        work(world)
    del world
    gc.collect()
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    os._exit(sum("gloo" in name for name in threads))
