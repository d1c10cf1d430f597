"""A queue that forgets its jobs: they end by their outputs, and none is lost."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake_executor_plugin_slurm import Executor
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

from avion_core import slurm
from avion_core.slurm import PATIENCE, PatientExecutor, use_patient_executor


class Cluster:
    """A cluster's answers, one for each query, and an executor that asks it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: dict[str, str] | None) -> None:
        self.answers = iter(answers)
        self.ended: list[tuple[str, str]] = []
        monkeypatch.setattr(slurm, "query_job_status", self.query)
        monkeypatch.setattr(Executor, "check_active_jobs", self.plugin)
        self.executor = object.__new__(PatientExecutor)
        self.executor._ended, self.executor._absences = set(), slurm.Absences()
        self.executor.run_uuid, self.executor.logger = "run", logging.getLogger("test")
        monkeypatch.setattr(Executor, "report_job_success", self.note("success"))
        monkeypatch.setattr(Executor, "report_job_error", self.note("error"))

    def note(self, end: str) -> Any:
        return lambda executor, job, **_: self.ended.append((job.external_jobid, end))

    async def query(self, command: str, logger: Any) -> tuple[dict[str, str] | None, float | None]:
        assert command.startswith("squeue") and command.endswith("--name run")
        self.answer = next(self.answers)
        return self.answer, 0.1

    @staticmethod
    async def plugin(executor: Any, active_jobs: Any) -> Any:
        """The plugin whose own queries fail: it neither reports nor yields."""
        return
        yield

    def check(self, jobs: list[SubmittedJobInfo]) -> list[SubmittedJobInfo]:
        async def still_active() -> list[SubmittedJobInfo]:
            return [job async for job in self.executor.check_active_jobs(jobs)]

        return asyncio.run(still_active())


def job(number: str, *outputs: Path) -> SubmittedJobInfo:
    outputs_only: Any = SimpleNamespace(output=[str(path) for path in outputs])
    return SubmittedJobInfo(outputs_only, external_jobid=number, aux={"slurm_logfile": Path("log")})


def test_jobs_that_the_queue_has_forgotten_end_by_their_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made").touch()
    done, half, runs = (
        job("1", tmp_path / "made"),
        job("2", tmp_path / "made", tmp_path / "missing"),
        job("3", tmp_path / "missing"),
    )
    cluster = Cluster(monkeypatch, *[{"3": "RUNNING"}] * PATIENCE)
    jobs = [done, half, runs]
    for _ in range(PATIENCE - 1):
        assert cluster.check(jobs) == jobs and cluster.ended == []
    assert cluster.check(jobs) == [runs]
    assert cluster.ended == [("1", "success"), ("2", "error")]


def test_a_queue_that_does_not_answer_loses_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do a few answers without it in between, as of a controller that has just started."""
    jobs = [job("1", tmp_path / "missing")]
    cluster = Cluster(monkeypatch, None, {}, {}, {"1": "PENDING"}, {}, {}, None)
    for _ in range(7):
        assert cluster.check(jobs) == jobs
    assert cluster.ended == []


def test_the_first_check_may_come_before_the_executor_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception would end the only thread that asks."""
    cluster = Cluster(monkeypatch)
    del cluster.executor.run_uuid
    assert cluster.check([]) == []


@pytest.mark.parametrize(("grown", "until_the_next"), [(2, 2), (12, 6), (180, 6)])
def test_the_pause_between_queries_grows_with_the_first_wait_only(
    monkeypatch: pytest.MonkeyPatch, grown: float, until_the_next: float
) -> None:
    executor = Cluster(monkeypatch).executor
    settings = SimpleNamespace(init_seconds_before_status_checks=2)
    executor.workflow = SimpleNamespace(executor_settings=settings)
    executor.next_seconds_between_status_checks = grown
    assert executor.next_seconds_between_status_checks == until_the_next


def test_what_the_plugin_has_reported_is_not_active(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, {"1": "COMPLETED", "2": "RUNNING"})

    async def plugin(executor: Any, active_jobs: Any) -> Any:
        executor.report_job_success(active_jobs[0])
        yield active_jobs[1]

    monkeypatch.setattr(Executor, "check_active_jobs", plugin)
    jobs = [job("1"), job("2")]
    assert cluster.check(jobs) == jobs[1:]
    assert cluster.ended == [("1", "success")]


def test_snakemake_gets_the_patient_one(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = ExecutorPluginRegistry().get_plugin("slurm")
    monkeypatch.setattr(plugin, "executor", plugin.executor)
    use_patient_executor()
    assert ExecutorPluginRegistry().get_plugin("slurm").executor is PatientExecutor
