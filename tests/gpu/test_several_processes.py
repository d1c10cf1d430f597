"""Several processes compute what one does: NCCL over all GPUs, or gloo with `--device cpu`.

The sharded optimiser runs as two processes over gloo on one device, so that a single GPU is enough.
"""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from avion_core.train.accumulation import Accumulation
from avion_core.train.averaging import averaged
from avion_core.train.distributed import World, alone
from avion_core.train.tasks.contrastive import ContrastiveTask
from tests.support.processes import exit_codes
from tests.unit.train.tiny_tasks import CLIPS, STEPS, make_batch, make_task, make_training


def world_gradient(world: World) -> dict[str, torch.Tensor]:
    """The averaged gradient of one contrastive step over all clips, in two micro-batches a process."""
    task = ContrastiveTask(make_task("contrastive", world=world).model, gather=world.gather)
    share = CLIPS // world.size
    batch = {name: value.to(world.device) for name, value in make_batch(0, world=world).items()}
    result = Accumulation(
        parts=2 if share % 2 == 0 else 1,
        reseed=torch.manual_seed,
        autocast=lambda: torch.autocast(world.device.type, enabled=False),
        scale=lambda loss: loss,
        averaging=lambda: averaged(task.model.parameters(), world),
    ).backward(task, batch)
    weights = task.model.parameters()
    gradient = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])
    return {"loss": torch.tensor(world.mean([result.loss])), "gradient": gradient.cpu()}


def sharded_trainings(world: World, folder: Path) -> dict[str, torch.Tensor]:
    """Updates and weights of a training with a sharded optimiser, and of one that resumes at half of it."""

    def run(leg: str) -> dict[str, torch.Tensor]:
        half = {"checkpoint_every_steps": STEPS // 2}
        training = make_training(folder, "reconstruction", world=world, shard=True, **half)
        update, updates = training.update, []
        training.update = lambda *arguments: updates.append(training.step) or update(*arguments)
        training.run(leg)
        weights = training.task.model.state_dict()
        return {
            f"{leg}.updates": torch.tensor(updates),
            **{f"{leg}.{name}": value.cpu() for name, value in weights.items()},
        }

    found = run("whole")
    if world.leads:
        shutil.rmtree(next(folder.glob(f"checkpoints/*/step-{STEPS:08}")))
    world.wait()
    return found | run("again")


def leave_gradient(folder: Path, world: World) -> None:
    found = world_gradient(world)
    if world.leads:
        save_file(found, folder / "found.safetensors")


def leave_sharded_trainings(folder: Path, device: str, world: World) -> None:
    through_the_cpu()
    found = sharded_trainings(replace(world, device=torch.device(device)), folder)
    if world.leads:
        save_file(found, folder / "found.safetensors")


def test_several_processes_have_the_gradient_of_one(device, tmp_path):
    gpus = 0 if device == "cpu" else max(n for n in (0, 1, 2, 4, 8) if n <= torch.cuda.device_count())
    if device == "cuda" and gpus == 1:
        pytest.skip("needs two GPUs")
    processes = 2 if device == "cpu" else gpus
    codes = exit_codes(partial(leave_gradient, tmp_path), processes=processes, gpus=gpus)
    assert codes == [0] * processes
    many, one = load_file(tmp_path / "found.safetensors"), world_gradient(alone(device))
    torch.testing.assert_close(many["loss"], one["loss"], rtol=1e-4, atol=0)
    largest = one["gradient"].abs().max().item()
    torch.testing.assert_close(many["gradient"], one["gradient"], rtol=1e-4, atol=1e-4 * largest)


def test_a_sharded_optimizer_resumes_on_the_device(device, tmp_path):
    assert exit_codes(partial(leave_sharded_trainings, tmp_path, device)) == [0, 0]
    found = load_file(tmp_path / "found.safetensors")
    assert found["whole.updates"].tolist() == list(range(STEPS))
    assert found["again.updates"].tolist() == list(range(STEPS // 2, STEPS))
    weights = [name for name in found if name.startswith("whole.") and name != "whole.updates"]
    assert weights
    for name in weights:
        resumed = found[name.replace("whole.", "again.", 1)]
        torch.testing.assert_close(resumed, found[name], rtol=1e-4, atol=1e-5, msg=name)


def through_the_cpu() -> None:
    """gloo sends from the CPU's memory only; NCCL does from a GPU's, but not for two processes on one."""
    send, receive = dist.send, dist.recv

    def receive_there(tensor: torch.Tensor, src: int) -> None:
        here = tensor.cpu()
        receive(here, src=src)
        tensor.copy_(here)

    dist.send, dist.recv = lambda tensor, dst: send(tensor.cpu(), dst=dst), receive_there
