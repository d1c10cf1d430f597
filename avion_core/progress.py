"""Progress of long work with an estimate of the remaining time: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

LINE_SECONDS = 10.0
"""Seconds between lines of a log."""


class Progress:
    """Counts work done. Use as a context manager; call `advance` after each piece.

    A log gets at most one line every LINE_SECONDS and one at the end:
    `transcode ego4d: 12/28 videos, 0:41 elapsed, 0:55 left`.
    """

    def __init__(self, title: str, total: int, *, unit: str = "steps", done: int = 0) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self._start = self._last = time.monotonic()
        self._at_start = done
        self._note = ""
        self._bar = (
            tqdm(desc=title, total=total, initial=done, unit=f" {unit}", dynamic_ncols=True)
            if sys.stderr.isatty()
            else None
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif error_type is None:
            self._line()

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Record that `count` more pieces are done; `note` (such as a loss) is shown too."""
        self.done += count
        self._note = note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last >= LINE_SECONDS:
            self._line()

    def _line(self) -> None:
        now = time.monotonic()
        self._last = now
        elapsed = now - self._start
        fresh = self.done - self._at_start
        remaining = elapsed / fresh * (self.total - self.done) if fresh else 0.0
        left = f", {_clock(remaining)} left" if fresh and self.done < self.total else ""
        note = f", {self._note}" if self._note else ""
        text = f"{self.title}: {self.done}/{self.total} {self.unit}, {_clock(elapsed)} elapsed{left}{note}"
        print(text, file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Print a line on standard error, above an open bar if there is one."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
