"""How a command ends when its input is at fault, or the user stops it: one line or none, not a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from avion_core.processes import end_cleanly_when_asked
from avion_core.registry import load_plugins

TRACEBACK_VARIABLE = "AVION_TRACEBACK"
"""Set it to anything to see where an error arose."""


def run(main: Callable[[], None]) -> None:
    """Load plug-ins and call `main`; a ValueError or OSError becomes `error: …` on standard error and code 1.

    A request to stop ends it with its temporary files removed.
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
