"""The loop: what it computes, logs and saves; and that a kill at any step changes nothing."""

import json
import os
import signal
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from torch import nn

from avion_core.train.log import TrainingLog
from avion_core.train.optim import Schedule, make_optimizer, parameter_groups
from avion_core.train.preemption import PreemptedError
from tests.support.processes import PYTHON
from tests.unit.train.tiny_training import STEPS, TinyBatches, TinyTask, alone, tiny_training

TIMES = ("clips_per_s", "data_wait_share", "elapsed_s", "memory_mb", "finish")


def lines(training) -> list[dict]:
    return [json.loads(line) for line in training.store.log_path.read_text().splitlines()]


def computed(folder: Path) -> list[int]:
    return [int(step) for step in (folder / "steps-computed.txt").read_text().split()]


def same(training, other) -> bool:
    weights, others = training.task.model.state_dict(), other.task.model.state_dict()
    return all(torch.equal(weights[name], others[name]) for name in weights)


def without_times(entries: list[dict]) -> list[dict]:
    return [{key: value for key, value in entry.items() if key not in TIMES} for entry in entries]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    training = tiny_training(folder)
    training.run("tiny")
    assert computed(folder) == list(range(STEPS))
    return training


def test_the_loop_equals_a_bare_one(tmp_path):
    training = tiny_training(tmp_path)
    for part in training.task.model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    bare = tiny_training(tmp_path / "bare").task.model.eval()
    training.run("tiny")
    optimizer = make_optimizer("adamw", parameter_groups(bare, weight_decay=0.01, layer_decay=1.0))
    schedule, batches = Schedule("cosine", peak=0.05, steps=STEPS, warmup_steps=2), TinyBatches(alone())
    for step in range(STEPS):
        batch = next(batches.epoch(step // 5, first_step=step % 5))
        schedule.apply(optimizer, step)
        optimizer.zero_grad()
        (bare(batch["x"]) - batch["y"]).square().mean().backward()
        optimizer.step()
    for name, weight in bare.state_dict().items():
        torch.testing.assert_close(training.task.model.state_dict()[name], weight, rtol=1e-6, atol=1e-7)


def test_the_log_has_a_line_every_few_steps_and_one_at_the_end(undisturbed):
    entries = lines(undisturbed)
    assert [entry["step"] for entry in entries] == [4, 8, 12, 15]
    assert [entry["epoch"] for entry in entries] == [0, 1, 2, 2]
    assert {"loss", "size", "learning_rate", "gradient_norm", *TIMES} < set(entries[0])
    assert entries[0]["bad_clips"] == [{"row": 9, "reason": "cut short"}]
    assert [entry["bad_clips"] for entry in entries[1:]] == [[], [], []]
    assert entries[-1]["loss"] < entries[0]["loss"]


def test_logged_values_are_means_since_the_last_line(tmp_path):
    every = tiny_training(tmp_path / "every", log_every_steps=1)
    every.run("tiny")
    losses = [entry["loss"] for entry in lines(every)]
    fourth = tiny_training(tmp_path / "fourth")
    fourth.run("tiny")
    assert lines(fourth)[1]["loss"] == pytest.approx(sum(losses[4:8]) / 4)


def test_the_last_two_states_are_kept(undisturbed):
    assert undisturbed.store.steps() == [12, 15]


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [1, 8])  # before the first state; after a line that no state holds
def test_after_a_kill_only_the_rest_runs_and_the_bits_are_the_same(tmp_path, undisturbed, killed_at):
    program = Path(__file__).with_name("tiny_training.py")
    command = [str(PYTHON.path), str(program), str(tmp_path), str(killed_at)]
    killed = subprocess.run(command, env=environment())
    assert killed.returncode == -signal.SIGKILL
    assert computed(tmp_path) == list(range(killed_at))
    second = tiny_training(tmp_path)
    last_saved = max(second.store.steps(), default=0)
    assert killed_at - last_saved <= 2 * 3  # the newest may have been in the writer's hands
    second.run("tiny")
    assert computed(tmp_path)[killed_at:] == list(range(last_saved, STEPS))
    assert same(second, undisturbed)
    assert without_times(lines(second)) == without_times(lines(undisturbed))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_request_to_stop_saves_at_once_and_the_rest_follows(tmp_path, undisturbed, number):
    stopped = tiny_training(tmp_path, TinyTask(tmp_path, signal_at=4, number=number))
    before = signal.getsignal(number)
    with pytest.raises(PreemptedError, match=f"after step 5 of {STEPS}"):
        stopped.run("tiny")
    assert signal.getsignal(number) == before
    second = tiny_training(tmp_path)
    second.run("tiny")
    assert computed(tmp_path) == list(range(STEPS))
    assert same(second, undisturbed)
    assert without_times(lines(second)) == without_times(lines(undisturbed))


def test_a_stop_saves_even_if_what_read_the_progress_is_gone(tmp_path, monkeypatch):
    """A signal to the whole job ends the program that its output is piped to."""
    stopped = tiny_training(tmp_path, TinyTask(tmp_path, signal_at=4, number=signal.SIGTERM))

    def advance(progress, *, note):
        if stopped.step == 5:
            raise BrokenPipeError

    monkeypatch.setattr("avion_core.progress.Progress.advance", advance)
    with pytest.raises(PreemptedError):
        stopped.run("tiny")
    assert stopped.store.steps()[-1] == 5


def test_a_finished_training_computes_nothing_more(tmp_path):
    tiny_training(tmp_path).run("tiny")
    tiny_training(tmp_path).run("tiny")
    assert computed(tmp_path) == list(range(STEPS))


def test_a_loss_that_is_not_finite_names_the_batch_and_moves_nothing(tmp_path):
    training = tiny_training(tmp_path, TinyTask(tmp_path, nan_at=4))
    with pytest.raises(
        ValueError, match=r"step 5 \(epoch 0\).*nan.*batch: 0, 1, 2, 3\. .*step-00000004/model"
    ):
        training.run("tiny")
    assert training.task.calls == training.step == 4
    assert all(torch.isfinite(weight).all() for weight in training.task.model.parameters())
    kept = training.store.newest()
    assert kept.step == 4
    assert all(torch.equal(kept.model[name], w) for name, w in training.task.model.state_dict().items())


def test_each_step_of_a_process_draws_its_own_randomness_from_the_seed(tmp_path):
    def losses(seed, rank=0):
        training = tiny_training(tmp_path, seed=seed)
        training.world = replace(training.world, rank=rank)
        training.schedule = Schedule("constant", peak=0.0, steps=STEPS)
        batch = next(training.batches.epoch(0))
        return [training.update(batch).values["loss"] for _ in range(3)]

    assert len(set(losses(7))) == 3
    assert losses(7) == losses(7) != losses(8)
    assert losses(7) != losses(7, rank=1)


def test_clipping_bounds_the_gradient_that_is_used(tmp_path):
    free = tiny_training(tmp_path / "free")
    clipped = tiny_training(tmp_path / "clipped", gradient_clip=1e-3)
    batch = next(free.batches.epoch(0))
    for training in (free, clipped):
        update = training.update(batch)
        assert update.gradient_norm > 1e-3
    norms = [
        torch.nn.utils.get_total_norm([weight.grad for weight in training.task.model.parameters()])
        for training in (free, clipped)
    ]
    assert norms[0].item() == pytest.approx(update.gradient_norm, rel=1e-5)
    assert norms[1].item() == pytest.approx(1e-3, rel=1e-3)


def test_bf16_changes_the_arithmetic_not_the_weights(tmp_path):
    training = tiny_training(tmp_path, precision="bf16")
    exact = tiny_training(tmp_path / "exact")
    batch = next(training.batches.epoch(0))
    losses = [each.update(batch).values["loss"] for each in (training, exact)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]
    assert {weight.dtype for weight in training.task.model.parameters()} == {torch.float32}


def test_fp16_skips_overflows_counts_them_and_resumes_in_the_same_bits(tmp_path):
    whole = tiny_training(tmp_path / "whole", precision="fp16")
    overflowing = {**whole.scaler.state_dict(), "scale": 2.0**20}  # until it has been halved a few times
    whole.scaler.load_state_dict(overflowing)
    whole.run("tiny")
    skipped = sum(entry["skipped_steps"] for entry in lines(whole))
    assert 0 < skipped < STEPS
    assert whole.scaler.get_scale() == 2.0 ** (20 - skipped)
    assert whole.task.calls == STEPS - skipped
    assert lines(whole)[-1]["loss"] < lines(whole)[0]["loss"]
    task = TinyTask(tmp_path / "stopped", signal_at=2, number=signal.SIGTERM)
    stopped = tiny_training(tmp_path / "stopped", task, precision="fp16")
    stopped.scaler.load_state_dict(overflowing)
    with pytest.raises(PreemptedError):
        stopped.run("tiny")
    second = tiny_training(tmp_path / "stopped", precision="fp16")
    second.run("tiny")
    assert same(second, whole)
    assert without_times(lines(second)) == without_times(lines(whole))


def test_an_overflow_is_told_from_a_broken_loss(tmp_path):
    broken = tiny_training(tmp_path / "loss", TinyTask(tmp_path / "loss", nan_at=4), precision="fp16")
    with pytest.raises(ValueError, match=r"step 5 .*the loss is nan"):
        broken.run("tiny")
    endless = tiny_training(tmp_path / "gradient", precision="fp16")
    endless.resume()
    endless.task.model.first.weight.register_hook(lambda gradient: gradient * float("inf"))
    weights = {name: weight.clone() for name, weight in endless.task.model.state_dict().items()}
    batch, halvings = next(endless.batches.epoch(0)), 16  # from 65536 to 1
    for _ in range(halvings):
        assert endless.update(batch).skipped
    with pytest.raises(ValueError, match=r"the gradient's norm (inf|nan)"):
        endless.update(batch)
    assert all(torch.equal(weight, weights[name]) for name, weight in endless.task.model.state_dict().items())


def test_the_average_follows_the_weights_and_survives_a_stop(tmp_path):
    whole = tiny_training(tmp_path / "whole", ema_decay=0.9)
    expected = {name: weight.clone() for name, weight in whole.task.model.state_dict().items()}
    after_update = whole.task.after_update

    def note() -> None:
        after_update()
        for name, weight in whole.task.model.state_dict().items():
            expected[name] = 0.9 * expected[name] + 0.1 * weight

    whole.task.after_update = note
    whole.run("tiny")
    for name, weight in whole.average.weights.items():
        torch.testing.assert_close(weight, expected[name])
    task = TinyTask(tmp_path / "stopped", signal_at=7, number=signal.SIGTERM)
    with pytest.raises(PreemptedError):
        tiny_training(tmp_path / "stopped", task, ema_decay=0.9).run("tiny")
    second = tiny_training(tmp_path / "stopped", ema_decay=0.9)
    second.run("tiny")
    averages = whole.average.weights, second.average.weights
    assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])


