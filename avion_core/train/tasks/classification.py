"""The classification task: soft targets over classes.

Shapes: B clips of this process, R rows of the clip tables, H labels, K classes of all labels together. Mixing
draws from torch's generators, which the engine seeds at each step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Labels:
    """The classes of one label."""

    of_rows: Tensor
    """int64[R], the class of every row of the clip tables, on the model's device."""
    classes: int
    """Number of classes."""

    def __post_init__(self) -> None:
        """Raise ValueError for a label outside 0…classes-1."""
        rows = self.of_rows
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < self.classes:
            raise ValueError(
                f"the clips' labels go from {int(rows.min())} to {int(rows.max())}, the class list has "
                f"{self.classes} entries; annotate this data set again"
            )


class ClassificationTask:
    """Soft-target cross-entropy over classes, with mixup, cutmix and label smoothing.

    Losses of several labels are added, as in LaViLa.
    """

    def __init__(
        self,
        model: VideoClassifier | VideoMAEClassifier,
        *,
        labels: Tensor,
        classes: int,
        further: Mapping[str, Labels] | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        """`labels` is int64[R], the class of every row of the clip tables; `further` are further labels.

        Raises ValueError for a label outside 0…classes-1.
        """
        each = [Labels(labels, classes), *(further or {}).values()]
        self.model, self._names = model, ["accuracy", *(f"{label}_accuracy" for label in further or {})]
        self._labels_RH = torch.stack([label.of_rows for label in each], dim=1)
        self._classes, self._smoothing = [label.classes for label in each], label_smoothing
        self._mixups = [
            Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=label_smoothing, num_classes=count)
            for count in self._classes
            if mixup or cutmix
        ]

    def prepare(self, batch: Batch) -> Batch:
        """Batch: `frames`, `rows`. Mixes clips across the whole batch."""
        frames_BCTHW, labels_BH = self.model.normalise(batch["frames"]), self._labels_RH[batch["rows"]]
        if self._mixups:
            frames_BCTHW, targets_BK = mix(frames_BCTHW, labels_BH, self._mixups)
        else:
            targets = zip(labels_BH.unbind(1), self._classes, strict=True)
            targets_BK = torch.cat(
                [mixup_target(labels_B, count, smoothing=self._smoothing) for labels_B, count in targets],
                dim=1,
            )
        return {"frames": frames_BCTHW, "labels": labels_BH, "targets": targets_BK}

    def loss(self, batch: Batch) -> StepLoss:
        """Batch: `frames` BCTHW, `labels` BH, `targets` BK; logs the accuracies unless clips are mixed."""
        logits = self.model(batch["frames"]).split(self._classes, dim=1)
        targets = batch["targets"].split(self._classes, dim=1)
        losses = [soft_target_cross_entropy(*pair) for pair in zip(logits, targets, strict=True)]
        loss = torch.stack(losses).sum() if len(losses) > 1 else losses[0]
        if self._mixups:
            return StepLoss(loss)
        each = zip(self._names, logits, batch["labels"].unbind(1), strict=True)
        return StepLoss(loss, {name: (x.argmax(dim=1) == own).float().mean() for name, x, own in each})

    def after_update(self) -> None:
        """Does nothing."""


def mix(frames_BCTHW: Tensor, labels_BH: Tensor, mixups: Sequence[Mixup]) -> tuple[Tensor, Tensor]:
    """timm's mixup or cutmix with one draw for all frames of all clips: (frames_BCTHW, targets_BK).

    `mixups` are alike but for the number of classes, one for each label; they repeat the same draw. timm cuts
    along the last two of four dimensions, so channels and time are flattened into one. It draws from numpy's
    global generator, which is seeded from torch's during the call.
    """
    seed = int(torch.randint(2**31, ()))
    folded, targets = frames_BCTHW.flatten(1, 2).clone(), []
    plane = folded[:, :1].clone()  # mixed in place, too, but not used
    for place, (labels_B, mixup) in enumerate(zip(labels_BH.unbind(1), mixups, strict=True)):
        with global_generators(seed):
            targets.append(mixup(plane if place else folded, labels_B)[1])
    return folded.view(frames_BCTHW.shape), torch.cat(targets, dim=1)


class ClassificationSetup(TaskSetup):
    """Setup of a classifier whose heads have one output per class."""

    settings: ClassificationStage

    def __init__(self, settings: ClassificationStage, files: Mapping[str, Path]) -> None:
        super().__init__(settings, files)
        self.classes = self._count_classes(settings.label)
        self.further_classes = {label: self._count_classes(label) for label in settings.further_labels}

    def model_arguments(self) -> dict[str, Any]:
        """Model arguments, with the numbers of classes."""
        counts = {self.settings.label: self.classes, **self.further_classes}
        return super().model_arguments() | self.settings.class_arguments(lambda label: counts[label])

    def task(
        self, model: VideoClassifier | VideoMAEClassifier, clips: ClipTable, world: World
    ) -> ClassificationTask:
        """The task with the stage's settings."""
        settings, columns = self.settings, label_columns()

        def of_rows(label: str) -> Tensor:
            return torch.from_numpy(clips.column(columns[label])).to(world.device)

        return ClassificationTask(
            model,
            labels=of_rows(settings.label),
            classes=self.classes,
            further={label: Labels(of_rows(label), count) for label, count in self.further_classes.items()},
            mixup=settings.mixup,
            cutmix=settings.cutmix,
            label_smoothing=settings.label_smoothing,
        )

    def _count_classes(self, label: str) -> int:
        path = self.files.get("classes")
        names = read_json(path) if path else {}
        if not names.get(label):
            raise ValueError(
                f"{path or 'classes'}: no class names for the label '{label}'; "
                f"this data set has: {', '.join(name for name in names if names[name]) or 'none'}"
            )
        return len(names[label])
