"""What a user of Snakemake sees: short lines, no shell commands, and the way out at the end."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from snakemake.logging import ColorizingTextHandler, DefaultFormatter
from snakemake_interface_logger_plugins.common import LogEvent

from avion_core.screen import LONGEST_LINE, Screen, take_over

JOB = {"jobid": 3, "rule_name": "pretrain_stage", "rule_msg": "Train pretrain of the run llm", "log": []}
DETAILS: dict[str, Any] = {"input": [], "output": [], "conda_env": None, "aux": {}}
COMMAND = "python -m workflow_scripts.train " + "x" * 2000


class Run:
    """A run's logger as Snakemake makes it, with a Screen before it."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        handler = ColorizingTextHandler(
            stream=self.stream, formatter=DefaultFormatter(show_failed_logs=False)
        )
        handler.name = "DefaultStreamHandler"
        self.logger = logging.Logger("run")
        self.logger.addHandler(handler)
        self.screen: Screen = take_over(self.logger)

    def log(self, event: LogEvent | None, text: str = "", **fields: Any) -> str:
        """Log this; what the screen shows of it."""
        before = len(self.stream.getvalue())
        self.logger.info(text, extra={"event": event, **fields})
        return self.stream.getvalue()[before:]

    def start(self, reason: str = "", **fields: Any) -> str:
        return self.log(LogEvent.JOB_INFO, **JOB | fields, reason=reason)

    def fail(self, **fields: Any) -> str:
        return self.log(LogEvent.JOB_ERROR, **JOB | DETAILS | fields, shellcmd=COMMAND)


def test_a_reason_of_34_kilobytes_is_one_short_line() -> None:
    shown = Run().start("Params have changed since last execution: before: " + "{plan}" * 6000)
    assert "Params have changed since last execution: before: {plan}" in shown
    assert max(len(line) for line in shown.splitlines()) <= LONGEST_LINE + 2


def test_a_failed_job_shows_no_command_and_ends_with_its_error_and_the_way_on(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("steps 1/9\rsteps 2/9\nerror: a.csv, line 3: no\n  way out\n(set AVION_TRACEBACK=1 …)\n")
    run = Run()
    run.start(log=[str(log)])
    shown = run.fail(log=[str(log)], rule_msg=None)
    shown += run.log(LogEvent.ERROR, f"RuleException:\nCalledProcessError in line 7:\nCommand '{COMMAND}' …")
    assert "Error in rule pretrain_stage" in shown and "xxx" not in shown
    title, error, way_out, place, last = run.screen.ending().splitlines()[1:]
    assert title == "Train pretrain of the run llm:"
    assert (error.strip(), way_out.strip()) == ("error: a.csv, line 3: no", "way out")
    assert place.strip() == f"({log})"
    assert last.endswith("the same command goes on from there.")


TRACEBACK = "Traceback (most recent call last):\n  File …\n    raise\n    ^^^^^\n"
FIRST = TRACEBACK.partition("\n")[0] + "\n"
TORCHRUNS = f"{TRACEBACK}torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n===\nCause"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (f"{TRACEBACK}RuntimeError: out of memory\nTried to allocate\n", "RuntimeError: out of memory"),
        (f"{TRACEBACK}KeyError: 'a'\n\nDuring handling …\n\n{TRACEBACK}TypeError: b\n", "TypeError: b"),
        (
            "".join(f"[rank1]: {line}\n" for line in f"{TRACEBACK}RuntimeError: c".splitlines()) + TORCHRUNS,
            "RuntimeError: c",
        ),
        (f"error: the loss is nan\n{TORCHRUNS}", "error: the loss is nan"),
        ("1/3 videos\nKilled\n\n", "Killed"),
        (
            f"[rank0]: {FIRST}[rank1]: {FIRST}[rank1]:   File …\n[rank0]:   File …\n[rank0]: KeyError: d\n",
            "KeyError: d",
        ),
        (f"{TORCHRUNS}\n traceback : Signal 9 (SIGKILL)\n====\n", "traceback : Signal 9 (SIGKILL)"),
        ("", "no message"),
        (None, "no message"),
    ],
    ids=[
        "traceback",
        "chain",
        "torchrun",
        "error beside torchrun's",
        "last line",
        "two at once",
        "a killed process",
        "empty",
        "no log",
    ],
)
def test_the_error_is_found_in_the_log(tmp_path: Path, said: str | None, error: str) -> None:
    log = tmp_path / "train.log"
    if said is not None:
        log.write_text(said)
    run = Run()
    run.fail(log=[str(log)])
    assert run.screen.ending().splitlines()[2].strip() == error


