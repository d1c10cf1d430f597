"""SIGKILL at random steps, again and again: every task ends in the bits of the undisturbed training.

Processes are forked by a server, so that a leg costs no start of Python and inherits none of the
threads that other tests' gradients started; two of them meet over loopback.
"""

import multiprocessing
import os
import random
import signal
import socket
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from avion_core.train.distributed import World, alone
from avion_core.train.engine import Training
from tests.unit.train.tiny_tasks import STEPS, TASKS, make_training

pytestmark = pytest.mark.slow

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.unit.train.tiny_tasks"])


def leg(folder: Path, name: str, rank: int, size: int, port: int, kill_at: int | None) -> None:
    """One process of one leg; the last rank kills itself before the update `kill_at`."""
    if size > 1:
        store = dist.TCPStore("127.0.0.1", port, size, is_master=rank == 0, timeout=timedelta(seconds=60))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    world = World(rank=rank, size=size, device=torch.device("cpu")) if size > 1 else alone()
    training = make_training(folder, name, world=world, drop_path=0.3, checkpoint_every_steps=2)
    update = Training.update

    def noted(self, *arguments):
        if self.step == kill_at and rank == size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == 0:
            with (folder / "steps.txt").open("a") as stream:
                stream.write(f"{self.step}\n")
        return update(self, *arguments)

    Training.update = noted
    training.run(name)
    if rank == 0:
        save_file(training.task.model.state_dict(), folder / "final.safetensors")
    os._exit(0)


def run_leg(folder: Path, name: str, size: int, kill_at: int | None = None) -> list[int | None]:
    """Exit codes of the leg's processes."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        CONTEXT.Process(target=leg, args=(folder, name, rank, size, port, kill_at)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    return [process.exitcode for process in processes]


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", TASKS)
def test_kills_at_random_steps_change_no_bit(name, size, tmp_path):
    assert run_leg(tmp_path / "undisturbed", name, size) == [0] * size
    draw = random.Random(f"{name} {size}")
    folder = tmp_path / "killed"
    for kill_at in [draw.randrange(1, 4), draw.randrange(4, STEPS), None]:
        saved = max((int(path.name[5:]) for path in folder.glob("checkpoints/*/step-*")), default=0)
        codes = run_leg(folder, name, size, kill_at)
        assert codes == [0] * size if kill_at is None else codes[-1] == -signal.SIGKILL
        steps = folder / "steps.txt"
        computed = [int(step) for step in steps.read_text().split()] if steps.exists() else []
        end = STEPS if kill_at is None else kill_at
        # the first of two processes may begin the step that the other does not live to
        assert [step for step in computed if step < end] == list(range(saved, end))
        steps.unlink(missing_ok=True)
    one, other = (load_file(tmp_path / each / "final.safetensors") for each in ("undisturbed", "killed"))
    assert all(torch.equal(one[key], weight) for key, weight in other.items())
