"""What trainings and evaluations have in common: a job that reads clips."""

from __future__ import annotations

from typing import Any

from avion_core.config.base import Fraction, Positive, Section

MACHINE_SETTINGS = frozenset(
    {
        "nodes",
        "processes",
        "gpus",
        "threads",
        "loader_workers",
        "memory_mb",
        "runtime_minutes",
        "log_every_steps",
        "checkpoint_every_steps",
        "checkpoint_every_minutes",
        "accumulation_steps",
        "shard_optimizer",
        "wandb_project",
        "peak_tflops",
        "clip_timeout_seconds",
        "max_bad_share",
        "attention",
        "compile",
        "gradient_checkpointing",
    }
)
"""Settings of stages and evaluations that say how a job runs, not what it computes: changing one repeats
nothing."""


class ReadingJob(Section):
    """What a stage and an evaluation have in common: a job that reads clips."""

    clip_timeout_seconds: Positive = 60.0
    """A clip that takes longer to read counts as one that cannot be decoded."""
    max_bad_share: Fraction = 0.05
    """The job stops when more than this share of the clips cannot be decoded."""

    def recipe(self) -> dict[str, Any]:
        """The settings that decide the result."""
        return self.model_dump(mode="json", exclude=set(MACHINE_SETTINGS))

    def machine(self) -> dict[str, Any]:
        """The settings that only say how the job runs."""
        return self.model_dump(mode="json", include=set(MACHINE_SETTINGS))
