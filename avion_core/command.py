"""Run a command: bad input or a request to stop ends it with at most one line, not a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from avion_core.plugins import load_plugins
from avion_core.processes import end_cleanly_when_asked

TRACEBACK_VARIABLE = "AVION_TRACEBACK"
"""Set it to any value to see an error's traceback."""


def run(main: Callable[[], None]) -> None:
    """Load plug-ins and call `main`; a ValueError or OSError becomes `error: …` on standard error and code 1.

    A request to stop ends it and removes its temporary files.
    """
    end_cleanly_when_asked()
    try:
        load_plugins()
        main()
    except (ValueError, OSError) as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        print(f"error: {error}\n(set {TRACEBACK_VARIABLE}=1 for the traceback)", file=sys.stderr)
        sys.exit(1)
