"""The pipeline on a real Slurm of three nodes, through the profile that users take.

Needs root and Debian's Slurm, which it installs: `make test-slurm`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import slurm_cluster
import torch
import yaml
from harness import PYTHON, ROOT, SMALL, SNAKEMAKE, copy_workspace, environment
from safetensors.torch import load_file
from slurm_cluster import SlurmCluster, SlurmUnavailableError

from avion_core.train.preemption import PREEMPTED_EXIT_CODE

pytestmark = pytest.mark.slurm

PATIENCE_SECONDS = 1500.0
"""A run that takes longer hangs; many times what it needs on two cores."""

ONE_RUN: dict[str, Any] = {
    "selected_runs": ["cluster"],
    "runs": {
        "cluster": {
            "title": "On a cluster",
            "stages": {"pretrain": {"narrations": ["rephrased"], "processes": 2}},
            "evaluations": ["zero_shot_mir"],
        }
    },
    "stages": {"pretrain": {"epochs": 8, "checkpoint_every_steps": 4, "log_every_steps": 1}},
}
"""Every rule but downloads and fine-tuning, which is pretraining's; training by two processes."""

LONG = {"epochs": 4, "checkpoint_every_steps": 2, "log_every_steps": 1}


def trainings(**places: dict[str, int]) -> dict[str, Any]:
    """One run for each name: the same pretraining, but for where its processes are."""
    runs = {
        name: {"title": name, "stages": {"pretrain": {**LONG, **place}}, "evaluations": []}
        for name, place in places.items()
    }
    return {"selected_runs": list(runs), "runs": runs}


@pytest.fixture
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SlurmCluster]:
    """Three idle nodes; a parameter is the cluster's keywords."""
    with ExitStack() as stack:
        try:
            lab = SlurmCluster(tmp_path_factory.mktemp("slurm"), **getattr(request, "param", {}))
            stack.enter_context(lab)
        except SlurmUnavailableError as reason:
            pytest.skip(str(reason))
        yield lab


