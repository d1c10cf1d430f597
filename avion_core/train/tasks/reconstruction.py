"""The reconstruction task: predict masked pixels from visible ones (VideoMAE, arXiv 2203.12602).

Shapes: B clips of this process, N tubelets, M of them masked, P pixels each. Masks are drawn from torch's
generators, which the engine seeds at each step.
"""

from __future__ import annotations

import torch

from avion_core.config.tasks import ReconstructionStage
from avion_core.data.clips import ClipTable
from avion_core.models.videomae import VideoMAE, split_mask
from avion_core.train.distributed import World
from avion_core.train.losses import masked_pixels
from avion_core.train.protocols import Batch, StepLoss, on_device
from avion_core.train.tasks.setup import TaskSetup


class ReconstructionTask:
    """Masked reconstruction of the tubes' normalised pixels (VideoMAE)."""

    def __init__(self, model: VideoMAE, *, mask_ratio: float, target_epsilon: float = 1e-6) -> None:
        self.model, self._mask_ratio, self._target_epsilon = model, mask_ratio, target_epsilon

    def prepare(self, batch: Batch) -> Batch:
        """Batch: `frames`. Adds indices of tubelets under random masks: `visible` BV and `masked` BM."""
        frames = batch["frames"]
        mask_BN = self.model.tube_mask(len(frames), self._mask_ratio, torch.default_generator)
        visible_BV, masked_BM = split_mask(mask_BN)
        return {**batch, **on_device({"visible": visible_BV, "masked": masked_BM}, frames.device)}

    def loss(self, batch: Batch) -> StepLoss:
        """Batch: `frames`, `visible` BV and `masked` BM."""
        frames_BTHWC, masked_BM = batch["frames"], batch["masked"]
        normalised_BCTHW = self.model.normalise(frames_BTHWC)
        prediction_BMP = self.model.reconstruct(normalised_BCTHW, batch["visible"], masked_BM)
        target_BMP = self.model.pixels(frames_BTHWC, masked_BM, epsilon=self._target_epsilon)
        return StepLoss(masked_pixels(prediction_BMP, target_BMP))

    def after_update(self) -> None:
        """Does nothing."""


class ReconstructionSetup(TaskSetup):
    """Setup with clips alone and a share of their tubes masked."""

    settings: ReconstructionStage

    def task(self, model: VideoMAE, clips: ClipTable, world: World) -> ReconstructionTask:
        """The task with the stage's settings."""
        settings = self.settings
        return ReconstructionTask(
            model, mask_ratio=settings.mask_ratio, target_epsilon=settings.target_epsilon
        )
