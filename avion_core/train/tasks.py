"""What one step computes: each task joins a model with a loss. The loop is in `engine.py`.

Shapes: B clips of this process, K classes; frames are uint8 BTHWC in a batch and float BCTHW in a model.
Whatever is random here draws from torch's generators, which the engine seeds at each step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor

from avion_core.data.augment import global_generators
from avion_core.models.classifier import VideoClassifier
from avion_core.models.dual_encoder import DualEncoder
from avion_core.models.videomae import VideoMAE, VideoMAEClassifier
from avion_core.train.losses import (
    Gather,
    info_nce,
    local,
    masked_pixels,
    sigmoid,
    soft_target_cross_entropy,
)
from avion_core.train.protocols import Batch, StepLoss
from avion_core.train.relevancy import PairRelevancy

LARGEST_LOGIT_SCALE = math.log(100)
"""Bound on the logarithm of the inverse temperature (CLIP, section 2.5); the least is 0."""


class _VideoTextTask(ABC):
    """What the tasks of a dual encoder share; `loss_of` is their own."""

    model: DualEncoder

    def prepare(self, batch: Batch) -> Batch:
        """Nothing is drawn for the batch as a whole."""
        return batch

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Batch: `frames`, `tokens`; (video_BD, text_BD)."""
        frames_BCTHW = self.model.normalise(batch["frames"])
        return self.model.encode_video(frames_BCTHW), self.model.encode_text(batch["tokens"])

    @abstractmethod
    def loss_of(self, embeddings: tuple[Tensor, ...], batch: Batch) -> StepLoss:
        """The task's loss."""

    def loss(self, batch: Batch) -> StepLoss:
        """Batch: `frames`, `tokens`, and what `loss_of` asks for."""
        return self.loss_of(self.embed(batch), batch)


class ContrastiveTask(_VideoTextTask):
    """Clips against narrations: the sigmoid loss where the model has a bias for it, else InfoNCE."""

    def __init__(self, model: DualEncoder, *, gather: Gather = local) -> None:
        """`gather` decides whose clips and narrations are the negatives: this process's or all."""
        self.model, self._gather = model, gather

    def loss_of(self, embeddings: tuple[Tensor, ...], batch: Batch) -> StepLoss:
        """The loss of (video_BD, text_BD)."""
        video_BD, text_BD = embeddings
        scale, bias = self.model.logit_scale.exp(), self.model.logit_bias
        metrics = {"temperature": 1 / scale.detach()}
        if bias is None:
            return StepLoss(info_nce(video_BD, text_BD, scale=scale, gather=self._gather), metrics)
        value = sigmoid(video_BD, text_BD, scale=scale, bias=bias, gather=self._gather)
        return StepLoss(value, {**metrics, "logit_bias": bias.detach()})

    def after_update(self) -> None:
        """Keep a temperature that is trained between 0.01 and 1."""
        if self.model.logit_scale.requires_grad:
            with torch.no_grad():
                self.model.logit_scale.clamp_(0, LARGEST_LOGIT_SCALE)


class RelevancyTask(_VideoTextTask):
    """Ranking of clips and sentences by their relevancy, for multi-instance retrieval."""

    def __init__(
        self,
        model: DualEncoder,
        *,
        ranking: Callable[..., Tensor],
        relevancy: PairRelevancy,
        gather: Gather = local,
    ) -> None:
        """`ranking` is one of `losses.RANKINGS` with its margin filled in."""
        self.model, self._ranking, self._relevancy, self._gather = model, ranking, relevancy, gather

    def loss_of(self, embeddings: tuple[Tensor, ...], batch: Batch) -> StepLoss:
        """The ranking loss of (video_BD, text_BD); batch: `rows`, `text_ids`."""
        video_BD, text_BD = embeddings
        relevancy_GG = self._relevancy(self._gather(batch["rows"]), self._gather(batch["text_ids"]))
        return StepLoss(self._ranking(video_BD, text_BD, relevancy_GG, gather=self._gather))

    def after_update(self) -> None:
        """Nothing to bound."""


class ClassificationTask:
    """Soft-target cross-entropy over classes, with mixup, cutmix and label smoothing."""

    def __init__(
        self,
        model: VideoClassifier | VideoMAEClassifier,
        *,
        labels: Tensor,
        classes: int,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        """`labels` is int64[rows], the class of every row of the clip tables, on the model's device.

        Raises ValueError for a label outside 0…classes-1.
        """
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(
                f"the clips' labels go from {int(labels.min())} to {int(labels.max())}, the class list has "
                f"{classes} entries; annotate this data set again"
            )
        self.model, self._labels, self._classes = model, labels, classes
        self._smoothing = label_smoothing
        self._mixup = (
            Mixup(
                mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=label_smoothing, num_classes=classes
            )
            if mixup or cutmix
            else None
        )

    def prepare(self, batch: Batch) -> Batch:
        """Batch: `frames`, `rows`. Clips are mixed with others of the whole batch."""
        frames_BCTHW, labels_B = self.model.normalise(batch["frames"]), self._labels[batch["rows"]]
        if self._mixup is not None:
            frames_BCTHW, targets_BK = mix(frames_BCTHW, labels_B, self._mixup)
        else:
            targets_BK = mixup_target(labels_B, self._classes, smoothing=self._smoothing)
        return {"frames": frames_BCTHW, "labels": labels_B, "targets": targets_BK}

    def loss(self, batch: Batch) -> StepLoss:
        """Batch: `frames` BCTHW, `labels` B, `targets` BK; the accuracy is that of unmixed clips."""
        logits_BK = self.model(batch["frames"])
        loss = soft_target_cross_entropy(logits_BK, batch["targets"])
        if self._mixup is not None:
            return StepLoss(loss)
        return StepLoss(loss, {"accuracy": (logits_BK.argmax(dim=1) == batch["labels"]).float().mean()})

    def after_update(self) -> None:
        """Nothing to bound."""


class ReconstructionTask:
    """Masked reconstruction: the hidden tubes' normalised pixels from the visible ones (VideoMAE)."""

    def __init__(self, model: VideoMAE, *, mask_ratio: float, target_epsilon: float = 1e-6) -> None:
        self.model, self._mask_ratio, self._target_epsilon = model, mask_ratio, target_epsilon

    def prepare(self, batch: Batch) -> Batch:
        """Batch: `frames`. Draws the masks."""
        count = len(batch["frames"])
        return {**batch, "mask": self.model.tube_mask(count, self._mask_ratio, torch.default_generator)}

    def loss(self, batch: Batch) -> StepLoss:
        """Batch: `frames`, `mask` BN."""
        frames_BTHWC, mask_BN = batch["frames"], batch["mask"]
        prediction_BMP = self.model(self.model.normalise(frames_BTHWC), mask_BN)
        target_BMP = self.model.target(frames_BTHWC, mask_BN, epsilon=self._target_epsilon)
        return StepLoss(masked_pixels(prediction_BMP, target_BMP))

    def after_update(self) -> None:
        """Nothing to bound."""


def mix(frames_BCTHW: Tensor, labels_B: Tensor, mixup: Mixup) -> tuple[Tensor, Tensor]:
    """timm's mixup or cutmix with one draw for all frames of all clips: (frames_BCTHW, targets_BK).

    timm cuts along the last two of four dimensions, so channels and time are folded into one. It draws
    from numpy's global generator, which is seeded from torch's for the time of the call.
    """
    folded = frames_BCTHW.flatten(1, 2).clone()
    with global_generators(int(torch.randint(2**31, ()))):
        mixed, targets_BK = mixup(folded, labels_B)
    return mixed.view(frames_BCTHW.shape), targets_BK
