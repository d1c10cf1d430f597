"""The gradient of several processes is that of one: NCCL over all GPUs, or gloo with `--device cpu`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from avion_core.train.accumulation import Accumulation
from avion_core.train.averaging import averaged
from avion_core.train.distributed import World, alone, join_world
from avion_core.train.tasks.contrastive import ContrastiveTask
from tests.unit.train.tiny_tasks import CLIPS, make_batch, make_task


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


def test_several_processes_have_the_gradient_of_one(device, tmp_path):
    gpus = next((count for count in (8, 4, 2, 1) if count <= torch.cuda.device_count()), 0)
    if device == "cuda" and gpus == 1:
        pytest.skip("needs two GPUs")
    processes, gpus = (2, 0) if device == "cpu" else (gpus, gpus)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    subprocess.run(
        [*command, f"--nproc-per-node={processes}", __file__, str(tmp_path), str(processes), str(gpus)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    many, one = load_file(tmp_path / "world.safetensors"), world_gradient(alone(device))
    torch.testing.assert_close(many["loss"], one["loss"], rtol=1e-4, atol=0)
    largest = one["gradient"].abs().max().item()
    torch.testing.assert_close(many["gradient"], one["gradient"], rtol=1e-4, atol=1e-4 * largest)


def main() -> None:
    folder, processes, gpus = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    with join_world(processes=processes, gpus=gpus) as world:
        found = world_gradient(world)
        if world.leads:
            save_file(found, folder / "world.safetensors")


if __name__ == "__main__":
    main()