def test_minutes_bring_a_checkpoint_between_those_by_steps(tmp_path):
    training = tiny_training(tmp_path, checkpoint_every_steps=1000, checkpoint_every_minutes=1e-9)
    training.run("tiny")
    assert training.store.steps() == [STEPS - 1, STEPS]


def test_the_log_estimates_the_end_and_what_the_device_is_used_for(tmp_path):
    unknown = tiny_training(tmp_path / "unknown")
    unknown.run("tiny")
    assert {entry["model_flops_utilisation"] for entry in lines(unknown)} == {None}
    assert lines(unknown)[-1]["gpu_memory_mb"] is None
    assert 50 < lines(unknown)[-1]["memory_mb"] < 100_000
    training = tiny_training(tmp_path / "known", peak_tflops=1e-9, log_every_steps=1)
    before = datetime.now(UTC)
    training.run("tiny")
    # 6x8 and 8x1 products a clip, two operations each, three times for the backward pass
    for entry in lines(training):
        assert entry["model_flops_utilisation"] == pytest.approx(
            3 * 2 * (48 + 8) * entry["clips_per_s"] / 1e3, rel=1e-4
        )
        assert before - timedelta(seconds=1) < datetime.fromisoformat(entry["finish"])
        assert datetime.fromisoformat(entry["finish"]) < before + timedelta(minutes=5)
    assert same(training, unknown)


def test_the_logs_state_does_not_change_with_the_log(tmp_path):
    log = TrainingLog(tmp_path / "train.jsonl")
    log.add({"loss": 2.0}, clips=4, wait_s=0.0, work_s=1.0)
    state = log.state()
    log.add({"loss": 5.0}, clips=4, wait_s=0.0, work_s=1.0)
    assert state["window"]["sums"] == {"loss": 2.0}
    assert state["window"]["steps"] == 1


def test_time_goes_on_where_the_state_was_taken(tmp_path):
    log = TrainingLog(tmp_path / "train.jsonl")
    log.add({"loss": 2.0}, clips=4, wait_s=0.5, work_s=1.0)
    state = log.state()
    resumed = TrainingLog(tmp_path / "train.jsonl")
    resumed.restore(state)
    resumed.add({"loss": 2.0}, clips=4, wait_s=0.25, work_s=1.0)
    assert resumed.state()["elapsed_s"] == 2.75


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
