"""A time limit for reading one clip, so that a hanging file system does not hang the job."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from avion_core.media import MediaError


def too_slow(video_id: str, seconds: float) -> MediaError:
    """The error for a clip that is not read in time."""
    return MediaError(video_id, f"reading a clip took longer than {seconds:g} seconds")


@contextmanager
def time_limit(seconds: float, video_id: str) -> Iterator[None]:
    """Raise MediaError in a body that takes longer; works only in a process's main thread."""

    def on_alarm(number: int, frame: FrameType | None) -> None:
        raise too_slow(video_id, seconds)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
