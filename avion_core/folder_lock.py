"""Who holds Snakemake's lock on this folder, so that the lock of a killed Snakemake stops nobody."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import psutil

from avion_core.files import write_json

OWNER = Path(".snakemake/owner.json")
"""Host, process and when it began. There while work goes on."""


def claim_folder() -> None:
    """Record that this process holds the lock."""
    process = psutil.Process()
    write_json(OWNER, [socket.gethostname(), os.getpid(), process.create_time()])


def release_folder() -> None:
    """Remove the record."""
    OWNER.unlink(missing_ok=True)


def forget_dead_owner() -> None:
    """Remove the lock of a Snakemake that was killed on this machine, so that the same command goes on."""
    try:
        host, pid, began = json.loads(OWNER.read_text())
    except (OSError, ValueError, TypeError):
        return  # nobody's, or cut; a lock is then Snakemake's to explain
    alive = psutil.pid_exists(pid) and psutil.Process(pid).create_time() == began
    if host == socket.gethostname() and not alive:
        release_folder()
        for lock in OWNER.parent.glob("locks/*.lock"):
            lock.unlink()
