"""The log's lines reach TensorBoard and Weights & Biases; the packages are stand-ins of the same shape."""

import importlib.machinery
import sys
from types import ModuleType

import pytest

from avion_core.train.sinks import numbers, open_sinks
from tests.unit.train.tiny_training import tiny_training

LINE = {"step": 4, "loss": 0.5, "gradient_norm": None, "finish": "2026-01-01", "bad_clips": []}


def install(monkeypatch, name: str, **contents) -> None:
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


def absent(monkeypatch, *names: str) -> None:
    monkeypatch.setattr("avion_core.train.sinks.find_spec", lambda name: None if name in names else object())


def sinks(folder, project=None):
    return open_sinks(folder, title="run/stage", identity="run-stage-1", wandb_project=project)


def test_numbers_are_what_can_be_drawn():
    assert numbers(LINE) == {"loss": 0.5}


def test_without_the_packages_the_log_is_all_there_is(tmp_path, monkeypatch):
    absent(monkeypatch, "tensorboard", "wandb")
    assert sinks(tmp_path) == []
    with pytest.raises(ValueError, match=r"wandb_project is 'lab', .* not installed: `pip install wandb`"):
        sinks(tmp_path, "lab")


def test_tensorboard_gets_every_line_and_a_second_leg_replaces_the_steps_it_repeats(tmp_path, monkeypatch):
    opened, written = [], []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            opened.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def flush(self):
            pass

    absent(monkeypatch, "wandb")
    install(monkeypatch, "torch.utils.tensorboard", SummaryWriter=SummaryWriter)
    training = tiny_training(tmp_path)
    training.sinks = sinks(tmp_path)
    training.run("tiny")
    assert opened == [(str(tmp_path / "tensorboard"), 4)]
    assert [step for name, _, step in written if name == "loss"] == [4, 8, 12, 15]


def test_weights_and_biases_goes_on_with_the_same_run(tmp_path, monkeypatch):
    started, sent = [], []

    class Run:
        def log(self, values, step):
            sent.append((values, step))

    def init(**options):
        started.append(options)
        return Run()

    absent(monkeypatch, "tensorboard")
    install(monkeypatch, "wandb", init=init)
    for _ in range(2):
        (sink,) = sinks(tmp_path, "lab")
        sink(LINE)
    assert started[0] == started[1]
    assert started[0]["id"] == "run-stage-1"
    assert started[0]["resume"] == "allow"
    assert sent == [({"loss": 0.5}, 4)] * 2
