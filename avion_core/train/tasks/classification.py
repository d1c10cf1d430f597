"""The classification task: soft targets over classes.

Shapes: B clips of this process, K classes. Mixing draws from torch's generators, which the engine seeds at
each step.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor

from avion_core.config.tasks import ClassificationStage
from avion_core.data.augment import global_generators
from avion_core.data.clips import ClipTable
from avion_core.files import read_json
from avion_core.layouts import label_columns
from avion_core.models.classifier import VideoClassifier
from avion_core.models.videomae import VideoMAEClassifier
from avion_core.train.distributed import World
from avion_core.train.losses import soft_target_cross_entropy
from avion_core.train.protocols import Batch, StepLoss
from avion_core.train.tasks.setup import TaskSetup


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
        """Batch: `frames`, `rows`. Mixes clips across the whole batch."""
        frames_BCTHW, labels_B = self.model.normalise(batch["frames"]), self._labels[batch["rows"]]
        if self._mixup is not None:
            frames_BCTHW, targets_BK = mix(frames_BCTHW, labels_B, self._mixup)
        else:
            targets_BK = mixup_target(labels_B, self._classes, smoothing=self._smoothing)
        return {"frames": frames_BCTHW, "labels": labels_B, "targets": targets_BK}

    def loss(self, batch: Batch) -> StepLoss:
        """Batch: `frames` BCTHW, `labels` B, `targets` BK; logs the accuracy unless clips are mixed."""
        logits_BK = self.model(batch["frames"])
        loss = soft_target_cross_entropy(logits_BK, batch["targets"])
        if self._mixup is not None:
            return StepLoss(loss)
        return StepLoss(loss, {"accuracy": (logits_BK.argmax(dim=1) == batch["labels"]).float().mean()})

    def after_update(self) -> None:
        """Does nothing."""


def mix(frames_BCTHW: Tensor, labels_B: Tensor, mixup: Mixup) -> tuple[Tensor, Tensor]:
    """timm's mixup or cutmix with one draw for all frames of all clips: (frames_BCTHW, targets_BK).

    timm cuts along the last two of four dimensions, so channels and time are flattened into one. It draws
    from numpy's global generator, which is seeded from torch's during the call.
    """
    folded = frames_BCTHW.flatten(1, 2).clone()
    with global_generators(int(torch.randint(2**31, ()))):
        mixed, targets_BK = mixup(folded, labels_B)
    return mixed.view(frames_BCTHW.shape), targets_BK


class ClassificationSetup(TaskSetup):
    """Setup of a classifier whose head has one output per class."""

    settings: ClassificationStage

    def __init__(self, settings: ClassificationStage, files: Mapping[str, Path]) -> None:
        super().__init__(settings, files)
        self.classes = self._count_classes()

    def model_arguments(self) -> dict[str, Any]:
        """Model arguments, with the number of classes."""
        return super().model_arguments() | {"classes": self.classes}

    def task(
        self, model: VideoClassifier | VideoMAEClassifier, clips: ClipTable, world: World
    ) -> ClassificationTask:
        """The task with the stage's settings."""
        settings = self.settings
        labels = torch.from_numpy(clips.column(label_columns()[settings.label]))
        return ClassificationTask(
            model,
            labels=labels.to(world.device),
            classes=self.classes,
            mixup=settings.mixup,
            cutmix=settings.cutmix,
            label_smoothing=settings.label_smoothing,
        )

    def _count_classes(self) -> int:
        label, path = self.settings.label, self.files.get("classes")
        names = read_json(path) if path else {}
        if not names.get(label):
            raise ValueError(
                f"{path or 'classes'}: no class names for the label '{label}'; "
                f"this data set has: {', '.join(name for name in names if names[name]) or 'none'}"
            )
        return len(names[label])
