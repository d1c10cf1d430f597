"""A queue's or user's request to stop, turned into a flag that the engine looks at after each step."""

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

from avion_core.data.loader import STOP_SIGNALS

PREEMPTED_EXIT_CODE = 3
"""Exit code of a training that was asked to stop, has saved its state, and waits to be started again."""
SAVED_VARIABLE = "AVION_SAVED_FILE"
"""Names the file that a process touches before it ends with this code; train/torchrun.py looks for it."""


class PreemptedError(Exception):
    """The training was asked to stop; its state is saved."""


@dataclass
class StopFlag:
    """Whether the queue or the user has asked this process to stop."""

    requested: bool = False


@contextmanager
def stop_requests() -> Iterator[StopFlag]:
    """Turn STOP_SIGNALS into a flag while the context lasts."""
    flag = StopFlag()

    def on_signal(number: int, frame: FrameType | None) -> None:
        flag.requested = True

    previous = {number: signal.signal(number, on_signal) for number in STOP_SIGNALS}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def exit_preempted() -> NoReturn:
    """End with PREEMPTED_EXIT_CODE, when the state of all processes is saved."""
    if file := os.environ.get(SAVED_VARIABLE):
        Path(file).touch()
    sys.exit(PREEMPTED_EXIT_CODE)
