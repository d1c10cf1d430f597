"""How jobs run, not what they compute: changing one of these settings triggers no rerun."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from avion_core.config.base import Count, Fraction, Positive, Section


class ReadingJob(Section):
    """A job that reads clips."""

    job: ClassVar[type[Section]]
    """Base class with the settings that only say how the job runs."""

    clip_timeout_seconds: Positive = 60.0
    """A clip that takes longer to read counts as undecodable."""
    max_bad_share: Fraction = 0.05
    """The job stops if more than this share of the clips cannot be decoded."""

    def recipe(self) -> dict[str, Any]:
        """The settings that decide the result."""
        return self.model_dump(mode="json", exclude=set(self.job.model_fields))

    def job_settings(self) -> dict[str, Any]:
        """The settings that only say how the job runs."""
        return self.model_dump(mode="json", include=set(self.job.model_fields))


class EvaluationJob(ReadingJob):
    """How an evaluation runs. Changing one of these settings triggers no rerun."""

    memory_mb: Count = 2000
    """Memory requested from the scheduler."""
    threads: Count = 1
    """CPU threads."""
    gpus: Literal[0, 1] = 0
    """GPUs requested."""


class StageJob(ReadingJob):
    """How a training runs. Changing one of these settings triggers no rerun, except `nodes` and `processes`
    with local `negatives`."""

    nodes: Count = 1
    """Machines of the job; more than one needs Slurm."""
    processes: Count = 1
    """Processes on each node, started by torchrun; with `gpus` one per GPU."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs requested on each node; 0 trains on the CPU."""
    threads: Count = 1
    """CPU threads per process."""
    loader_workers: Annotated[int, Field(ge=0)] = 0
    """Decoding processes per training process; 0 decodes in the training process itself."""
    augment_on: Literal["auto", "loader", "device"] = "auto"
    """Where RandAugment and random erasing are applied: `loader`, by PIL in its processes, or `device`, where
    the model is trained; the clips are the same. `auto`: `device` on GPUs, unless RandAugment works on whole
    frames or its policy has operations that only PIL has; else `loader`."""
    attention: Literal["sdpa", "flash_cute", "flash_2", "flash"] = "sdpa"
    """Attention kernels: torch's own, or on a GPU in half precision flash-attn's: the package flash-attn-4
    (`flash_cute`, for Hopper and later), flash-attn (`flash_2`), or the first of these two that runs there
    (`flash`; the log names it)."""
    gradient_checkpointing: Literal["auto", True, False] = "auto"
    """Recompute each block in the backward pass instead of keeping its activations in memory. `auto`: on GPUs
    if a step would not fit otherwise, by its estimated memory; never on the CPU."""
    compile: bool = False
    """Run the blocks through torch.compile, which needs a C++ compiler."""
    memory_mb: Count = 2000
    """Memory requested from the scheduler, per node."""
    runtime_minutes: Count = 60
    """Time limit requested from the scheduler, doubled at each further attempt."""
    log_every_steps: Count = 10
    """Steps between log lines."""
    wandb_project: str | None = None
    """Weights & Biases project to log to as well; needs the package `wandb`."""
    peak_tflops: Positive | None = None
    """Peak TFLOPS of a device, for the logged utilisation; null: looked up for known GPUs, bf16 and fp16."""
    checkpoint_every_steps: Count = 100
    """Steps between resumable checkpoints."""
    checkpoint_every_minutes: Positive | None = 10.0
    """Also checkpoint after this many minutes; null for steps alone."""
    accumulation_steps: Count = 1
    """Micro-batches of each process's share of `batch_size`, to save memory: the gradient is that of the
    whole batch, including contrastive negatives. Mixup mixes clips of the whole share."""
    shard_optimizer: bool = False
    """Shard the optimiser's state over the processes (ZeRO stage 1)."""

    @property
    def world_size(self) -> int:
        """Processes of the whole job."""
        return self.nodes * self.processes
