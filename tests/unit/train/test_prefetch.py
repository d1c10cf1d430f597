"""Batches that are read ahead: streams are in order, and nothing else about a training changes."""

import json
import signal
from contextlib import contextmanager

import pytest
import torch

from avion_core.train import prefetch
from avion_core.train.preemption import PreemptedError
from avion_core.train.prefetch import Prefetch
from avion_core.train.validation import Validation
from tests.unit.train.tiny_training import STEPS, STEPS_PER_EPOCH, TinyBatches, TinyTask, alone, tiny_training

TIMES = ("clips_per_s", "data_wait_share", "elapsed_s", "memory_mb", "finish", "bad_clips")


class Stream:
    def __init__(self, name, diary):
        self.name, self.diary = name, diary

    def wait_stream(self, other):
        self.diary.append(f"{self.name} waits for {other.name}")


class Event:
    """Of a device that has been idle for IDLE_S seconds; None while it computes."""

    idle_s = None

    def __init__(self, *, enable_timing):
        assert enable_timing

    def record(self, stream):
        self.stream = stream

    def query(self):
        return self.idle_s is not None

    def synchronize(self):
        """Done: nothing else is on the copying stream."""

    def elapsed_time(self, end):
        assert (self.stream.name, end.stream.name) == ("present", "side")
        return 1e3 * self.idle_s


@pytest.fixture
def gpu(monkeypatch) -> list[str]:
    """What a GPU's streams would be told; tensors stay on the CPU."""
    diary: list[str] = []
    present, side = (Stream(name, diary) for name in ("present", "side"))
    init = Prefetch.__init__

    def with_stream(self, batches, device):
        init(self, batches, device)
        self._stream = side

    @contextmanager
    def on(stream):
        diary.append(f"on {stream.name}:")
        yield
        diary.append("end")

    def copy(batch, device):
        diary.append("copy")
        return batch

    monkeypatch.setattr(Prefetch, "__init__", with_stream)
    monkeypatch.setattr(prefetch, "on_device", copy)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: present)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(Event, "idle_s", None)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda self, stream: diary.append(f"kept: {stream.name}")
    )
    return diary


def batches_of(diary, count=3):
    for number in range(count):
        diary.append(f"read {number}")
        yield {"x": torch.tensor(number)}


def lines(training) -> list[dict]:
    return [json.loads(line) for line in training.store.log_path.read_text().splitlines()]


def without_times(training) -> list[dict]:
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines(training)]


def weights(training) -> list[torch.Tensor]:
    return list(training.task.model.state_dict().values())


def test_on_the_cpu_a_batch_is_read_when_it_is_due():
    diary = []
    batches = Prefetch(batches_of(diary), torch.device("cpu"))
    batches.next()
    batches.ahead()
    assert diary == ["read 0"]
    assert batches.next()["x"] == 1
    assert batches.waited() > 0
    assert batches.waited() == 0


def test_a_batch_is_copied_on_a_stream_of_its_own_and_the_step_waits_for_it(gpu):
    batches = Prefetch(batches_of(gpu), torch.device("cpu"))
    batches.next()
    gpu.clear()
    batches.ahead()
    assert gpu == ["read 1", "on side:", "copy", "end"]
    gpu.clear()
    assert batches.next()["x"] == 1
    assert gpu == ["present waits for side", "kept: present"]
    batches.next()
    batches.ahead()  # after the last one
    with pytest.raises(StopIteration):
        batches.next()


def test_a_wait_counts_from_when_the_device_was_idle(gpu, monkeypatch):
    batches = Prefetch(batches_of(gpu), torch.device("cpu"))
    batches.next()
    assert batches.waited() == 0
    monkeypatch.setattr(Event, "idle_s", 1e-9)
    batches.ahead()
    assert batches.waited() == pytest.approx(1e-9)
    monkeypatch.setattr(Event, "idle_s", 100.0)  # since before the batch was asked for
    batches.next()
    batches.ahead()
    assert 0 < batches.waited() < 10


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    training = tiny_training(tmp_path_factory.mktemp("plain"))
    training.run("plain")
    return training


def test_a_training_that_reads_ahead_is_the_same(gpu, tmp_path, plain):
    validation = Validation(lambda: {"figure": 1.0}, every_steps=STEPS_PER_EPOCH)
    training = tiny_training(tmp_path, validation=validation)
    order = training.task.model.first.register_forward_pre_hook
    order(lambda *_: gpu.append(f"step {training.step}") if torch.is_grad_enabled() else None)
    training.run("ahead")
    assert all(map(torch.equal, weights(training), weights(plain)))
    assert [line for line in without_times(training) if "validation" not in line] == without_times(plain)
    met = [line["bad_clips"] for line in lines(training) if line.get("bad_clips")]
    assert met == [[{"row": 9, "reason": "cut short"}]]
    assert gpu.count("copy") == STEPS
    second = gpu.index("step 1")
    assert gpu.index("copy", gpu.index("step 0")) < second, (
        "the next batch is on its way before the step ends"
    )


def test_after_a_stop_the_batch_that_was_read_ahead_is_read_again(gpu, tmp_path, plain):
    stopped = tiny_training(tmp_path, TinyTask(tmp_path, signal_at=4, number=signal.SIGTERM))
    with pytest.raises(PreemptedError, match="after step 5"):
        stopped.run("stopped")
    assert gpu.count("copy") == 5, "a stop is not kept waiting for a batch"
    second = tiny_training(tmp_path)
    second.run("resumed")
    assert all(map(torch.equal, weights(second), weights(plain)))
    assert without_times(second) == without_times(plain)


class Broken(TinyBatches):
    """The loader fails at batch 6, counted from 0."""

    def epoch(self, epoch, *, first_step=0):
        for batch in super().epoch(epoch, first_step=first_step):
            if int(batch["step"]) == 6:
                raise ValueError("too many clips are bad")
            yield batch


def test_an_error_of_the_next_batch_does_not_lose_the_present_step(gpu, tmp_path):
    training = tiny_training(tmp_path, log_every_steps=1)
    training.batches = Broken(alone())
    with pytest.raises(ValueError, match="too many clips are bad"):
        training.run("broken")
    assert training.step == 6
    assert [line["step"] for line in lines(training)] == list(range(1, 7))
    assert training.store.steps()[-1] == 6
