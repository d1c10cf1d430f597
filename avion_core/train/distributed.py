"""One process or many: the same path with a larger world.

`torchrun` starts the processes and tells each its rank through the environment; without it the world has one
member and every function here is the identity. Gathered tensors carry gradients back to their owners.
`averaging` averages the weights' gradients, so that tasks may call the model as they like.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from avion_core.processes import end_with_parent

TIMEOUT_SECONDS = 600
"""Longest wait for another process within a step; after it the job fails."""
LAUNCHER_VARIABLE = "AVION_LAUNCHER_PID"
"""Process id of the torchrun that started this process (train/torchrun.py sets it)."""
LONGEST_WAIT = timedelta(days=7)
"""The same while one process works and the others wait: torchrun ends the job if that one dies."""


@dataclass
class Traffic:
    """What this process has communicated in the present step."""

    reduced: int = 0
    """Bytes of all-reduced tensors."""
    gathered: int = 0
    """Bytes of gathered tensors: the rows of all processes."""
    open_gathers: int = 0
    """Gathers whose gradients have not come back yet."""

    def clear(self) -> None:
        """Begin another step."""
        self.reduced = self.gathered = self.open_gathers = 0


@dataclass(frozen=True)
class World:
    """The processes of this job, and this one's rank."""

    rank: int
    size: int
    device: torch.device
    patient: dist.ProcessGroup | None = None
    """Process group with the timeout LONGEST_WAIT."""
    traffic: Traffic = field(default_factory=Traffic, compare=False)

    @property
    def leads(self) -> bool:
        """Whether this process writes files, logs and progress."""
        return self.rank == 0

    def gather(self, x_BD: Tensor) -> Tensor:
        """Rows of all processes in the order of their ranks; gradients flow back to their owners."""
        if self.size == 1:
            return x_BD
        x_GD: Tensor = _Gather.apply(x_BD, self)
        self.traffic.open_gathers += x_GD.requires_grad
        return x_GD

    def start_sum(self, x: Tensor) -> dist.Work:
        """Start to replace `x` by its sum over the processes; `wait` for the result."""
        self.traffic.reduced += x.nbytes
        work = dist.all_reduce(x, async_op=True)
        assert work is not None
        return work

    def flag(self, value: bool) -> Tensor:
        """0 or 1 for `mean`, written on the device: a copy would wait for it."""
        return torch.full((), float(value), device=self.device)

    def mean(self, values: Sequence[Tensor]) -> list[float]:
        """Mean over the processes of a few scalars; also the barrier of each step."""
        stacked = torch.stack([value.detach().to(self.device, torch.float64) for value in values])
        if self.size > 1:
            self.start_sum(stacked).wait()
            stacked /= self.size
        means: list[float] = stacked.tolist()
        return means

    def same_weights(self, model: nn.Module) -> None:
        """Broadcast the weights and buffers of rank 0, which may have downloaded them first."""
        self.wait()
        if self.size > 1:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, src=0)

    def from_leader(self, value: Any) -> Any:
        """The JSON-able value of rank 0, which may have computed it alone for long."""
        self.wait()
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def collect(self, value: Any) -> list[Any]:
        """The JSON-able values of all ranks, in their order."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value)
        return box

    def wait(self) -> None:
        """Barrier, with a long timeout: one rank may work alone for hours."""
        if self.size > 1:
            dist.barrier(group=self.patient)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x_BD: Tensor, world: World) -> Tensor:
        context.world, context.rows = world, len(x_BD)
        parts = [torch.empty_like(x_BD) for _ in range(world.size)]
        dist.all_gather(parts, x_BD.contiguous())
        x_GD = torch.cat(parts)
        world.traffic.gathered += x_GD.nbytes
        return x_GD

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total_GD = gradients[0].contiguous().clone()
        context.world.start_sum(total_GD).wait()
        context.world.traffic.open_gathers -= 1
        start = context.world.rank * context.rows
        return total_GD[start : start + context.rows], None


def alone(device: str = "cpu") -> World:
    """A world of one."""
    return World(rank=0, size=1, device=torch.device(device))


@contextmanager
def join_world(*, processes: int, gpus: int, nodes: int = 1) -> Iterator[World]:
    """Join the job that torchrun started, or a world of one; gloo on the CPU, NCCL on GPUs.

    `processes` and `gpus` are per node. Raises ValueError if the number of processes differs from the
    settings, or requested GPUs are absent. On an error the process ends, and torchrun ends the others. If
    torchrun is killed, its processes get SIGTERM, which makes them save and end.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if size != nodes * processes:
        how = f"--nnodes={nodes}" if nodes > 1 else "--standalone"
        raise ValueError(
            f"the stage is set to {nodes * processes} processes and runs with {size}: start it with "
            f"`torchrun {how} --nproc-per-node={processes}` or set `nodes` and `processes` to what runs"
        )
    device = _device(int(os.environ.get("LOCAL_RANK", "0")), gpus)
    if size == 1:
        yield World(rank=0, size=1, device=device)
        return
    _import_before_the_group()
    launcher = os.environ.get(LAUNCHER_VARIABLE)
    end_with_parent(signal.SIGTERM, parent=int(launcher) if launcher else None)
    dist.init_process_group("nccl" if gpus else "gloo", timeout=timedelta(seconds=TIMEOUT_SECONDS))
    patient = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
    assert isinstance(patient, dist.ProcessGroup)
    yield World(rank=rank, size=size, device=device, patient=patient)
    dist.destroy_process_group()


def _import_before_the_group() -> None:
    """Import the modules of torch whose functions have the default process group as a default argument.

    Imported later, they keep the group after `destroy_process_group`, and with it the threads of gloo: one
    that frees a tensor of the last collective while the interpreter ends aborts the process.
    """
    import torch.distributed.nn.functional
    import torch.distributed.optim.zero_redundancy_optimizer  # noqa: F401


def _device(local_rank: int, gpus: int) -> torch.device:
    if not gpus:
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"the stage asks for {gpus} GPUs and this machine shows {torch.cuda.device_count()}: "
            "set `gpus: 0` to train on the CPU"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
