"""Record the owner of Snakemake's lock on this folder, to remove the lock of a killed Snakemake."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import psutil

from avion_core.files import write_json

OWNER = Path(".snakemake/owner.json")
"""Host, process and its start time. Exists while Snakemake runs."""


def claim_folder() -> None:
    """Record that this process holds the lock, unless another does, beside which `plan` may run."""
    if not _is_alive(_owner()):
        write_json(OWNER, _record(psutil.Process()))


def release_folder() -> None:
    """Remove this process's record."""
    if _owner() == _record(psutil.Process()):
        OWNER.unlink(missing_ok=True)


def forget_dead_owner() -> None:
    """Remove the lock of a Snakemake that was killed on this machine, so that the same command continues."""
    owner = _owner()
    if owner and owner[0] == socket.gethostname() and not _is_alive(owner):
        OWNER.unlink(missing_ok=True)
        for lock in OWNER.parent.glob("locks/*.lock"):
            lock.unlink()


def _owner() -> list[Any] | None:
    """The record; None if there is none or it is damaged, as Snakemake explains a lock itself."""
    try:
        host, pid, began = json.loads(OWNER.read_text())
    except (OSError, ValueError, TypeError):
        return None
    return [host, pid, began]


def _record(process: psutil.Process) -> list[Any]:
    return [socket.gethostname(), process.pid, process.create_time()]


def _is_alive(owner: list[Any] | None) -> bool:
    """Whether the owner runs on this machine."""
    try:
        return owner is not None and _record(psutil.Process(owner[1])) == owner
    except (psutil.NoSuchProcess, TypeError, ValueError):
        return False
