"""Training on the device: every task, precision and optimiser, resume, the running average, full memory."""

import json
import math
import shutil
import warnings

import pytest
import torch

from avion_core.train.distributed import alone
from avion_core.train.memory import DeviceMemoryError
from avion_core.train.protocols import on_device
from tests.unit.train.tiny_tasks import STEPS, STEPS_PER_EPOCH, TASKS, Batches, make_batch, make_training

LEARNING_STEPS = 40


class SameBatches(Batches):
    """The same batches in every epoch, so that a model can learn them."""

    def epoch(self, epoch, *, first_step=0):
        return super().epoch(0, first_step=first_step)


def losses(training) -> list[float]:
    return [json.loads(line)["loss"] for line in training.store.log_path.read_text().splitlines()]


def learned(folder, device: str, precision: str) -> list[float]:
    """The losses of a training that learns its batches, each the mean of an epoch."""
    every = {"log_every_steps": STEPS_PER_EPOCH, "checkpoint_every_steps": LEARNING_STEPS}
    training = make_training(
        folder, "contrastive", world=alone(device), steps=LEARNING_STEPS, precision=precision, **every
    )
    training.batches = SameBatches(alone())
    training.run(precision)
    return losses(training)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_has_the_loss_and_gradient_norm_of_fp32(precision, device, tmp_path):
    found = {}
    for kind in (precision, "fp32"):
        training = make_training(tmp_path / kind, "contrastive", world=alone(device), precision=kind)
        update = training.update(make_batch(0))
        while update.skipped:  # fp16 until its scale fits; the weights have not moved
            update = training.update(make_batch(0))
        found[kind] = update
        assert {weight.dtype for weight in training.task.model.parameters()} == {torch.float32}
    assert found[precision].values["loss"] == pytest.approx(found["fp32"].values["loss"], rel=0.01)
    assert found[precision].gradient_norm == pytest.approx(found["fp32"].gradient_norm, rel=0.05)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_learns_along_the_curve_of_fp32(precision, device, tmp_path):
    half, whole = (learned(tmp_path / kind, device, kind) for kind in (precision, "fp32"))
    fall = whole[0] - whole[-1]
    assert fall > 0.2 * whole[0]
    assert half == pytest.approx(whole, abs=0.25 * fall)


@pytest.mark.parametrize("name", TASKS)
def test_a_step_of_every_task_is_that_of_the_cpu(name, device, tmp_path):
    """Masks and mixing are drawn on the CPU, so they are the same."""
    here, there = (
        make_training(tmp_path / str(place), name, world=alone(where)).update(make_batch(0))
        for place, where in enumerate((device, "cpu"))
    )
    assert here.values == pytest.approx(there.values, rel=1e-4)
    assert here.gradient_norm == pytest.approx(there.gradient_norm, rel=1e-3)


@pytest.mark.parametrize("name", [name for name in TASKS if name != "contrastive"])
def test_bf16_follows_fp32_in_the_other_tasks(name, device, tmp_path):
    found = {}
    for precision in ("bf16", "fp32"):
        training = make_training(tmp_path / precision, name, world=alone(device), precision=precision)
        training.run(precision)
        found[precision] = losses(training)
    assert len(found["fp32"]) == STEPS
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.02)
    assert found["bf16"] != found["fp32"]


@pytest.mark.parametrize("name", TASKS)
def test_a_training_that_reads_ahead_takes_the_same_steps(name, device, tmp_path):
    """On a GPU the next batch is copied while the present step computes."""
    ahead, one_by_one = (make_training(tmp_path / place, name, world=alone(device)) for place in "ab")
    ahead.run("ahead")
    expected = [one_by_one.update(make_batch(step)).values["loss"] for step in range(STEPS)]
    assert losses(ahead) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", TASKS)
def test_a_step_waits_for_the_device_once(name, gpu, tmp_path):
    """For its values. Whatever else makes the host wait leaves the device idle."""
    training = make_training(tmp_path, name, world=alone(gpu), ema_decay=0.9, gradient_clip=1.0)
    first, second, third = (on_device(make_batch(step), training.world.device) for step in range(3))
    training.update(first)
    training.update(second)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            training.update(third)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [f"{one.filename}:{one.lineno}" for one in caught if "synchronizing" in str(one.message)]
    assert len(waits) == 1, waits


@pytest.mark.parametrize("name", TASKS)
def test_every_task_trains_in_bf16_with_micro_batches_and_drop_path(name, device, tmp_path):
    training = make_training(
        tmp_path, name, world=alone(device), drop_path=0.2, precision="bf16", accumulation_steps=2
    )
    trained = {key: x for key, x in training.task.model.named_parameters() if x.requires_grad}
    before = {key: value.clone() for key, value in trained.items()}
    training.run(name)
    assert len(losses(training)) == STEPS
    assert all(map(math.isfinite, losses(training)))
    moved = [not torch.equal(value, before[key]) for key, value in trained.items()]
    assert sum(moved) > 0.9 * len(moved)


@pytest.fixture
def deterministic():
    """Same sums in every run, as optimisers scale the rounding noise of a zero gradient to full steps."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion"])
def test_a_resumed_training_ends_as_an_undisturbed_one(optimizer, precision, device, tmp_path):
    settings = {"checkpoint_every_steps": STEPS // 2, "ema_decay": 0.9, "precision": precision}

    def fresh():
        return make_training(tmp_path, "contrastive", world=alone(device), optimizer=optimizer, **settings)

    whole = fresh()
    whole.run("undisturbed")
    shutil.rmtree(whole.store.path(STEPS))
    again, updates = fresh(), []
    update = again.update
    again.update = lambda *arguments: updates.append(again.step) or update(*arguments)
    again.run("resumed")
    assert updates == list(range(STEPS // 2, STEPS))
    assert again.scaler.state_dict() == whole.scaler.state_dict()
    pairs = [
        (again.task.model.state_dict(), whole.task.model.state_dict()),
        (again.average.weights, whole.average.weights),
    ]
    for one, other in pairs:
        for name, value in one.items():
            assert value.device.type == device
            torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5, msg=name)


def test_the_running_average_is_computed_on_the_device(device, tmp_path):
    training = make_training(tmp_path, "contrastive", world=alone(device), ema_decay=0.75)
    expected = {name: x.clone() for name, x in training.task.model.state_dict().items()}
    for step in range(3):
        training.update(make_batch(step))
        for name, value in training.task.model.state_dict().items():
            expected[name] = 0.75 * expected[name] + 0.25 * value
    for name, value in training.average.weights.items():
        assert value.device.type == device
        torch.testing.assert_close(value, expected[name], msg=name)


def test_full_memory_is_one_error_that_names_what_to_lower(gpu, tmp_path):
    training = make_training(tmp_path, "contrastive", world=alone(gpu))
    training.task.loss = lambda batch: torch.empty(2**46, device=gpu)
    with pytest.raises(
        DeviceMemoryError, match=r"gradient_checkpointing.*accumulation_steps.*batch_size.*frames"
    ):
        training.run("full")
