"""Environment variables that jobs see, and the place of caches."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

FOREIGN_VARIABLES = (
    "BASH_ENV",  # a script that every shell runs first; it may load another Python
    "PYTHONHOME",
    *(
        "FFREPORT",
        "AV_LOG_FORCE_COLOR",
    ),  # make FFmpeg write a report beside the chunks, or colour its messages
    *(
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
    ),  # another torchrun's
)
"""Environment variables of the user's shell that would change how jobs run."""


def prepare_environment(variables: MutableMapping[str, str], *, code: str | Path) -> None:
    """Set the shell's `variables` for jobs: this code, this interpreter, no other packages, UTF-8."""
    for name in FOREIGN_VARIABLES:
        variables.pop(name, None)
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path(variables)])
    variables["PYTHONPATH"] = str(code)
    variables["PYTHONNOUSERSITE"] = "1"  # conda's Python would read the user's packages
    variables["PYTHONUTF8"] = "1"


def use_writable_cache(variables: MutableMapping[str, str], *, instead: str | Path) -> None:
    """Set XDG_CACHE_HOME to `instead` if the cache folder is not writable, as in a read-only home."""
    cache = Path(variables.get("XDG_CACHE_HOME") or Path(variables.get("HOME", "/"), ".cache"))
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    if not os.access(cache, os.W_OK):
        variables["XDG_CACHE_HOME"] = str(Path(instead).absolute())
