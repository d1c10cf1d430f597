"""Frozen weights: they keep their bits, cost no memory and no backward pass, and patterns must match."""

import dataclasses

import pytest
import torch

from avion_core.config import StageSettings
from avion_core.models.sizes import measure, training_flops
from avion_core.train.average import WeightAverage
from avion_core.train.engine import Training
from avion_core.train.memory import step_bytes
from avion_core.train.preemption import PreemptedError
from tests.support.processes import in_processes
from tests.support.recipes import CLASSIFICATION, CONTRASTIVE
from tests.support.training import equal, lines, train, weights
from tests.unit.train.tiny_tasks import DUAL, FRAMES, SIZE_PX, make_task

VISION = ["vision.*"]
FROZEN = {**CONTRASTIVE, "freeze": VISION, "start": "pretrain", "epochs": 2}
SIZES = {"frames": FRAMES, "image_size_px": SIZE_PX}


@pytest.fixture(scope="module")
def pretrained(kitchen, tmp_path_factory):
    return train(kitchen, tmp_path_factory.mktemp("run") / "pretrain", {**CONTRASTIVE, "epochs": 1})


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit for bit: -0.0 is not 0.0."""
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


@pytest.mark.parametrize(
    "changes", [{}, {"ema_decay": 0.5}, {"accumulation_steps": 2}, {"optimizer": "sgd", "momentum": 0.0}]
)
def test_frozen_weights_keep_their_bits_and_the_others_move(kitchen, pretrained, tmp_path, changes):
    before = weights(pretrained)
    after = weights(train(kitchen, tmp_path, {**FROZEN, **changes}, start=pretrained))
    frozen = {name for name in before if name.startswith("vision.")} | {"logit_scale"}
    assert {name for name in before if same(before[name], after[name])} == frozen


def test_an_attentive_probe_of_a_frozen_tower_is_trained_and_found_again(kitchen, pretrained, tmp_path):
    recipe = {**CLASSIFICATION, "head": "attentive", "freeze": VISION, "start": "pretrain"}
    recipe |= {"epochs": 8, "learning_rate": 3e-3}
    after = weights(train(kitchen, tmp_path, recipe, start=pretrained))
    before = weights(pretrained)
    assert "head.query" in after
    assert "head.weight" not in after
    assert all(same(x, before[name]) for name, x in after.items() if name.startswith("vision."))
    assert lines(tmp_path)[-1]["loss"] < lines(tmp_path)[0]["loss"]


def test_the_running_average_keeps_negative_zeros():
    model = make_task("contrastive").model
    with torch.no_grad():
        model.vision.patch.weight.fill_(-0.0)
    model.freeze(["vision.patch.weight"])
    average = WeightAverage(model, 0.9)
    average.take_in(model)
    assert same(average.weights["vision.patch.weight"], model.vision.patch.weight)


def test_they_have_neither_gradients_nor_a_place_in_the_optimiser(kitchen, pretrained, tmp_path, monkeypatch):
    seen, run = [], Training.run
    monkeypatch.setattr(Training, "run", lambda self, title: (run(self, title), seen.append(self)))
    train(kitchen, tmp_path, FROZEN, start=pretrained)
    (training,) = seen
    assert all(weight.grad is None for weight in training.task.model.vision.parameters())
    named = {name for group in training.optimizer.param_groups for name in group["names"]}
    assert named
    assert not any(name.startswith("vision.") for name in named)


def test_a_stopped_training_goes_on_to_the_same_bits(kitchen, pretrained, tmp_path, monkeypatch):
    recipe = {**FROZEN, "checkpoint_every_steps": 1, "ema_decay": 0.5, "drop_path": 0.5}
    whole = train(kitchen, tmp_path / "whole", recipe, start=pretrained)
    with monkeypatch.context() as stopping:
        update = Training.update

        def stop_after_two(self, *arguments):
            done = update(self, *arguments)
            return dataclasses.replace(done, stop_requested=self.step == 2)

        stopping.setattr(Training, "update", stop_after_two)
        stopping.setattr("avion_core.train.stages.exit_preempted", lambda: 1 / 0)
        with pytest.raises((PreemptedError, ZeroDivisionError)):
            train(kitchen, tmp_path / "stopped", recipe, start=pretrained)
    assert equal(train(kitchen, tmp_path / "stopped", recipe, start=pretrained), whole)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"freeze": ["text.*"]}, {"accumulation_steps": 2}])
def test_two_processes_have_the_losses_of_one(kitchen, pretrained, tmp_path, changes):
    recipe = {**FROZEN, "optimizer": "sgd", "learning_rate": 0.1, **changes}

    def both():
        train(kitchen, tmp_path / "two", {**recipe, "processes": 2}, start=pretrained)

    assert in_processes(both) == [0, 0]
    one = train(kitchen, tmp_path / "one", recipe, start=pretrained)
    losses = [line["loss"] for line in lines(one)]
    assert [line["loss"] for line in lines(tmp_path / "two")] == pytest.approx(losses, rel=1e-4)
    assert losses[-1] < losses[0]


def test_a_frozen_tower_runs_as_in_evaluation_and_a_part_of_one_does_not():
    model = make_task("contrastive", drop_path=0.9).model
    model.freeze(["vision.blocks.0.*"])
    assert model.train().vision.training
    model.freeze(VISION)
    assert not model.vision.training
    assert not model.train().vision.training
    assert model.text.training


def test_a_frozen_tower_keeps_no_activations_and_has_no_backward_pass():
    plain, frozen = (measure("dual_encoder", DUAL, **SIZES, freeze=names) for names in ((), VISION))
    texts = measure("dual_encoder", DUAL, frames=1, image_size_px=8, freeze=VISION)
    assert frozen.activation_bytes == texts.activation_bytes < plain.activation_bytes
    assert frozen.checkpointed_bytes == texts.checkpointed_bytes < plain.checkpointed_bytes
    assert frozen.multiply_adds == plain.multiply_adds
    vision = make_task("contrastive").model.vision
    assert frozen.frozen_parameters - plain.frozen_parameters == sum(x.numel() for x in vision.parameters())
    stage = StageSettings.model_validate({**CONTRASTIVE, "precision": "fp32"})
    spared = step_bytes(stage, plain, checkpointing=False) - step_bytes(stage, frozen, checkpointing=False)
    kept = stage.process_batch_size * (plain.activation_bytes - frozen.activation_bytes)
    assert spared == kept + 12 * (frozen.frozen_parameters - plain.frozen_parameters)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_lower_blocks_that_are_frozen_keep_nothing_either(checkpointing):
    lower = ["vision.[pct]*", "vision.ln_pre.*", "vision.blocks.0.*"]
    kept = [measure("video_classifier", DUAL, **SIZES, classes=3, freeze=names) for names in ((), lower)]
    plain, frozen = (size.checkpointed_bytes if checkpointing else size.activation_bytes for size in kept)
    assert 0 < frozen < plain


def test_what_is_frozen_counts_once_in_the_predicted_operations():
    def operations(*freeze):
        return training_flops(StageSettings.model_validate({**CLASSIFICATION, "freeze": freeze}), classes=9)

    whole, head = operations(), operations(*VISION)
    of_the_head = 3 * 2 * 192 * 9
    assert whole - of_the_head == 3 * (head - of_the_head)
    assert head < operations("vision.blocks.0.*", "vision.[pct]*", "vision.ln_pre.*") < whole


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["visual.*"], "freeze: no weight of this dual_encoder matches 'visual.*'"),
        (["vision.*", "te?t"], r"matches 'te\?t'"),
        (["*"], "freeze: all weights are frozen"),
    ],
)
def test_patterns_without_a_match_or_for_everything_are_refused(patterns, message):
    with pytest.raises(ValueError, match=message):
        make_task("contrastive").model.freeze(patterns)
