"""Turn a queue's or user's request to stop into a flag that the engine checks after each step."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from avion_core.processes import heard_stop_signals

PREEMPTED_EXIT_CODE = 3
"""Exit code of a training that was asked to stop and has saved its state."""
SAVED_VARIABLE = "AVION_SAVED_FILE"
"""Variable with the path of a file that a process touches before it exits with this code; see torchrun.py."""


class Interrupt(BaseException):
    """Raised by `StopFlag.interrupting`."""


class PreemptedError(Exception):
    """The training was asked to stop; its state is saved."""


@dataclass
class StopFlag:
    """Whether the queue or the user has asked this process to stop."""

    requested: bool = False
    _interrupts: bool = False

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Raise Interrupt in the body as soon as a stop is requested, or at once if it was before."""
        self._interrupts = True
        try:
            self._raise_if_asked()
            yield
        finally:
            self._interrupts = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """A signal's handler."""
        self.requested = True
        self._raise_if_asked()

    def _raise_if_asked(self) -> None:
        if self.requested and self._interrupts:
            self._interrupts = False
            raise Interrupt


@contextmanager
def stop_requests() -> Iterator[StopFlag]:
    """Turn stop signals into a flag for the body."""
    flag = StopFlag()
    previous = {number: signal.signal(number, flag.on_signal) for number in heard_stop_signals()}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def exit_preempted() -> NoReturn:
    """Exit with PREEMPTED_EXIT_CODE, once the state of all processes is saved."""
    if file := os.environ.get(SAVED_VARIABLE):
        Path(file).touch()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # its reader has ended; unflushed output would change the exit code
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(PREEMPTED_EXIT_CODE)
