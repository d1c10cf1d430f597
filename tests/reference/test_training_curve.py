"""24 AdamW steps of the dual encoder through our engine give the losses that AVION's code gave."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from avion_core.models.architecture import DualEncoderConfig
from avion_core.models.dual_encoder import DualEncoder
from avion_core.models.foreign import import_state_dict
from avion_core.models.towers import TextConfig, VisionConfig
from avion_core.models.weights import load_weights
from avion_core.train.checkpoint import CheckpointStore
from avion_core.train.distributed import alone
from avion_core.train.engine import LoopSettings, Training
from avion_core.train.optim import Schedule, make_optimizer, parameter_groups
from avion_core.train.tasks.contrastive import ContrastiveTask

DATA = Path(__file__).parent / "data"
RECORDED = json.loads((DATA / "reference.json").read_text())["clip_train_curve"]
CONFIG = DualEncoderConfig(
    vision=VisionConfig(width=64, layers=2, heads=4, patch_px=8),
    text=TextConfig(width=48, layers=2, heads=4, context_length=16, vocabulary=100),
    embed_dim=24,
)


class RecordedBatches:
    """The eight recorded batches, again and again; their frames are normalised already."""

    steps_per_epoch = 8

    def __init__(self, frames_SBCTHW: torch.Tensor, tokens_SBL: torch.Tensor) -> None:
        self.frames, self.tokens, self.bad = frames_SBCTHW.float(), tokens_SBL, []

    def epoch(self, epoch: int, *, first_step: int = 0):
        for step in range(first_step, self.steps_per_epoch):
            frames, tokens = self.frames[step], self.tokens[step]
            yield {"frames": frames, "tokens": tokens, "rows": torch.arange(len(tokens))}


def test_every_step_of_the_curve(tmp_path):
    tensors = load_file(DATA / "clip_train_curve.safetensors")
    weights = {
        name.removeprefix("weights."): tensor
        for name, tensor in tensors.items()
        if name.startswith("weights.")
    }
    model = DualEncoder(CONFIG, frames=4, image_size_px=32)
    load_weights(model, import_state_dict(weights, model))
    model.normalise = nn.Identity()
    steps = RECORDED["steps"]
    training = Training(
        ContrastiveTask(model),
        RecordedBatches(tensors["inputs.frames_SBCTHW"], tensors["inputs.tokens_SBL"]),
        make_optimizer("adamw", parameter_groups(model, weight_decay=0.01, layer_decay=1.0)),
        schedule=Schedule("constant", peak=2e-4, steps=steps),
        loop=LoopSettings(steps=steps, seed=0, batch_size=4, log_every_steps=1, checkpoint_every_steps=100),
        world=alone(),
        store=CheckpointStore(tmp_path / "checkpoints", {}),
    )
    training.run("curve")
    losses = [json.loads(line)["loss"] for line in training.store.log_path.read_text().splitlines()]
    assert len(losses) == steps == 24
    assert losses == pytest.approx(RECORDED["losses"], abs=1e-4)
    assert losses == pytest.approx(tensors["outputs.losses"].tolist(), abs=1e-4)
