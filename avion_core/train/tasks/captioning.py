"""The captioning task: predict each next token of a clip's narration (LaViLa's Narrator, CVPR 2023).

Shapes: B clips of this process, L tokens of a text, V vocabulary.
"""

from __future__ import annotations

import torch

from avion_core.config.tasks import CaptioningStage
from avion_core.data.clips import ClipTable
from avion_core.models.narrator import Narrator
from avion_core.models.next_token import PADDING, mean_losses, token_losses
from avion_core.train.distributed import World
from avion_core.train.losses import Gather, local
from avion_core.train.protocols import Batch, StepLoss
from avion_core.train.tasks.setup import TaskSetup
from avion_core.train.texts import AnyText


class CaptioningTask:
    """Next-token cross-entropy of narrations, over their tokens or over all places."""

    def __init__(self, model: Narrator, *, over_places: bool = False, gather: Gather = local) -> None:
        """`over_places` averages over texts of full length, padding counted as zero loss, as LaViLa does.

        `gather` collects from all processes the lengths of the texts.
        """
        self.model, self._over_places, self._gather = model, over_places, gather

    def prepare(self, batch: Batch) -> Batch:
        """Batch: `tokens`. Adds `tokens_per_clip`, 0-d, of the whole batch, by which the loss is divided."""
        lengths_B = (batch["tokens"][:, 1:] != PADDING).sum(dim=1).float()
        if self._over_places:
            tokens_per_clip = torch.full_like(lengths_B[0], self.model.config.context_length - 1)
        else:
            tokens_per_clip = self._gather(lengths_B).mean()
        return {**batch, "tokens_per_clip": tokens_per_clip}

    def loss(self, batch: Batch) -> StepLoss:
        """Batch: `frames`, `tokens`, `tokens_per_clip`; logs the mean perplexity of the texts."""
        tokens_BL = batch["tokens"]
        logits_BLV = self.model(self.model.normalise(batch["frames"]), tokens_BL[:, :-1])
        losses_BL = token_losses(logits_BLV, tokens_BL[:, 1:])
        perplexity = mean_losses(losses_BL.detach(), tokens_BL[:, 1:]).exp().mean()
        loss = losses_BL.sum(dim=1).mean() / batch["tokens_per_clip"]
        return StepLoss(loss, {"perplexity": perplexity})

    def after_update(self) -> None:
        """Does nothing."""


class CaptioningSetup(TaskSetup):
    """Setup with one of each clip's own texts."""

    settings: CaptioningStage

    def choose_text(self, clips: ClipTable) -> AnyText:
        """One of the row's narrations."""
        return AnyText(clips)

    def task(self, model: Narrator, clips: ClipTable, world: World) -> CaptioningTask:
        """The task with the stage's settings."""
        return CaptioningTask(model, over_places=self.settings.loss_mean == "places", gather=world.gather)
