"""Two processes over loopback: the same losses and weights as one process with the whole batch."""

import contextlib
import importlib
import json
import multiprocessing
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from avion_core.train import averaging
from avion_core.train.accumulation import Accumulation
from avion_core.train.averaging import averaged
from avion_core.train.distributed import World, alone, join_world
from avion_core.train.preemption import PREEMPTED_EXIT_CODE, PreemptedError
from tests.support import processes
from tests.support.processes import PROCESSES, exit_codes, start
from tests.unit.train.tiny_tasks import make_batch, make_task
from tests.unit.train.tiny_training import STEPS, STEPS_PER_EPOCH, tiny_training

pytestmark = pytest.mark.slow

ACCUMULATED = 2


def gathered_gradients(world: World) -> dict[str, torch.Tensor]:
    """Losses of micro-batches and their averaged gradients, each process holding its share of a batch."""
    found = {}
    for name in ("contrastive", "relevancy"):
        task, parts = make_task(name, world=world), ACCUMULATED if world.size > 1 else 1
        result = Accumulation(
            parts=parts,
            reseed=torch.manual_seed,
            autocast=nullcontext,
            scale=lambda loss: loss,
            averaging=partial(averaged, list(task.model.parameters()), world),
        ).backward(task, make_batch(0, world=world))
        found[name] = torch.tensor(world.mean([result.loss]))
        means = [weight.grad for weight in task.model.parameters() if weight.grad is not None]
        found[f"{name}.grad"] = torch.cat([gradient.flatten() for gradient in means])
    found["mean"] = torch.tensor(world.mean([torch.tensor(float(world.rank))]))
    found["collected"] = torch.tensor(world.collect(world.rank))
    return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two processes left in a folder."""
    folder = tmp_path_factory.mktemp("pair")
    assert exit_codes(partial(leave, folder)) == [0, 0]
    return folder


def leave(folder: Path, world: World) -> None:
    averaging.BUCKET_BYTES = 64
    found = gathered_gradients(world)
    whole = without_dropout(tiny_training(folder / "whole", world=world))
    whole.run("two")
    sharded = without_dropout(tiny_training(folder / "sharded", world=world, shard=True))
    sharded.run("sharded")
    stopped_after(7, without_dropout(tiny_training(folder / "stopped", world=world, shard=True)))
    resumed = without_dropout(tiny_training(folder / "stopped", world=world, shard=True))
    resumed.run("resumed")
    if world.leads:
        stopped_after(5, without_dropout(tiny_training(folder / "changing", log_every_steps=1)))
    world.wait()
    stopped_after(10, without_dropout(tiny_training(folder / "changing", world=world, log_every_steps=1)))
    if world.leads:
        save_file(found, folder / "gradients.safetensors")
        for name, training in {"final": whole, "sharded": sharded, "sharded-resumed": resumed}.items():
            save_file(training.task.model.state_dict(), folder / f"{name}.safetensors")
        held = [len(each.state) for each in (sharded.optimizer.optim, whole.optimizer)]
        (folder / "state-held.txt").write_text(" ".join(map(str, held)))


@pytest.mark.parametrize("name", ["contrastive", "relevancy"])
def test_micro_batches_of_two_processes_have_the_gradient_of_one_big_batch(pair, name):
    one, two = gathered_gradients(alone()), load_file(pair / "gradients.safetensors")
    torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=0)
    largest = one[f"{name}.grad"].abs().max().item()
    torch.testing.assert_close(two[f"{name}.grad"], one[f"{name}.grad"], rtol=1e-5, atol=1e-5 * largest)


def test_means_and_collections_cover_all_processes(pair):
    two = load_file(pair / "gradients.safetensors")
    assert two["mean"].tolist() == [0.5]
    assert two["collected"].tolist() == [0, 1]


def test_a_whole_training_ends_in_the_weights_of_one_process(pair, tmp_path):
    one = without_dropout(tiny_training(tmp_path))
    one.run("one")
    two = load_file(pair / "final.safetensors")
    for name, weight in one.task.model.state_dict().items():
        torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-5)
    entries = [entries_of(pair / "whole"), entries_of(tmp_path)]
    assert [entry["step"] for entry in entries[0]] == [entry["step"] for entry in entries[1]]
    assert [entry["loss"] for entry in entries[0]] == pytest.approx([e["loss"] for e in entries[1]], rel=1e-4)
    assert len(entries[0][0]["bad_clips"]) == PROCESSES


def test_a_rank_that_dies_ends_the_job(tmp_path):
    done = start(Path(__file__).with_name("tiny_training.py"), tmp_path, STEPS_PER_EPOCH, 1)
    assert done.returncode == 1
    assert "SIGKILL" in done.stderr or "-9" in done.stderr
    assert max(int(step) for step in (tmp_path / "steps-computed.txt").read_text().split()) <= STEPS_PER_EPOCH


def test_an_exception_on_one_rank_ends_the_job_with_its_traceback(tmp_path):
    done = start(Path(__file__).with_name("tiny_training.py"), tmp_path, STEPS_PER_EPOCH, 1, "raise")
    assert done.returncode == 1
    assert "in loss" in done.stderr
    assert "RuntimeError: this rank has had enough" in done.stderr


def test_a_loss_that_is_not_finite_on_one_rank_names_its_rows_and_keeps_the_state(tmp_path):
    done = start(Path(__file__).with_name("tiny_training.py"), tmp_path, 4, 1, "nan")
    assert done.returncode == 1
    assert done.stderr.count("the loss is nan") >= 1
    assert set(re.findall(r"in this batch: ([\d, ]+)\.", done.stderr)) == {"2, 3"}
    assert max(path.name for path in tmp_path.glob("checkpoints/*/step-*")) == "step-00000004"


@pytest.mark.parametrize("ending", ["launcher", "SIGHUP", "Ctrl-C", "orphan", "validation"])
def test_a_request_to_stop_makes_all_processes_save_and_end(tmp_path, ending):
    """From a queue, a user or a terminal, to one process or to all of them; torchrun's death is one too."""
    done = start(Path(__file__).with_name("tiny_training.py"), tmp_path, 4, 0, ending)
    assert done.returncode == (-signal.SIGKILL if ending == "orphan" else PREEMPTED_EXIT_CODE)
    assert f"saved after step 5 of {STEPS}" in done.stderr
    assert "Traceback" not in done.stderr
    assert max(path.name for path in tmp_path.glob("checkpoints/*/step-*")) == "step-00000005"


