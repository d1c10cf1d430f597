"""How long does a checkpoint pause training, at the size of CLIP ViT-B/16 with AdamW's state?

The training thread copies the state to memory and goes on; another thread writes it. Measures the stall of
`Training.save`, and the seconds until the state is on disk, the latter without concurrent training.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import torch

from avion_core.models.architecture import DualEncoderConfig, load_architecture
from avion_core.models.dual_encoder import DualEncoder
from avion_core.train.checkpoint import CheckpointStore
from avion_core.train.distributed import alone
from avion_core.train.engine import LoopSettings, Training
from avion_core.train.optim import Schedule, make_optimizer, parameter_groups
from avion_core.train.tasks.contrastive import ContrastiveTask
from benchmarks import write_result

SAVES, INTERVAL_SECONDS = 5, 600


class NoBatches:
    """Nothing is trained here."""

    steps_per_epoch = SAVES + 1

    def __init__(self) -> None:
        self.bad: list[Any] = []

    def epoch(self, epoch: int, *, first_step: int = 0) -> Any:
        """Nothing."""
        return iter(())


def ready_to_save(folder: Path) -> Training:
    """A training whose optimiser has its state, as after a step."""
    architecture = cast(DualEncoderConfig, load_architecture("clip_vit_b_16"))
    model = DualEncoder(architecture, frames=4, image_size_px=224)
    groups = parameter_groups(model, weight_decay=0.01, layer_decay=1.0)
    optimizer = make_optimizer("adamw", groups)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    training = Training(
        ContrastiveTask(model),
        NoBatches(),
        optimizer,
        schedule=Schedule("constant", peak=1e-4, steps=SAVES),
        loop=LoopSettings(SAVES, seed=0, batch_size=1, log_every_steps=1, checkpoint_every_steps=1),
        world=alone(),
        store=CheckpointStore(folder, {}),
    )
    training.store.open()
    return training


def main() -> None:
    torch.set_num_threads(1)
    stalls, written = [], []
    with tempfile.TemporaryDirectory(prefix="avion-checkpoint-") as folder:
        training = ready_to_save(Path(folder))
        for step in range(1, SAVES + 1):
            training.step = step
            start = time.monotonic()
            training.save()
            stalls.append(time.monotonic() - start)
            training.writer.wait()
            written.append(time.monotonic() - start)
        newest = training.store.states_dir / f"step-{SAVES:08}"
        size = sum(path.stat().st_size for path in newest.iterdir())
    figures = {
        "parameters": sum(weight.numel() for weight in training.task.model.parameters()),
        "state_mb": size / 2**20,
        "stall_s": statistics.median(stalls),
        "largest_stall_s": max(stalls),
        "written_after_s": statistics.median(written),
        "interval_s": INTERVAL_SECONDS,
    }
    write_result("checkpoint", figures=figures, ratios={"stall_share": max(stalls) / INTERVAL_SECONDS})


if __name__ == "__main__":
    main()
