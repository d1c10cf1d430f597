"""Does averaging the gradients during the backward pass save time over averaging them after it?

Two processes (gloo, this machine's CPU, one thread each) train a small dual encoder on a prepared batch: with
`averaging.averaged`, in buckets as small as the model, and with one message after the backward pass. Rounds
alternate; the figure is the median of the rounds' ratios. The processes share their cores with the
communication, so it says little about GPUs, where that runs beside the computation.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import nn

from avion_core.models.dual_encoder import DualEncoder
from avion_core.train import averaging
from avion_core.train.distributed import World, join_world
from avion_core.train.tasks.contrastive import ContrastiveTask
from benchmarks import write_result
from benchmarks.engine import FRAMES, MODEL, SIZE_PX, Premade

PROCESSES, STEPS, ROUNDS = 2, 5, 7
BUCKET_BYTES = 2**20


@contextmanager
def afterwards(weights: list[nn.Parameter], world: World) -> Iterator[None]:
    """Average the gradients after the body, in one message."""
    yield
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world.size
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def seconds(
    task: ContrastiveTask, batches: Premade, way: Callable[[], AbstractContextManager[None]]
) -> float:
    """Seconds of forward, backward and averaging, over STEPS steps."""
    dist.barrier()
    start = time.monotonic()
    for batch in batches.batches[:STEPS]:
        task.model.zero_grad(set_to_none=True)
        loss = task.loss(batch).loss
        with way():
            loss.backward()
    return time.monotonic() - start


def main() -> None:
    if "RANK" not in os.environ:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={PROCESSES}", "-m", "benchmarks.averaging"]
        subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
        return
    averaging.BUCKET_BYTES = BUCKET_BYTES
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with join_world(processes=PROCESSES, gpus=0) as world:
        task = ContrastiveTask(DualEncoder(MODEL, frames=FRAMES, image_size_px=SIZE_PX), gather=world.gather)
        batches, weights = Premade(), list(task.model.parameters())
        overlapped, flattened = (
            partial(averaging.averaged, weights, world),
            partial(afterwards, weights, world),
        )
        seconds(task, batches, overlapped)
        rounds = [
            (seconds(task, batches, overlapped), seconds(task, batches, flattened)) for _ in range(ROUNDS)
        ]
        if world.leads:
            gradient_mb = 1e-6 * sum(weight.nbytes for weight in weights if weight.requires_grad)
            figures = {"steps": STEPS, "rounds": rounds, "gradient_mb": gradient_mb}
            ratio = statistics.median(during / after for during, after in rounds)
            write_result("averaging", figures=figures, ratios={"overlapped_over_flattened": ratio})


if __name__ == "__main__":
    main()
