"""Snakemake's output: no shell commands, lines that fit a screen, and at the end the error and a way out.

Its log file (.snakemake/log) has everything. `-p` still prints the commands.
"""

from __future__ import annotations

import atexit
import logging
import re
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from avion_core.processes import heard_stop_signals

LONGEST_LINE = 300
"""Longest line in characters; longer ones are cut."""
TRACEBACK = re.compile(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(\S.*)", re.MULTILINE)
"""A traceback and the error at its end."""
OURS = re.compile(r"^error: .*?(?=\n\(set |\Z)", re.MULTILINE | re.DOTALL)
"""A program's own error."""
RANK = re.compile(r"\[rank\d+\]: ?")
"""Prefix of each line in torch's traceback of a process."""
TORCHRUNS = "torch.distributed.elastic"
"""Start of torchrun's own error after a process has failed."""
SILENT = """\
  This is not an error message: the process may have been killed, most often for lack of memory. Run fewer
  jobs at once (--cores), or request more memory (memory_mb)."""
"""Shown below the last line of a log without an error."""
SAVED = re.compile(r"(\S+): asked to stop; (saved after step \d+ of \d+)")
"""A training's last line after a request to stop."""


class Screen(logging.Formatter):
    """Formats Snakemake's records for the screen and records failed jobs."""

    def __init__(self, inner: logging.Formatter) -> None:
        """`inner` is Snakemake's own formatter."""
        super().__init__()
        self._inner = inner
        self._jobs: dict[int, tuple[str, list[Path]]] = {}
        self._failed: set[int] = set()
        self._ended_with_group: set[int] = set()
        self._stopping = False

    def format(self, record: logging.LogRecord) -> str:
        """The text, or "" for nothing."""
        fields = record.__dict__
        event = getattr(fields.get("event"), "value", None)
        if event in ("job_info", "job_error"):
            job = fields["rule_msg"] or fields["rule_name"], [Path(path).absolute() for path in fields["log"]]
            self._jobs.setdefault(fields["jobid"], job)  # an error record has no message
        if event == "group_error":  # records of its jobs follow
            self._ended_with_group |= _without_fault(fields["job_error_info"])
            return ""
        if event == "job_error" and fields["jobid"] in self._ended_with_group:
            return ""
        if event == "job_error":
            self._failed.add(fields["jobid"])
            record = logging.makeLogRecord(fields | {"shellcmd": None})
        elif event == "job_finished":
            self._jobs.pop(fields["job_id"], None)  # with --quiet, its start was not seen
            self._failed.discard(fields["job_id"])
        text = self._inner.format(record)
        if self._stopping or (event == "error" and "CalledProcessError" in text):
            return ""
        return _clipped(text) if event in ("job_info", "job_error") else text

    def stop(self) -> None:
        """Note the user's request to stop: jobs that end from now on did not fail."""
        self._stopping = True
        print("Stopping: trainings save first (Ctrl-\\ ends them without that).", file=sys.stderr, flush=True)

    def watch(self) -> None:
        """Print `ending()` after Snakemake's output, unless `succeed` is called first."""
        atexit.register(self._print_ending)

    def succeed(self) -> None:
        """Note that the run succeeded."""
        atexit.unregister(self._print_ending)

    def _print_ending(self) -> None:
        print(f"\n{self.ending()}", file=sys.stderr)

    def ending(self) -> str:
        """The last lines of a run that was stopped or has failed."""
        return self._stopped() if self._stopping else self._failures()

    def _stopped(self) -> str:
        said = [_last_message(log) for _, logs in self._jobs.values() for log in logs]
        saved = [f"{found[1]} {found[2]}" for found in map(SAVED.search, said) if found]
        kept = ["every finished job", *saved]
        return f"Stopped.\nKept: {'; '.join(kept)}.\nThe same command goes on from there."

    def _failures(self) -> str:
        lines = ["Failed:" if self._failed else "Failed; the error is above."]
        told: set[str] = set()
        for title, logs in (self._jobs[job] for job in sorted(self._failed)):
            said = {log: _last_message(log) or "no message" for log in logs}
            if not said or told.isdisjoint(said.values()):  # jobs that run together may share an error
                lines += [f"{title}:", *(f"  {message}\n  ({log})" for log, message in said.items())]
            told |= {message for message in said.values() if not message.endswith(SILENT)}
        lines.append("Finished work is kept. Once the cause is fixed, the same command goes on from there.")
        return "\n".join(lines)


def _clipped(text: str) -> str:
    lines = text.splitlines()
    return "\n".join(line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} …" for line in lines)


def _without_fault(group: list[dict[str, Any]]) -> set[int]:
    """Jobs of a failed group that were stopped with it: those without an error, if another has one."""
    faulty = {job["jobid"] for job in group if any(_errors(Path(log)) for log in job["log"])}
    return {job["jobid"] for job in group} - faulty if faulty else set()


def _errors(log: Path) -> list[str]:
    """Errors in a log: lines of a program's `error: …`."""
    text = log.read_text(errors="replace") if log.is_file() else ""
    return OURS.findall(text.replace("\r", "\n"))


def _last_message(log: Path) -> str:
    """A program's error from its log: `error: …`, or a traceback's error, or the last line."""
    if not log.is_file():
        return ""
    text = log.read_text(errors="replace").replace("\r", "\n")
    if saved := SAVED.search(text):
        return saved[0]
    ours = OURS.findall(text)
    raised = [error for error in TRACEBACK.findall(_by_rank(text)) if not error.startswith(TORCHRUNS)]
    if ours or raised:
        return (ours or raised)[-1].strip()
    lines = [line for line in text.splitlines() if re.search(r"\w", line)]
    return f"{lines[-1].strip() if lines else 'no message'}\n{SILENT}"


def _by_rank(text: str) -> str:
    """Regroup interleaved lines by process, without their prefix."""
    lines = text.splitlines()
    marks = [found[0] if (found := RANK.match(line)) else "" for line in lines]
    order = sorted(range(len(lines)), key=marks.__getitem__)
    return "\n".join(lines[place].removeprefix(marks[place]) for place in order)


def take_over(logger: logging.Logger) -> Screen:
    """Filter Snakemake's own output through a Screen; does nothing with a logger plugin."""
    screen = Screen(logging.Formatter())
    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler" and handler.formatter is not None:
            screen = Screen(handler.formatter)
            handler.setFormatter(screen)
    return screen


def stop_gently(screen: Screen, *, jobs_here: bool) -> None:
    """Make SIGTERM and SIGHUP to Snakemake act like Ctrl-C, and ignore all but the first signal.

    With `jobs_here`, jobs are processes of this machine: signals are forwarded to them, as the terminal does
    with Ctrl-C. Snakemake then waits for them to end.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        for heard in numbers:
            signal.signal(heard, lambda number, frame: None)
        screen.stop()
        if jobs_here and number != signal.SIGINT:
            for process in psutil.Process().children(recursive=True):
                process.send_signal(number)
        raise KeyboardInterrupt

    numbers = [number for number in heard_stop_signals() if number != signal.SIGUSR1]
    for number in numbers:
        signal.signal(number, handler)