def test_processes_of_one_node_meet_though_its_host_name_does_not_resolve(tmp_path):
    renamed = ["unshare", "--uts", "sh", "-c", 'hostname nowhere.invalid && exec "$@"', "sh"]
    if subprocess.run([*renamed, "true"], capture_output=True).returncode:
        pytest.skip("renaming the host in a name space needs root and util-linux")
    done = start(Path(__file__).with_name("tiny_training.py"), tmp_path, prefix=renamed)
    assert done.returncode == 0, done.stderr


def test_a_first_node_whose_name_does_not_resolve_is_an_error_at_once():
    command = [
        sys.executable,
        "-m",
        "workflow_scripts.torchrun",
        "--nnodes=2",
        "--master-addr=nowhere.invalid",
    ]
    command += ["--node-rank=1", "--master-port=29500", str(Path(__file__).with_name("tiny_training.py"))]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "error: the name of the first node, nowhere.invalid, does not resolve" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sharded_optimizer_gives_the_weights_of_a_whole_one_and_resumes_in_the_same_bits(pair):
    whole, sharded = (load_file(pair / f"{name}.safetensors") for name in ("final", "sharded"))
    for name, weight in whole.items():
        torch.testing.assert_close(sharded[name], weight, rtol=1e-6, atol=1e-7)
    resumed = load_file(pair / "sharded-resumed.safetensors")
    assert all(torch.equal(resumed[name], weight) for name, weight in sharded.items())
    held = [int(number) for number in (pair / "state-held.txt").read_text().split()]
    assert 0 < held[0] < held[1]


def test_one_process_goes_on_from_two_and_two_from_one(pair, tmp_path):
    """The order of the clips is the same; the losses are, up to the rounding of sums."""
    alone_throughout = without_dropout(tiny_training(tmp_path / "one", log_every_steps=1))
    alone_throughout.run("one")
    expected = [entry["loss"] for entry in entries_of(tmp_path / "one")]
    shutil.copytree(pair / "changing", tmp_path / "changing")
    last = without_dropout(tiny_training(tmp_path / "changing", log_every_steps=1))
    last.run("one again")
    assert [entry["loss"] for entry in entries_of(tmp_path / "changing")] == pytest.approx(expected, rel=1e-4)
    steps = [int(step) for step in (tmp_path / "changing" / "steps-computed.txt").read_text().split()]
    assert sorted(set(steps)) == list(range(STEPS))
    assert steps.count(4) == 1  # one process
    assert steps.count(5) == steps.count(9) == 2  # two
    assert steps.count(10) == 1  # one again


def wait_long_for_the_first(world: World) -> None:
    """Longer than a step may take."""
    time.sleep(3 if world.leads else 0)
    world.wait()


def test_the_others_wait_for_a_validation_that_takes_longer_than_a_step_may():
    assert exit_codes(wait_long_for_the_first, context="fork", timeout_s=1) == [0, 0]


def test_processes_that_hang_are_killed(monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE_SECONDS", 1)
    assert 0 not in exit_codes(lambda world: time.sleep(600), context="fork")
    assert not multiprocessing.active_children()


def import_and_collect(world: World) -> None:
    """As a training does: some of torch's modules are imported after the group was made."""
    torch.use_deterministic_algorithms(True)
    importlib.import_module("torch.distributed.optim")
    world.collect({"clips": [1, 2]})


def test_no_thread_of_a_process_group_outlives_it():
    """One that frees a tensor while the interpreter ends would abort the process."""
    assert exit_codes(import_and_collect, context="spawn") == [0, 0]


def test_a_world_of_another_size_than_the_setting_is_refused():
    with pytest.raises(ValueError, match="nproc-per-node=3"), join_world(processes=3, gpus=0):
        pass
    with (
        pytest.raises(ValueError, match=r"6 processes .* --nnodes=2"),
        join_world(nodes=2, processes=3, gpus=0),
    ):
        pass


def test_gpus_that_are_not_there_are_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match="gpus: 0"), join_world(processes=1, gpus=1):
        pass


def entries_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in next(folder.glob("**/train.jsonl")).read_text().splitlines()]


def stopped_after(steps: int, training):
    """The training, asked to stop so early, has run and saved its state."""
    task = training.task
    task.signal_at, task.number = steps - 1, signal.SIGTERM
    with contextlib.suppress(PreemptedError):
        training.run("stopped")
    return training


def without_dropout(training):
    training.task.model.dropout.p = 0.0
    assert training.loop.steps == STEPS
    return training
