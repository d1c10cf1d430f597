"""Two processes over loopback: the same losses and weights as one process with the whole batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from avion_core.train.distributed import join_world
from tests.unit.train.tiny_training import STEPS, STEPS_PER_EPOCH, tiny_training

PROCESSES = 2


def start(program: Path, *arguments: object, processes: int = PROCESSES) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    repository = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(program), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two processes left in a folder."""
    folder = tmp_path_factory.mktemp("pair")
    done = start(Path(__file__), folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_means_and_collections_cover_all_processes(pair):
    two = load_file(pair / "met.safetensors")
    assert two["mean"].tolist() == [0.5]
    assert two["collected"].tolist() == [0, 1]


def test_a_whole_training_ends_in_the_weights_of_one_process(pair, tmp_path):
    one = without_dropout(tiny_training(tmp_path))
    one.run("one")
    two = load_file(pair / "final.safetensors")
    for name, weight in one.task.model.state_dict().items():
        torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-5)
    entries = [[json.loads(line) for line in path.read_text().splitlines()] for path in logs(pair, tmp_path)]
    assert [entry["step"] for entry in entries[0]] == [entry["step"] for entry in entries[1]]
    assert [entry["loss"] for entry in entries[0]] == pytest.approx([e["loss"] for e in entries[1]], rel=1e-4)
    assert len(entries[0][0]["bad_clips"]) == PROCESSES


def test_a_rank_that_dies_ends_the_job(tmp_path):
    done = start(Path(__file__).with_name("tiny_training.py"), tmp_path, STEPS_PER_EPOCH, 1)
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr or "-9" in done.stderr
    assert max(int(step) for step in (tmp_path / "steps-computed.txt").read_text().split()) <= STEPS_PER_EPOCH


def test_a_world_of_another_size_than_the_setting_is_refused():
    with pytest.raises(ValueError, match="nproc-per-node=3"), join_world(processes=3, gpus=0):
        pass


def test_gpus_that_are_not_there_are_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match="gpus: 0"), join_world(processes=1, gpus=1):
        pass


def logs(*folders: Path) -> list[Path]:
    return [next(folder.glob("**/train.jsonl")) for folder in folders]


def without_dropout(training):
    training.task.model.dropout.p = 0.0
    assert training.plan.steps == STEPS
    return training


def main() -> None:
    folder = Path(sys.argv[1])
    with join_world(processes=PROCESSES, gpus=0) as world:
        mean = torch.tensor(world.mean([torch.tensor(float(world.rank))]))
        met = {"mean": mean, "collected": torch.tensor(world.collect(world.rank))}
        training = without_dropout(tiny_training(folder, world=world))
        training.run("two")
        if world.leads:
            save_file(met, folder / "met.safetensors")
            save_file(training.task.model.state_dict(), folder / "final.safetensors")


if __name__ == "__main__":
    main()
