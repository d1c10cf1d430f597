"""The pipeline on a real Slurm of three nodes, through the profile that users take.

Needs root and Debian's Slurm, which it installs: `make test-slurm`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster
import yaml
from harness import ROOT, SMALL, environment
from slurm_cluster import SlurmCluster, SlurmUnavailableError

pytestmark = [pytest.mark.slurm, pytest.mark.workflow]

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
    "stages": {"pretrain": {"epochs": 12, "checkpoint_every_steps": 4, "log_every_steps": 1}},
}
"""Every stage once but fine-tuning, which is the same rule; training by two processes."""


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with ExitStack() as stack:
        try:
            lab = stack.enter_context(SlurmCluster(tmp_path_factory.mktemp("slurm")))
        except SlurmUnavailableError as reason:
            pytest.skip(str(reason))
        yield lab


@contextmanager
def workflow(folder: Path, overlay: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """Snakemake at work in `folder` through profiles/slurm; its output goes to snakemake.log."""
    settings = folder / "overlay.yaml"
    settings.write_text(yaml.safe_dump(overlay))
    line = [str(Path(sys.executable).parent / "snakemake"), "--snakefile", str(ROOT / "Snakefile")]
    line += ["--directory", str(folder), "--profile", str(ROOT / "profiles/slurm")]
    line += ["--configfile", str(SMALL), str(settings)]
    line += ["--default-resources", "slurm_partition=main", "slurm_account=lab", "mem_mb=200", "runtime=5"]
    line += ["--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10"]
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


def newest_checkpoint(stage: Path) -> int:
    """Steps of the newest checkpoint; 0 without one."""
    names = [path.name for path in stage.glob("checkpoints/*/step-*")]
    return max((int(name.removeprefix("step-")) for name in names), default=0)


def test_training_on_two_processes_goes_on_from_its_checkpoint_after_its_node_lost_power(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    stage = tmp_path / "results/cluster/pretrain"

    def logs() -> str:
        return (tmp_path / "snakemake.log").read_text()[-6000:] + cluster.logs()

    with workflow(tmp_path, ONE_RUN) as process:
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
    log = (tmp_path / "results/logs/train/cluster-pretrain.log").read_text()
    resumed = re.search(r"resumed after step (\d+) of (\d+)", log)
    assert resumed, log
    step, steps = int(resumed[1]), int(resumed[2])
    assert 8 <= step_at_cut <= step < steps
    # ... and went on to the end: every step is in the log once.
    curve = [json.loads(line) for line in (stage / "train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in curve] == list(range(1, steps + 1))

    metrics = json.loads((tmp_path / "results/report/metrics.json").read_text())
    assert set(metrics["runs"]["cluster"]) == {"zero_shot_mir"}
    assert (tmp_path / "results/report/index.html").stat().st_size > 0
    assert len(jobs) <= 20, jobs


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
