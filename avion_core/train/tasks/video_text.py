"""Base of tasks whose loss compares clips with texts.

Shapes: B clips of this process, D embedding size; frames are uint8 BTHWC in a batch, float BCTHW in a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

from torch import Tensor

from avion_core.config import ComparingStage
from avion_core.models.dual_encoder import DualEncoder
from avion_core.registry import load
from avion_core.train.distributed import World
from avion_core.train.losses import Gather, local
from avion_core.train.protocols import Batch, StepLoss
from avion_core.train.tasks.setup import TaskSetup


class VideoTextTask(ABC):
    """A dual encoder's task; subclasses define `loss_of`."""

    model: DualEncoder

    def prepare(self, batch: Batch) -> Batch:
        """Returns the batch unchanged."""
        return batch

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Batch: `frames`, `tokens`; (video_BD, text_BD)."""
        frames_BCTHW = self.model.normalise(batch["frames"])
        return self.model.encode_video(frames_BCTHW), self.model.encode_text(batch["tokens"])

    @abstractmethod
    def loss_of(self, embeddings: tuple[Tensor, ...], batch: Batch) -> StepLoss:
        """The task's loss."""

    def loss(self, batch: Batch) -> StepLoss:
        """Batch: `frames`, `tokens`, and entries read by `loss_of`."""
        return self.loss_of(self.embed(batch), batch)


class VideoTextSetup(TaskSetup):
    """Setup of a task that compares clips with texts."""

    settings: ComparingStage

    def loss(self) -> Callable[..., Tensor]:
        """The chosen loss with its settings bound."""
        return partial(load(self.settings.loss_function), **self.settings.loss_options)

    def gather(self, world: World) -> Gather:
        """Gather of the negatives: from all processes, or from this one."""
        return world.gather if self.settings.negatives == "global" else local
