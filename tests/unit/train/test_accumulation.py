"""The gradient of micro-batches equals that of the whole batch, whatever the loss compares."""

import json
from contextlib import nullcontext

import pytest
import torch

from avion_core.models.layers import TransformerBlock
from avion_core.train.accumulation import Accumulation, split
from tests.unit.train.tiny_tasks import CLIPS, TASKS, make_batch, make_task, make_training

PARTS = [2, 4]


def accumulation(parts: int) -> Accumulation:
    return Accumulation(
        parts=parts,
        reseed=lambda part: torch.manual_seed(50 + part),
        autocast=nullcontext,
        scale=lambda loss: loss,
    )


def gradients(task) -> dict[str, torch.Tensor]:
    return {name: weight.grad for name, weight in task.model.named_parameters() if weight.grad is not None}


def found(name: str, parts: int, *, drop_path: float = 0.0):
    task = make_task(name, drop_path=drop_path)
    torch.manual_seed(3)
    return accumulation(parts).backward(task, make_batch(0)), gradients(task)


def assert_same_gradients(one, other):
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        largest = gradient.abs().max().item()
        torch.testing.assert_close(other[name], gradient, rtol=1e-5, atol=1e-5 * largest, msg=name)


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("name", TASKS)
def test_micro_batches_have_the_loss_and_gradient_of_the_whole(name, parts):
    (whole, gradient), (result, accumulated) = found(name, 1), found(name, parts)
    assert result.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)
    assert result.metrics.keys() == whole.metrics.keys()
    assert any(value.abs().sum() > 0 for value in gradient.values())
    assert_same_gradients(gradient, accumulated)


@pytest.mark.parametrize("name", ["contrastive", "relevancy"])
def test_the_second_pass_repeats_the_randomness_of_the_first(name):
    """With one pass whose graph is kept, drop path and all: the same gradient."""
    task, batch = make_task(name, drop_path=0.5), make_batch(0)
    embeddings = []
    for index, part in enumerate(split(batch, 4)):
        torch.manual_seed(50 + index)
        embeddings.append(task.embed(part))
    loss = task.loss_of(tuple(torch.cat(column) for column in zip(*embeddings, strict=True)), batch).loss
    loss.backward()
    result, accumulated = found(name, 4, drop_path=0.5)
    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-6)
    assert_same_gradients(gradients(task), accumulated)
    assert result.loss.item() != pytest.approx(found(name, 4)[0].loss.item(), rel=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_memory_is_that_of_a_micro_batch(name, monkeypatch):
    """One forward pass with a graph for each micro-batch, and none that sees more clips."""
    task, seen = make_task(name), []
    parts = [
        part
        for part in task.model.modules()
        if isinstance(part, TransformerBlock) and any(weight.requires_grad for weight in part.parameters())
    ]

    def note(module, inputs):
        if torch.is_grad_enabled():
            seen.append(len(inputs[0]))

    for part in parts:
        part.register_forward_pre_hook(note)
    accumulation(4).backward(task, make_batch(0))
    assert seen == [CLIPS // 4] * 4 * len(parts) != []


@pytest.mark.parametrize("name", TASKS)
def test_a_training_in_micro_batches_has_the_losses_of_the_whole(name, tmp_path):
    losses = []
    for parts in (1, 4):
        training = make_training(tmp_path / str(parts), name, accumulation_steps=parts)
        training.run(name)
        entries = training.store.log_path.read_text().splitlines()
        losses.append([json.loads(entry)["loss"] for entry in entries])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert len(set(losses[0])) == len(losses[0])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", TASKS)
def test_half_precision_accumulates_to_the_loss_and_gradient_of_fp32(name, precision, tmp_path):
    exact = make_training(tmp_path / "fp32", name).update(make_batch(0))
    for parts in (1, 4):
        folder = tmp_path / str(parts)
        training = make_training(folder, name, precision=precision, accumulation_steps=parts)
        training.scaler.load_state_dict({**training.scaler.state_dict(), "scale": 256.0})  # no overflow
        update = training.update(make_batch(0))
        assert not update.skipped
        assert update.values["loss"] == pytest.approx(exact.values["loss"], rel=5e-3)
        assert update.gradient_norm == pytest.approx(exact.gradient_norm, rel=1e-2)


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="8 clips do not divide into 3 micro-batches"):
        split(make_batch(0), 3)
