"""Thin programs, one per rule: parse, call one library function."""

import sys
from types import TracebackType


def _report(error_type: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print no traceback when Ctrl-C ends a program, not even while it imports."""
    if not issubclass(error_type, KeyboardInterrupt):
        sys.__excepthook__(error_type, error, trace)


sys.excepthook = _report  # before anything else is imported
