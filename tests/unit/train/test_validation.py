"""Validation on a schedule: what is measured, what is kept, and that training does not notice it."""

import json
import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from avion_core.evaluate.multiple_choice import choice_figures
from avion_core.evaluate.recognition import class_right
from avion_core.evaluations import EVALUATIONS
from avion_core.train.log import TrainingLog
from avion_core.train.preemption import PreemptedError
from avion_core.train.validation import Validation, flat
from tests.unit.train.tiny_training import STEPS, STEPS_PER_EPOCH, TinyTask, tiny_training

SCORES = {5: 0.2, 10: 0.9, 15: 0.4}


def lines(training) -> list[dict]:
    return [json.loads(line) for line in training.store.log_path.read_text().splitlines()]


def validated(folder, *, best: str | None = "score", task: TinyTask | None = None, **loop):
    """A training with invented figures; `measured` collects the weights that were measured, by step."""
    measured = {}

    def measure():
        weights, step = training.task.model.state_dict(), training.step
        assert not training.task.model.training
        torch.manual_seed(99)  # an evaluation may draw what it likes
        measured[step] = {name: weight.clone() for name, weight in weights.items()}
        return {"score": SCORES[step], "other": -SCORES[step]}

    validation = Validation(measure, every_steps=STEPS_PER_EPOCH, best_metric=best)
    training = tiny_training(folder, task, validation=validation, **loop)
    return training, measured


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], weight) for name, weight in other.items()
    )


def test_figures_are_logged_on_schedule_and_training_does_not_notice(tmp_path):
    plain, (training, _) = tiny_training(tmp_path / "plain"), validated(tmp_path / "validated")
    plain.run("tiny")
    training.run("tiny")
    found = {line["step"]: line["validation"] for line in lines(training) if "validation" in line}
    assert found == {step: {"score": score, "other": -score} for step, score in SCORES.items()}
    assert equal(plain.task.model.state_dict(), training.task.model.state_dict())
    assert training.task.model.training


def test_the_result_is_the_best_by_the_named_figure_or_the_last(tmp_path):
    for best, step in {"score": 10, "other": 5, None: STEPS}.items():
        training, measured = validated(tmp_path / str(best), best=best)
        training.run("tiny")
        assert equal(training.result(), measured[step])


def test_what_is_not_a_number_is_not_the_best_and_null_in_the_log(tmp_path):
    """Nothing compares higher than it: as the first figure it would stay."""
    validation = Validation(dict, every_steps=1, best_metric="score")
    assert validation.rank({"score": math.nan}) is None
    assert validation.rank({"score": -1.0}) == -1.0
    TrainingLog(tmp_path / "train.jsonl").write_validation(3, {"score": math.nan, "other": 1.5})
    assert (
        tmp_path / "train.jsonl"
    ).read_text() == '{"step": 3, "validation": {"score": null, "other": 1.5}}\n'


def test_the_names_of_figures_are_those_that_are_measured():
    labels, questions = np.array([0, 1]), np.zeros((2, 5))
    by_clip = list(class_right(np.eye(2), labels))
    assert list(EVALUATIONS["recognition"].figure_names("verb")) == [*by_clip, "class_mean_top1"]
    assert list(EVALUATIONS["multiple_choice"].figure_names()) == list(
        flat(choice_figures(questions, labels, labels + 1))
    )


def test_what_is_measured_and_kept_is_the_average(tmp_path):
    training, measured = validated(tmp_path, best=None, ema_decay=0.9)
    training.run("tiny")
    assert equal(measured[STEPS], training.average.weights)
    assert equal(training.result(), training.average.weights)
    assert not equal(measured[STEPS], training.task.model.state_dict())


@pytest.mark.parametrize("stopped_at", [6, 12])
def test_the_best_survives_a_stop(tmp_path, stopped_at):
    whole, _ = validated(tmp_path / "whole")
    whole.run("tiny")
    task = TinyTask(tmp_path / "stopped", signal_at=stopped_at, number=signal.SIGTERM)
    with pytest.raises(PreemptedError):
        validated(tmp_path / "stopped", task=task)[0].run("tiny")
    second, measured = validated(tmp_path / "stopped")
    second.run("tiny")
    assert set(measured) == {step for step in SCORES if step > stopped_at}
    assert equal(second.result(), whole.result())
    assert [line for line in lines(second) if "validation" in line] == [
        line for line in lines(whole) if "validation" in line
    ]


@pytest.mark.parametrize("step", SCORES)
def test_a_stop_cuts_a_validation_short_which_is_repeated(tmp_path, step):
    """The queue kills what does not end in half a minute, and a validation may take an hour."""
    whole, _ = validated(tmp_path / "whole")
    whole.run("tiny")
    training, _ = validated(tmp_path / "stopped", checkpoint_every_steps=100)
    measure, finished = training.validation.measure, []

    def asked_to_stop_while_it_measures():
        if training.step == step:
            training.writer.wait()
            assert max(training.store.steps()) == step
            os.kill(os.getpid(), signal.SIGTERM)
        finished.append(training.step)
        return measure()

    training.validation = replace(training.validation, measure=asked_to_stop_while_it_measures)
    with pytest.raises(PreemptedError, match=f"saved after step {step} of"):
        training.run("tiny")
    assert finished == [before for before in SCORES if before < step]
    second, measured = validated(tmp_path / "stopped")
    second.run("tiny")
    assert set(measured) == {later for later in SCORES if later >= step}
    assert equal(second.result(), whole.result())
    assert equal(second.task.model.state_dict(), whole.task.model.state_dict())
    assert [line for line in lines(second) if "validation" in line] == [
        line for line in lines(whole) if "validation" in line
    ]


def test_only_the_best_that_a_state_refers_to_is_kept(tmp_path):
    training, _ = validated(tmp_path)
    training.run("tiny")
    assert [path.name for path in training.store.states_dir.glob("best-*")] == ["best-00000010.safetensors"]


def test_an_unknown_figure_is_named_with_the_known_ones(tmp_path):
    training, _ = validated(tmp_path, best="scores")
    with pytest.raises(ValueError, match="best_metric: unknown name 'scores'; did you mean 'score'"):
        training.run("tiny")


def test_figures_get_dotted_names_and_chance_is_left_out():
    figures = {"mAP": {"mean": 0.5, "text_to_video": 1}, "chance": {"mAP": 0.1}, "clips": 3, "bad_clips": []}
    assert flat(figures) == {"mAP.mean": 0.5, "mAP.text_to_video": 1.0, "clips": 3.0}
