"""What EgoVLP, LaViLa and frozen towers add, on the device in half precision: as on the CPU in float32."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from avion_core.models.architecture import DualEncoderConfig
from avion_core.models.classifier import VideoClassifier
from avion_core.models.dual_encoder import DualEncoder
from avion_core.models.precision import autocast
from avion_core.models.towers import TimeSformerConfig
from avion_core.train.losses import ego_nce, info_nce
from avion_core.train.protocols import Task
from avion_core.train.tasks.classification import ClassificationTask
from avion_core.train.tasks.contrastive import ContrastiveTask
from tests.unit.train.tiny_tasks import CLASSES, CLIPS, FRAMES, LABELS, SIZE_PX, TEXT, make_batch

DIVIDED = DualEncoderConfig(
    vision=TimeSformerConfig(width=16, layers=2, heads=2, patch_px=8), text=TEXT, embed_dim=8
)
SIZES = {"frames": FRAMES, "image_size_px": SIZE_PX}
PRECISIONS = ["fp32", "fp16", "bf16"]
NARRATED = torch.arange(CLIPS) % 3 == 0
TAGS = {
    "verb_tags": torch.eye(3, dtype=torch.bool)[torch.arange(CLIPS) % 3],
    "noun_tags": torch.eye(2, dtype=torch.bool)[torch.arange(CLIPS) % 2],
}
LOSSES = {
    "egonce": (ego_nce, TAGS),
    "narrated": (info_nce, {"narrated": NARRATED}),
}
"""Losses, and what each is told about the clips."""


def near(ours: Tensor, theirs: Tensor, tolerance: float) -> bool:
    """Equal within a share of the largest value."""
    return (ours.detach().cpu().float() - theirs).abs().max().item() <= tolerance * theirs.abs().max().item()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradients_have_the_precision_of_float32(name, precision, device):
    """Under autocast too: products in half precision would move them by a hundredth."""
    function, told = LOSSES[name]
    drawn = torch.randn(2, CLIPS, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for place, arithmetic in (("cpu", "fp32"), (device, precision)):
        embeds = normalize(drawn, dim=-1).to(place).requires_grad_()
        scales = torch.tensor([20.0, 5.0], device=place, requires_grad=True)
        entries = {key: value.to(place) for key, value in told.items()}
        entries |= {"narrated_scale": scales[1]} if name == "narrated" else {}
        with autocast(torch.device(place), arithmetic):
            loss = function(*embeds, scale=scales[0], **entries)
        loss.backward()
        found.append([loss.detach(), embeds.grad, scales.grad])
    for ours, theirs, tolerance in zip(found[1], found[0], (1e-5, 1e-4, 1e-4), strict=True):
        assert near(ours, theirs, tolerance)


def contrastive(name: str, place: str) -> ContrastiveTask:
    torch.manual_seed(0)
    function, told = LOSSES[name]
    temperature = {"narrated_temperature": 0.2} if name == "narrated" else {}
    model = DualEncoder(DIVIDED, **SIZES, learn_temperature=True, **temperature)
    return ContrastiveTask(model.to(place), loss=function, entries=list(told))


def frozen_tower(name: str, place: str) -> ContrastiveTask:
    task = contrastive(name, place)
    task.model.freeze(["vision.*"])
    return task


def attentive_head(_: str, place: str) -> ClassificationTask:
    torch.manual_seed(0)
    model = VideoClassifier(DIVIDED, **SIZES, classes=CLASSES, head="attentive")
    model.freeze(["vision.*"])
    return ClassificationTask(model.to(place), labels=LABELS.to(place), classes=CLASSES)


def step(task: Task, place: str, precision: str) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a step."""
    task.model.train()
    batch = make_batch(0) | TAGS | {"narrated": NARRATED}
    with autocast(torch.device(place), precision):
        loss = task.loss(task.prepare({key: value.to(place) for key, value in batch.items()})).loss
    loss.backward()
    return loss.item(), {n: w.grad for n, w in task.model.named_parameters() if w.grad is not None}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("make", "name"),
    [(contrastive, "egonce"), (contrastive, "narrated"), (frozen_tower, "narrated"), (attentive_head, "")],
)
def test_a_step_has_the_loss_and_gradients_of_float32(make, name, precision, device):
    loss, gradients = step(make(name, device), device, precision)
    expected, wanted = step(make(name, "cpu"), "cpu", "fp32")
    assert loss == pytest.approx(expected, rel=1e-4 if precision == "fp32" else 0.02)
    assert gradients.keys() == wanted.keys()
    trained = {key.partition(".")[0] for key in gradients}
    assert ("vision" in trained) == (make is contrastive)
    whole, theirs = (torch.cat([each[key].cpu().flatten() for key in wanted]) for each in (gradients, wanted))
    assert (whole - theirs).norm() < (1e-3 if precision == "fp32" else 0.1) * theirs.norm()
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
