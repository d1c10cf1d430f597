"""The log's lines reach TensorBoard's own reader, and a stand-in for Weights & Biases."""

import importlib.machinery
import sys
import time
from types import ModuleType

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from avion_core.train.sinks import numbers, open_sinks
from tests.unit.train.tiny_training import tiny_training

LINE = {"step": 4, "loss": 0.5, "gradient_norm": None, "finish": "2026-01-01", "bad_clips": []}


def install(monkeypatch, name: str, **contents) -> None:
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


def sinks(folder, project=None):
    return open_sinks(folder, title="run/stage", identity="run-stage-1", wandb_project=project)


def test_numbers_are_what_can_be_drawn():
    assert numbers(LINE) == {"loss": 0.5}


def test_weights_and_biases_must_be_installed_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("avion_core.train.sinks.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"wandb_project is 'lab', .* not installed: `pip install wandb`"):
        sinks(tmp_path, "lab")


def test_tensorboard_has_every_line_and_a_second_leg_replaces_the_steps_it_repeats(tmp_path):
    (first_leg,) = sinks(tmp_path)
    for step in (4, 8, 12):
        first_leg({"step": step, "loss": 1.0})
    time.sleep(1.1)  # names of event files count seconds, and within one they are in no order
    (second_leg,) = sinks(tmp_path)
    for step in (8, 12, 15):
        second_leg({"step": step, "loss": 2.0})
    events = EventAccumulator(str(tmp_path / "tensorboard/run-stage-1"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (4, 1.0),
        (8, 2.0),
        (12, 2.0),
        (15, 2.0),
    ]


def test_a_training_writes_its_lines(tmp_path):
    training = tiny_training(tmp_path)
    training.sinks = sinks(tmp_path)
    training.run("tiny")
    events = EventAccumulator(str(tmp_path / "tensorboard/run-stage-1"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [4, 8, 12, 15]


def test_a_leg_that_begins_with_a_validation_takes_no_loss_away(tmp_path):
    (first_leg,) = sinks(tmp_path)
    first_leg({"step": 4, "loss": 1.0})
    (second_leg,) = sinks(tmp_path)
    second_leg({"step": 4, "validation/score": 0.5})
    second_leg({"step": 8, "loss": 2.0})
    events = EventAccumulator(str(tmp_path / "tensorboard/run-stage-1"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [4, 8]
    assert [event.step for event in events.Scalars("validation/score")] == [4]


def test_weights_and_biases_goes_on_with_the_same_run(tmp_path, monkeypatch):
    started, sent = [], []

    class Run:
        def log(self, values, step):
            sent.append((values, step))

    def init(**options):
        started.append(options)
        return Run()

    install(monkeypatch, "wandb", init=init)
    for _ in range(2):
        _, sink = sinks(tmp_path, "lab")
        sink(LINE)
    assert started[0] == started[1]
    assert started[0]["id"] == "run-stage-1"
    assert started[0]["resume"] == "allow"
    assert sent == [({"loss": 0.5}, 4)] * 2
