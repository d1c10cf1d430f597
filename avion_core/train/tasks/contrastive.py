"""The contrastive task: match clips with their narrations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from avion_core.config.tasks import ContrastiveStage
from avion_core.data.clips import ClipTable
from avion_core.models.dual_encoder import DualEncoder
from avion_core.train.distributed import World
from avion_core.train.entries import RowEntries
from avion_core.train.losses import Gather, info_nce, local
from avion_core.train.protocols import Batch, StepLoss
from avion_core.train.tasks.video_text import VideoTextSetup, VideoTextTask
from avion_core.train.texts import AnyText

LARGEST_LOGIT_SCALE = math.log(100)
"""Upper bound on the log of the inverse temperature (CLIP, section 2.5); the lower bound is 0."""


class ContrastiveTask(VideoTextTask):
    """Contrastive learning of clips and narrations."""

    def __init__(
        self,
        model: DualEncoder,
        *,
        loss: Callable[..., Tensor] = info_nce,
        entries: Sequence[str] = (),
        gather: Gather = local,
    ) -> None:
        """`loss` is a contrastive loss of `losses` with its settings bound, and gets these `entries` of the
        batch too; `gather` collects the negatives, from this process or all."""
        self.model, self._loss, self._entries, self._gather = model, loss, entries, gather

    def loss_of(self, embeddings: tuple[Tensor, ...], batch: Batch) -> StepLoss:
        """The loss of (video_BD, text_BD); batch: the entries of the loss."""
        video_BD, text_BD = embeddings
        scale, bias = self.model.logit_scale.exp(), self.model.logit_bias
        told = {name: batch[name] for name in self._entries}
        metrics = {"temperature": 1 / scale.detach()}
        if self.model.logit_scale_narrated is not None:
            told["narrated_scale"] = self.model.logit_scale_narrated.exp()
            metrics["narrated_temperature"] = 1 / told["narrated_scale"].detach()
        if bias is not None:
            metrics["logit_bias"] = bias.detach()
        loss = self._loss(video_BD, text_BD, scale=scale, bias=bias, gather=self._gather, **told)
        return StepLoss(loss, metrics)

    def after_update(self) -> None:
        """Clamp trained temperatures to 0.01…1."""
        for log_scale in (self.model.logit_scale, self.model.logit_scale_narrated):
            if log_scale is not None and log_scale.requires_grad:
                with torch.no_grad():
                    log_scale.clamp_(0, LARGEST_LOGIT_SCALE)


class ContrastiveSetup(VideoTextSetup):
    """Setup with one of each clip's own texts and the configured contrastive loss."""

    settings: ContrastiveStage

    def choose_text(self, clips: ClipTable) -> AnyText:
        """One of the row's narrations."""
        return AnyText(clips)

    def entries(self, clips: ClipTable) -> RowEntries | None:
        """What the loss needs to know of each clip."""
        names = self.settings.loss_entries
        return RowEntries(clips, names) if names else None

    def task(self, model: DualEncoder, clips: ClipTable, world: World) -> ContrastiveTask:
        """The task with the stage's settings."""
        names = self.settings.loss_entries
        return ContrastiveTask(model, loss=self.loss(), entries=names, gather=self.gather(world))
