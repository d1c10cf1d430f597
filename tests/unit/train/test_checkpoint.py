"""States are written whole, in the background, and a failure is not lost."""

import signal
import threading

import pytest
import torch

from avion_core.train.checkpoint import BackgroundWriter, CheckpointStore, State, to_memory
from avion_core.train.preemption import PreemptedError
from tests.unit.train.tiny_training import STEPS, TinyTask, tiny_training


@pytest.fixture
def store(tmp_path):
    store = CheckpointStore(tmp_path, {})
    store.open()
    return store


def hold_back(store, monkeypatch) -> threading.Event:
    """Saves of this store begin when the event is set."""
    gate, save = threading.Event(), store.save

    def late(state):
        assert gate.wait(timeout=30)
        save(state)

    monkeypatch.setattr(store, "save", late)
    return gate


def fail(state):
    raise OSError(28, "No space left on device")


def test_what_is_written_is_what_was_there_when_the_save_began(store, monkeypatch):
    gate, weight = hold_back(store, monkeypatch), torch.zeros(3)
    with BackgroundWriter(store) as writer:
        writer.save(State(step=1, model=to_memory({"w": weight}), optimizer={}, notes={}))
        weight.fill_(7)
        assert store.steps() == []
        gate.set()
    assert store.load(1).model["w"].tolist() == [0, 0, 0]


def test_training_goes_on_while_a_state_is_written_and_its_end_waits(tmp_path, monkeypatch):
    training, at = tiny_training(tmp_path), []
    gate = hold_back(training.store, monkeypatch)
    monkeypatch.setattr(training.task, "after_update", lambda: (at.append(1), len(at) == 5 and gate.set()))
    training.run("tiny")  # the first state is due after step 3; were it waited for, step 5 would not come
    assert training.store.steps() == [12, STEPS]


def test_a_full_disk_is_one_clear_error_at_the_next_step(tmp_path, monkeypatch):
    training = tiny_training(tmp_path)
    monkeypatch.setattr(training.store, "save", fail)
    with pytest.raises(ValueError, match=r"after step 3 could not be written .*No space left"):
        training.run("tiny")
    assert training.step < 6  # when the next state is due


def test_a_failure_of_the_last_save_is_not_lost(store, monkeypatch):
    monkeypatch.setattr(store, "save", fail)
    writer = BackgroundWriter(store)
    with pytest.raises(ValueError, match="make room"), writer:
        writer.save(State(step=1, model={}, optimizer={}, notes={}))


def test_an_error_of_the_training_is_not_hidden_by_one_of_the_writer(store, monkeypatch, capsys):
    monkeypatch.setattr(store, "save", fail)
    with pytest.raises(KeyError), BackgroundWriter(store) as writer:
        writer.save(State(step=1, model={}, optimizer={}, notes={}))
        raise KeyError
    assert "No space left" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["model.safetensors", "state.json"])
def test_a_state_that_cannot_be_read_is_replaced_when_its_step_comes_again(tmp_path, broken):
    first = tiny_training(tmp_path, TinyTask(tmp_path, signal_at=6, number=signal.SIGTERM))
    with pytest.raises(PreemptedError):
        first.run("tiny")
    assert first.store.steps() == [6, 7]
    for step in (6, 7):
        (first.store.path(step) / broken).write_text("bad")
    for stop in (3, 6):
        second = tiny_training(tmp_path, TinyTask(tmp_path, signal_at=stop, number=signal.SIGTERM))
        with pytest.raises(PreemptedError):
            second.run("tiny")
        assert [second.store.load(step).step for step in second.store.steps()][-1] == stop + 1


def test_best_weights_are_kept_where_a_state_cannot_say_which_it_refers_to(store):
    store.save_best(1, {"w": torch.zeros(1)})
    store.save(State(step=1, model={}, optimizer={}, notes={"best": {"step": 1}}))
    (store.path(1) / "state.json").write_text("bad")
    store.save(State(step=2, model={}, optimizer={}, notes={"best": {"step": 1}}))
    assert store.load_best(1)["w"].item() == 0
