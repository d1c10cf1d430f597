"""Processes that do not outlive the one that they work for."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def end_with_parent(number: int = signal.SIGKILL, *, parent: int | None = None) -> None:
    """Have the kernel send this process `number` when its parent dies, even by kill -9 (Linux only).

    `parent` is its process id: if it is dead already, the signal comes at once. Call this in the child; in a
    forked one before anything else.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)
