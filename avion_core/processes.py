"""Stop signals, and child processes that end with their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""Sent to all processes of a job to end it: SIGTERM from a queue, SIGINT from Ctrl-C, SIGHUP from a closing
terminal, SIGUSR1 from a queue some time before the limit (Slurm: `--signal=USR1@120`)."""
KEPT_IGNORED = (signal.SIGINT, signal.SIGHUP)
"""Signals that stay ignored if they were at the start: SIGHUP under `nohup`, SIGINT in jobs that a shell
without job control starts with `&`."""
PR_SET_PDEATHSIG = 1
SAME_REQUEST_SECONDS = 0.5
"""Signals this close together are one request: a terminal or queue may signal all processes at once, and
Snakemake forwards the signal to its jobs."""


def end_with_parent(number: int = signal.SIGKILL, *, parent: int | None = None) -> None:
    """Have the kernel send this process `number` when its parent dies, even by kill -9 (Linux only).

    `parent` is the parent's process id; if it is dead already, the signal comes at once. Call this in the
    child; in a forked one before anything else.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)


def end_cleanly_when_asked() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does, so that no half-written file is left.

    Only the first signal counts: another would interrupt the cleanup. Ctrl-\\ ends a process at once.
    """
    numbers = [number for number in heard_stop_signals() if number != signal.SIGUSR1]

    def handler(number: int, frame: FrameType | None) -> None:
        ignore(numbers)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, handler)


def ignore(numbers: Iterable[int]) -> None:
    """Ignore these signals from now on."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def heard_stop_signals() -> list[signal.Signals]:
    """STOP_SIGNALS without those of KEPT_IGNORED that are ignored."""
    ignored = [number for number in KEPT_IGNORED if signal.getsignal(number) is signal.SIG_IGN]
    return [number for number in STOP_SIGNALS if number not in ignored]


@contextmanager
def finishing_when_stopped(on_stop: Callable[[], object]) -> Iterator[None]:
    """Let the body finish before a stop signal takes effect.

    The first signal calls `on_stop`, which makes the body finish early; a second one takes effect at once,
    unless it comes so soon that it is the same request. Does nothing outside the main thread, which alone
    receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    times: list[float] = []

    def handler(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        times.append(time.monotonic())
        if len(heard) == 1:
            on_stop()
        elif times[-1] - times[0] > SAME_REQUEST_SECONDS:
            let_through()

    def let_through() -> None:
        for number, before in previous.items():
            signal.signal(number, before)
        if heard:
            os.kill(os.getpid(), heard[0])

    previous = {number: signal.signal(number, handler) for number in heard_stop_signals()}
    try:
        yield
    finally:
        let_through()
