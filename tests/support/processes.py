"""Programs that run as several processes, as torchrun starts them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from avion_core.launch import ONE_NODE

PROCESSES = 2


def start(
    program: Path, *arguments: object, processes: int = PROCESSES, prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a program as several processes in a session of their own, until all of them have ended."""
    command = [*prefix, sys.executable, "-m", "workflow_scripts.torchrun", *ONE_NODE.split()]
    command += [f"--nproc-per-node={processes}"]
    repository = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(program), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,  # half of what the processes would wait for one another
        start_new_session=True,
    )
