"""Record the owner of Snakemake's lock on this folder, to remove the lock of a killed Snakemake."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import psutil

from avion_core.files import write_json

OWNER = Path(".snakemake/owner.json")
"""Host, process and its start time. Exists while Snakemake runs."""


def claim_folder() -> None:
    """Record that this process holds the lock."""
    process = psutil.Process()
    write_json(OWNER, [socket.gethostname(), os.getpid(), process.create_time()])


def release_folder() -> None:
    """Remove the record."""
    OWNER.unlink(missing_ok=True)


def forget_dead_owner() -> None:
    """Remove the lock of a Snakemake that was killed on this machine, so that the same command continues."""
    try:
        host, pid, began = json.loads(OWNER.read_text())
    except (OSError, ValueError, TypeError):
        return  # no owner, or a damaged record; Snakemake explains a lock itself
    alive = psutil.pid_exists(pid) and psutil.Process(pid).create_time() == began
    if host == socket.gethostname() and not alive:
        release_folder()
        for lock in OWNER.parent.glob("locks/*.lock"):
            lock.unlink()