@pytest.mark.parametrize("said", ["steps 3/10\n", ""])
def test_a_job_that_was_killed_ends_with_a_way_out(tmp_path: Path, said: str) -> None:
    log = tmp_path / "train.log"
    log.write_text(said)
    run = Run()
    run.fail(log=[str(log)])
    ending = run.screen.ending()
    assert "lack of memory" in ending and "memory_mb" in ending


def test_a_job_whose_start_was_not_shown_may_finish() -> None:
    assert "Finished" in Run().log(LogEvent.JOB_FINISHED, "Finished jobid: 9", job_id=9)


def test_a_job_that_a_later_attempt_finished_has_not_failed() -> None:
    run = Run()
    run.fail()
    run.log(LogEvent.JOB_FINISHED, job_id=3)
    assert "Train pretrain" not in run.screen.ending()


def test_a_stopped_run_says_in_three_lines_what_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "train.log"
    log.write_text("llm/pretrain: asked to stop; saved after step 5 of 12; start it again to go on\n")
    run = Run()
    run.start(log=[str(log)])
    run.screen.stop()
    assert "Stopping" in capsys.readouterr().err
    assert run.fail(log=[str(log)]) == run.log(LogEvent.ERROR, f"Command '{COMMAND}'") == ""
    assert run.screen.ending().splitlines() == [
        "Stopped.",
        "Kept: every finished job; llm/pretrain saved after step 5 of 12.",
        "The same command goes on from there.",
    ]


STOPPED = """
import logging, os, signal, subprocess, sys
from avion_core.screen import stop_gently, take_over

asked = int(sys.argv[1])
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
stop_gently(take_over(logging.Logger("run")), jobs_here=True)
try:
    os.kill(os.getpid(), asked)
    signal.pause()
except KeyboardInterrupt:
    for again in (signal.SIGINT, signal.SIGTERM):  # a second request changes nothing
        os.kill(os.getpid(), again)
    if asked == signal.SIGINT:  # which a terminal sends to the jobs too
        child.send_signal(asked)
    print(child.wait(10))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_snakemake_alone_reaches_its_jobs_and_then_acts_like_ctrl_c(number: int) -> None:
    command = [sys.executable, "-c", STOPPED, str(int(number))]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(-number)


def test_what_nohup_ignores_stays_ignored() -> None:
    program = (
        "import logging, os, signal; from avion_core.screen import stop_gently, take_over;"
        "stop_gently(take_over(logging.Logger('run')), jobs_here=True);"
        "os.kill(os.getpid(), signal.SIGHUP); print('alive')"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = ["nohup", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout.strip() == "alive", done.stderr


def test_of_jobs_that_run_together_only_the_faulty_are_blamed_and_a_shared_error_is_said_once(
    tmp_path: Path,
) -> None:
    texts = {
        1: "error: out of memory\n(set A=1 …)\n",
        2: "error: out of memory\n(set A=1 …)\n",
        3: "5 of 9\n",
    }
    for number, text in texts.items():
        (tmp_path / f"{number}.log").write_text(text)
    run = Run()
    jobs = [{"jobid": job, "rule_msg": f"Job {job}", "log": [f"{tmp_path}/{job}.log"]} for job in texts]
    for job in jobs:
        run.start(**job)
    assert run.log(LogEvent.GROUP_ERROR, groupid="g", aux_logs=[], job_error_info=jobs) == ""
    for job in jobs:
        run.fail(**job)
    ending = run.screen.ending()
    assert ending.count("out of memory") == 1 and "Job 1" in ending and "Job 3" not in ending
    killed = Run()
    jobs = [{**job, "log": [f"{tmp_path}/3.log"]} for job in jobs]
    killed.log(LogEvent.GROUP_ERROR, groupid="g", aux_logs=[], job_error_info=jobs)
    for job in jobs:
        killed.fail(**job)
    assert all(f"Job {job}" in killed.screen.ending() for job in texts), "none is known to be faulty"
