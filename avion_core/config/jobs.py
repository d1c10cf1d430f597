"""How jobs run, not what they compute: changing one of these settings repeats nothing."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from avion_core.config.base import Count, Fraction, Positive, Section


class ReadingJob(Section):
    """A job that reads clips."""

    clip_timeout_seconds: Positive = 60.0
    """A clip that takes longer to read counts as one that cannot be decoded."""
    max_bad_share: Fraction = 0.05
    """The job stops when more than this share of the clips cannot be decoded."""


class EvaluationJob(ReadingJob):
    """How an evaluation runs. Changing one of these settings repeats nothing."""

    memory_mb: Count = 2000
    """Memory the job asks the scheduler for."""
    threads: Count = 1
    """CPU threads."""
    gpus: Literal[0, 1] = 0
    """GPUs the job asks for."""


class StageJob(ReadingJob):
    """How a training runs. Changing one of these settings repeats nothing, but for `nodes` and `processes`
    where `negatives` are local."""

    nodes: Count = 1
    """Machines of the job; more than one needs Slurm."""
    processes: Count = 1
    """Processes on each node, started by torchrun; with `gpus` one of them each."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs the job asks for on each node; 0 trains on the CPU."""
    threads: Count = 1
    """CPU threads a process."""
    loader_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that decode, per training process; 0 decodes in the training process."""
    attention: Literal["sdpa", "flash"] = "sdpa"
    """Attention kernels: torch's own, or the package flash-attn on a GPU in half precision."""
    gradient_checkpointing: bool = False
    """Compute each block a second time in the backward pass instead of keeping it in memory."""
    compile: bool = False
    """Run the blocks through torch.compile, which needs a C++ compiler."""
    memory_mb: Count = 2000
    """Memory the job asks the scheduler for, on each node."""
    runtime_minutes: Count = 60
    """Time limit the job asks the scheduler for, doubled at each further attempt."""
    log_every_steps: Count = 10
    """Steps between log lines."""
    wandb_project: str | None = None
    """Weights & Biases project that gets the log's lines too; the package `wandb` must be installed."""
    peak_tflops: Positive | None = None
    """Peak arithmetic of one device, for the logged utilisation; null looks GPUs up, in bf16 and fp16."""
    checkpoint_every_steps: Count = 100
    """Steps between resumable checkpoints."""
    checkpoint_every_minutes: Positive | None = 10.0
    """Also checkpoint after this many minutes; null for steps alone."""
    accumulation_steps: Count = 1
    """Micro-batches that each process makes of its share of `batch_size`, for less memory: the gradient is
    that of the whole batch, contrastive negatives included. Mixup mixes the clips of the whole share."""
    shard_optimizer: bool = False
    """Each process keeps a part of the optimiser's state (ZeRO stage 1) instead of all of it."""

    @property
    def world_size(self) -> int:
        """Processes of the whole job."""
        return self.nodes * self.processes
