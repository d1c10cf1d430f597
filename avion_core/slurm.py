"""Snakemake's Slurm executor, for queues that forget their jobs.

Slurm forgets a job some time after its end (MinJobAge), and accounting may be absent or down. The executor
waits for ever for a job that the queue no longer names, and drops all jobs when no query succeeds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

from snakemake_executor_plugin_slurm import Executor
from snakemake_executor_plugin_slurm.job_status_query import query_job_status, query_job_status_squeue
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

PATIENCE = 3
"""Consecutive queries, at least 40 s apart, that must miss a job before it counts as forgotten."""


LONGEST_PAUSE = 3
"""Longest time between two queries, as a multiple of the first wait; the plugin's grows to three minutes."""


class Absences:
    """Counts consecutive queries that did not list a job."""

    def __init__(self) -> None:
        self._missed: dict[str, int] = {}

    def forgotten(self, jobs: Iterable[str], named: Iterable[str]) -> set[str]:
        """The `jobs` that this and the previous PATIENCE - 1 queries have missed."""
        known = {_array_of(job) for job in named}
        self._missed = {job: self._missed.get(job, 0) + 1 for job in jobs if _array_of(job) not in known}
        return {job for job, times in self._missed.items() if times >= PATIENCE}


def _array_of(job: str) -> str:
    """Expand array jobs: the queue lists waiting tasks of an array together, as 12_[3-9]."""
    return job.partition("_")[0]


class PatientExecutor(Executor):
    """The Slurm executor; a forgotten job has succeeded if its outputs exist."""

    def __post_init__(self, test_mode: bool = False) -> None:
        self._ended: set[str] = set()
        self._absences = Absences()
        super().__post_init__(test_mode)

    async def check_active_jobs(
        self, active_jobs: Sequence[SubmittedJobInfo]
    ) -> AsyncIterator[SubmittedJobInfo]:
        """Report finished jobs and yield the others."""
        if not active_jobs:  # perhaps before __post_init__ has given the queries their name
            return
        async for _ in super().check_active_jobs(active_jobs):
            pass
        left = {str(job.external_jobid): job for job in active_jobs if job.external_jobid not in self._ended}
        named, _ = await query_job_status(query_job_status_squeue(self.run_uuid), self.logger)
        forgotten = self._absences.forgotten(left, named) if named is not None else set()
        for number, job in left.items():
            if number not in forgotten:
                yield job
            elif all(Path(path).exists() for path in job.job.output):
                self.report_job_success(job)
            else:
                self.report_job_error(
                    job,
                    msg=f"Slurm no longer knows job {number}, and its outputs are not there. ",
                    aux_logs=[str(job.aux["slurm_logfile"])],
                )

    @property
    def next_seconds_between_status_checks(self) -> float:
        """The time until the next query, which grows while no job ends."""
        seconds: float = super().next_seconds_between_status_checks
        return min(seconds, LONGEST_PAUSE * self.workflow.executor_settings.init_seconds_before_status_checks)

    @next_seconds_between_status_checks.setter
    def next_seconds_between_status_checks(self, seconds: float) -> None:
        self._next_seconds_between_status_checks = seconds

    def report_job_success(self, job_info: SubmittedJobInfo) -> None:
        """Take note of the end, and report it."""
        self._ended.add(job_info.external_jobid)
        super().report_job_success(job_info)

    def report_job_error(self, job_info: SubmittedJobInfo, msg: str | None = None, **kwargs: object) -> None:
        """Take note of the end, and report it."""
        self._ended.add(job_info.external_jobid)
        super().report_job_error(job_info, msg=msg, **kwargs)


def use_patient_executor() -> None:
    """Replace Snakemake's `slurm` executor with the patient one."""
    ExecutorPluginRegistry().get_plugin("slurm").executor = PatientExecutor