@contextmanager
def workflow(
    folder: Path, overlay: dict[str, Any], *options: str, cold: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Snakemake at work in `folder` through profiles/slurm; its output goes to snakemake.log.

    Unless the start is `cold`, the processes of its jobs are clients of the warm Python: Slurm starts,
    signals and ends the clients, and they hand that on.
    """
    settings = folder / "overlay.yaml"
    settings.write_text(yaml.safe_dump(overlay))
    line = [*([] if cold else [str(PYTHON.path)]), SNAKEMAKE, "--snakefile", str(ROOT / "Snakefile")]
    line += ["--directory", str(folder), "--profile", str(ROOT / "profiles/slurm")]
    line += ["--configfile", str(SMALL), str(settings)]
    line += ["--default-resources", "slurm_partition=main", "slurm_account=lab", "mem_mb=200", "runtime=5"]
    line += ["--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10", *options]
    with (folder / "snakemake.log").open("wb") as log:
        process = subprocess.Popen(
            [*slurm_cluster.END_WITH_US, *line],
            env=environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until(condition: Callable[[], bool], what: str, logs: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"no {what} after {PATIENCE_SECONDS:.0f} s\n{logs()}"
        time.sleep(0.2)


def logs_of(folder: Path, cluster: SlurmCluster) -> Callable[[], str]:
    """Asks what Snakemake and the cluster have said so far."""
    return lambda: (folder / "snakemake.log").read_text() + cluster.logs()


def steps_logged(stage: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (stage / "train.jsonl").read_text().splitlines()]


def newest_checkpoint(stage: Path) -> int:
    """Steps of the newest checkpoint; 0 without one."""
    names = [path.name for path in stage.glob("checkpoints/*/step-*")]
    return max((int(name.removeprefix("step-")) for name in names), default=0)


def test_training_on_two_processes_goes_on_from_its_checkpoint_after_its_node_lost_power(
    cluster: SlurmCluster, annotated: Path, tmp_path: Path
) -> None:
    folder = copy_workspace(annotated, tmp_path / "workspace")
    shutil.rmtree(folder / "data/ek100/clips")
    (folder / "data/ek100/chunks/2-of-2.parquet").unlink()
    stage, logs = folder / "results/cluster/pretrain", logs_of(folder, cluster)
    with workflow(folder, ONE_RUN) as process:
        wait_until(lambda: process.poll() is not None or newest_checkpoint(stage) >= 8, "checkpoint", logs)
        assert process.poll() is None, f"the workflow ended before its training\n{logs()}"
        training = [line.split() for line in cluster.jobs("%i %T %N %k") if "pretrain_stage" in line]
        assert len(training) == 1 and training[0][1] == "RUNNING", f"{training}\n{logs()}"
        job, _, node, _ = training[0]
        cluster.cut_power(node)
        step_at_cut = newest_checkpoint(stage)
        assert not (stage / "model.safetensors").exists(), "training was over before the power was cut"
        wait_until(lambda: process.poll() is not None, "end of the workflow", logs)
        assert process.returncode == 0, logs()

    # Slurm gave the job to another node, where it took up the newest checkpoint ...
    assert cluster.nodes("down") == [node]
    jobs = cluster.finished_jobs()
    assert jobs[job]["NodeList"] != node
    log = (folder / "results/logs/train/cluster-pretrain.log").read_text()
    resumed = re.search(r"resumed after step (\d+) of (\d+)", log)
    assert resumed, log
    step, steps = int(resumed[1]), int(resumed[2])
    assert 8 <= step_at_cut <= step < steps
    # ... and went on to the end: every step is in the log once.
    assert steps_logged(stage) == list(range(1, steps + 1))

    metrics = json.loads((folder / "results/report/metrics.json").read_text())
    assert set(metrics["runs"]["cluster"]) == {"zero_shot_mir"}
    assert (folder / "results/report/index.html").stat().st_size > 0
    assert len(jobs) <= 14, jobs


def test_two_nodes_end_in_the_weights_of_one_though_the_queue_stops_both_half_way(
    cluster: SlurmCluster, annotated: Path, tmp_path: Path
) -> None:
    """A training of two nodes, stopped by SIGUSR1, and at the same time one of one node, by SIGTERM.

    That a stop changes no bit of several processes' weights is shown in `unit/train/test_distributed.py`.
    """
    folder = copy_workspace(annotated, tmp_path / "workspace")
    logs = logs_of(folder, cluster)
    places = {"usr1": {"nodes": 2, "processes": 1}, "term": {"processes": 2}}
    jobs: dict[str, str] = {}
    with workflow(folder, trainings(**places), "--", "pretrain") as process:
        for run in places:
            stage = folder / f"results/{run}/pretrain"
            wait_until(
                lambda at=stage: process.poll() is not None or newest_checkpoint(at) >= 2, "checkpoint", logs
            )
            lines = [line for line in cluster.jobs("%i %D %T %k") if f"wildcards_{run}_" in line]
            assert len(lines) == 1, f"{lines}\n{logs()}"
            jobs[run], *found = lines[0].split()[:3]
            assert found == [str(places[run].get("nodes", 1)), "RUNNING"], f"{lines}\n{logs()}"
            slurm_cluster.command(["scancel", f"--signal={run.upper()}", jobs[run]])
        wait_until(lambda: process.poll() is not None, "end of the workflow", logs)
        assert process.returncode == 0, logs()

    for run in places:
        stage = folder / f"results/{run}/pretrain"
        saved = re.search(rf"\b{run}/pretrain: asked to stop; saved after step (\d+) of (\d+)", logs())
        assert saved, logs()
        log = (folder / f"results/logs/train/{run}-pretrain.log").read_text()
        assert f"resumed after step {saved[1]} of {saved[2]}" in log
        assert steps_logged(stage) == list(range(1, int(saved[2]) + 1))
    two, one = (load_file(folder / f"results/{run}/pretrain/model.safetensors") for run in places)
    assert two.keys() == one.keys()
    assert all(torch.equal(two[name], weight) for name, weight in one.items())
    # The step of two nodes is srun's; that of one is Snakemake's, which makes 1 of it.
    assert cluster.finished_jobs()[jobs["usr1"]]["DerivedExitCode"] == f"{PREEMPTED_EXIT_CODE}:0"


def test_a_process_that_dies_on_the_second_node_ends_the_job_in_seconds_and_is_named(
    cluster: SlurmCluster, annotated: Path, tmp_path: Path
) -> None:
    folder = copy_workspace(annotated, tmp_path / "workspace")
    stage, logs = folder / "results/two/pretrain", logs_of(folder, cluster)
    overlay = trainings(two={"nodes": 2, "processes": 2})
    with workflow(folder, overlay, "--retries", "0", "--", "pretrain", cold=True) as process:
        wait_until(lambda: process.poll() is not None or newest_checkpoint(stage) >= 2, "checkpoint", logs)
        assert cluster.jobs("%T") == ["RUNNING"], logs()
        process_of(folder, rank=3, node=1).send_signal(signal.SIGABRT)
        began = time.monotonic()
        wait_until(lambda: cluster.jobs("%T") == ["FAILED"], "end of the job", logs)
        seconds = time.monotonic() - began
    said = (folder / "results/logs/train/two-pretrain.log").read_text()
    assert seconds < 30, f"{seconds}\n{said}"
    assert "Signal 6 (SIGABRT)" in said, said


@pytest.mark.parametrize("cluster", [{"min_job_age_seconds": 2}], indirect=True)
def test_jobs_that_the_queue_forgets_at_once_end_by_their_outputs(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """Without accounting: nothing but the outputs tells then how a job ended."""
    target, logs = "data/kinetics/videos.parquet", logs_of(tmp_path, cluster)
    with workflow(tmp_path, {"seed": 0}, "--", target) as process:
        wait_until(lambda: process.poll() is not None, "end of the workflow", logs)
        assert process.returncode == 0, logs()
    assert (tmp_path / target).exists()


def process_of(folder: Path, *, rank: int, node: int) -> psutil.Process:
    """The process that trains in this folder under this rank, on this node of its job."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has ended meanwhile
            found = process.environ()
            place = (process.cwd(), found.get("RANK"), found.get("SLURM_NODEID"))
            if place == (str(folder), str(rank), str(node)):
                return process
    raise AssertionError(f"no process has rank {rank} on node {node}")


def test_a_configuration_of_somebody_elses_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_cluster, "ETC", tmp_path)
    (tmp_path / "slurm.conf").write_text("ClusterName=theirs\n")
    cluster = SlurmCluster(tmp_path / "root")
    with pytest.raises(SlurmUnavailableError, match=r"slurm\.conf is there and is not ours"), cluster:
        pass
    assert (tmp_path / "slurm.conf").read_text() == "ClusterName=theirs\n"
    assert [path.name for path in tmp_path.iterdir()] == ["slurm.conf"]
