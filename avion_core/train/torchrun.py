"""torchrun that tells a job that was asked to stop, and has saved, from one that failed.

`python -m avion_core.train.torchrun OPTIONS -m module …` has torchrun's options and hands signals on.
torchrun ends with 1 in both cases; this ends with PREEMPTED_EXIT_CODE in the first.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from avion_core.train.preemption import PREEMPTED_EXIT_CODE, SAVED_VARIABLE

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
"""What is handed on to the processes."""


def main() -> None:
    """Run torchrun with this program's arguments."""
    with TemporaryDirectory() as folder:
        saved = Path(folder) / "saved"
        os.environ[SAVED_VARIABLE] = str(saved)
        try:
            torchrun([f"--signals-to-handle={SIGNALS}", f"--log-dir={folder}", *sys.argv[1:]])
        except (SignalException, ChildFailedError):
            if not saved.exists():
                raise
            sys.exit(PREEMPTED_EXIT_CODE)


if __name__ == "__main__":
    main()
