"""torchrun with forwarded signals and a separate exit code for trainings that were stopped and have saved.

`python -m workflow_scripts.torchrun OPTIONS -m module …` has torchrun's options. On a signal torchrun gives
its processes 30 seconds and ends with 1. This program waits until they have saved, however often it is told
to stop, and ends with PREEMPTED_EXIT_CODE. If it is killed itself, its processes save and end (`join_world`).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import psutil
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from avion_core.processes import heard_stop_signals
from avion_core.train.distributed import LAUNCHER_VARIABLE
from avion_core.train.preemption import PREEMPTED_EXIT_CODE, SAVED_VARIABLE


def main() -> None:
    """Run torchrun with this program's arguments."""
    check_meeting_point(sys.argv[1:])
    asked = False

    def hand_on(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        logging.disable()  # torchrun reports every process that ends now as a failure
        processes = psutil.Process().children()
        for process in processes:
            process.send_signal(number)
        if not processes:
            sys.exit(1)

    for number in heard_stop_signals():
        signal.signal(number, hand_on)
    os.environ[LAUNCHER_VARIABLE] = str(os.getpid())
    with TemporaryDirectory() as folder:
        saved = Path(folder) / "saved"
        os.environ[SAVED_VARIABLE] = str(saved)
        try:
            torchrun(["--signals-to-handle=SIGQUIT", f"--log-dir={folder}", *sys.argv[1:]])
        except (SignalException, ChildFailedError):
            if saved.exists():
                sys.exit(PREEMPTED_EXIT_CODE)
            if asked:
                sys.exit(1)
            raise


def check_meeting_point(arguments: list[str]) -> None:
    """Exit with one error if the first node's name does not resolve: torchrun would wait ten minutes."""
    for argument in arguments:
        name = argument.removeprefix("--master-addr=")
        if name == argument:
            continue
        try:
            socket.getaddrinfo(name, None)
        except socket.gaierror:
            sys.exit(
                f"error: the name of the first node, {name}, does not resolve on {socket.gethostname()}; "
                "the nodes of a training must know each other by name (docs/cluster.md)"
            )
