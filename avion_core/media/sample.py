"""Which frames of a clip a model sees: the sampling rules of the published recipes.

Frame numbers are those of the video at its constant rate; a clip is the half-open range
[start_frame, end_frame). Frames repeat where a clip has fewer than requested, or black ones follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
BLACK = -1
"""Number of a black frame that pads a clip."""


def frame_range(start_s: float, end_s: float, *, fps: float, frame_count: int) -> tuple[int, int]:
    """First frame and one past the last of a clip; never empty, within the video."""
    slack = 1e-6  # seconds computed from frame numbers must map back to them
    start = min(max(math.floor(start_s * fps + slack), 0), frame_count - 1)
    end = min(max(math.ceil(end_s * fps - slack), start + 1), frame_count)
    return start, end


def segment_frames(
    start_frame: int,
    end_frame: int,
    count: int,
    *,
    rng: np.random.Generator | None = None,
    view: int = 0,
    views: int = 1,
) -> NDArray[np.int64]:
    """One frame out of each of `count` equal parts of the clip (the rule of LaViLa and AVION).

    With `rng` each frame is drawn from its part; without, it is the middle of the part or, for several
    views of the same clip, the middle of the part's `view`-th share. Returns int64[count], ascending.
    Raises ValueError for an empty request or a view that does not exist.
    """
    _check(count, view, views)
    length = max(end_frame - start_frame, 1)
    parts = np.arange(count, dtype=np.int64)
    if rng is None:
        # floor(length * (part + (view + 1/2) / views) / count) in whole numbers
        return start_frame + length * (2 * (parts * views + view) + 1) // (2 * views * count)
    offsets = np.floor(length * (parts + rng.random(count)) / count).astype(np.int64)
    return start_frame + np.minimum(offsets, length - 1)


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` items spread evenly: the middle one of each equal part; all if there are no more."""
    if len(items) <= count:
        return list(items)
    return [items[place] for place in segment_frames(0, len(items), count)]


def window_frames(
    start_frame: int,
    end_frame: int,
    count: int,
    *,
    stride: int,
    rng: np.random.Generator | None = None,
    view: int = 0,
    views: int = 1,
) -> NDArray[np.int64]:
    """`count` frames `stride` apart: the window rule of VideoMAE on Kinetics.

    With `rng` the window starts anywhere in the clip; without, `views` windows are spread evenly over it,
    and a single one is centred. A window longer than the clip starts with it and repeats the last frame.
    Returns int64[count], ascending. Raises ValueError like segment_frames.
    """
    _check(count, view, views)
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    length = max(end_frame - start_frame, 1)
    slack = max(length - ((count - 1) * stride + 1), 0)
    first = slack // 2 if rng is None and views == 1 else _window_start(slack, rng, view, views)
    offsets = first + stride * np.arange(count, dtype=np.int64)
    return start_frame + np.minimum(offsets, length - 1)


def spread_window_frames(
    start_frame: int, end_frame: int, count: int, *, stride: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """A random window of frames spread evenly over `count * stride` frames, including the last.

    VideoMAE's rule for fine-tuning, also in AVION: 16 frames of 64 are 4 or 5 apart and span 63. A clip
    no longer than the window is sampled as by window_frames. Returns int64[count], ascending.
    """
    span = count * stride
    slack = end_frame - start_frame - span
    if slack <= 0:
        return window_frames(start_frame, end_frame, count, stride=stride, rng=rng)
    offsets = np.minimum(np.linspace(0, span, count).astype(np.int64), span - 1)
    return start_frame + int(rng.integers(slack)) + offsets


def jittered_window_frames(
    start_frame: int, end_frame: int, count: int, *, stride: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """A random window with each frame shifted by 0 to `stride` - 1 (AVION's VideoMAE pretraining).

    A clip shorter than the window repeats from its start. Returns int64[count].
    """
    _check(count, 0, 1)
    length = max(end_frame - start_frame, 1)
    first = int(rng.integers(max(length - count * stride, 0) + 1))
    jitter = rng.integers(stride, size=count)
    return start_frame + (first + stride * np.arange(count, dtype=np.int64) + jitter) % length


def lavila_segment_frames(
    start_frame: int, length: float, count: int, *, rng: np.random.Generator | None = None
) -> NDArray[np.int64]:
    """One frame out of each of LaViLa's parts of a clip: the middle, with `rng` any of its frames.

    Borders are `start_frame + round(i * (length - 1) / count)`, so that the last frame is in no part and a
    fraction of a frame in `length` counts (`get_frame_ids` of its `datasets.py`). Returns int64[count].
    """
    _check(count, 0, 1)
    borders = start_frame + np.round(np.arange(count + 1) * (length - 1) / count).astype(np.int64)
    if rng is None:
        return (borders[:-1] + borders[1:]) // 2
    return rng.integers(borders[:-1], np.maximum(borders[1:], borders[:-1] + 1))


def lavila_range(
    start_s: float, end_s: float, *, fps: float, frame_count: int, count: int, training: bool
) -> tuple[int, float]:
    """First frame and length of a clip as LaViLa counts them, within the video.

    Training clips have whole frames, at least `count`; those of evaluation keep the fraction.
    """
    start_s = max(start_s, 0.0)
    start = min(round(start_s * fps), frame_count - 1)
    length = (end_s - start_s) * fps
    length = max(int(length), count) if training else max(length, 1.0)
    return start, min(length, frame_count - start)


def padded_window_frames(
    start_frame: int,
    end_frame: int,
    count: int,
    *,
    stride: int,
    rng: np.random.Generator | None = None,
    view: int = 0,
    views: int = 1,
) -> NDArray[np.int64]:
    """`count` frames `stride` apart out of a window of `count * stride`; BLACK where the clip has ended.

    LaViLa's rule for EGTEA: with `rng` the window starts anywhere in the clip; without, `views` windows start
    evenly from the first to the last possible, and a single one at the first. Returns int64[count].
    """
    _check(count, view, views)
    slack = max(end_frame - start_frame - count * stride, 0)
    first = _window_start(slack, rng, view, views)
    numbers = start_frame + first + stride * np.arange(count, dtype=np.int64)
    return np.where(numbers < max(end_frame, start_frame + 1), numbers, BLACK)


def _window_start(slack: int, rng: np.random.Generator | None, view: int, views: int) -> int:
    """One of the starts 0 to `slack`, with `rng` any, else those of `views` evenly from first to last."""
    return int(rng.integers(slack + 1)) if rng is not None else slack * view // max(views - 1, 1)


def _check(count: int, view: int, views: int) -> None:
    if count < 1:
        raise ValueError(f"at least 1 frame must be asked for, got {count}")
    if not 0 <= view < views:
        raise ValueError(f"view {view} does not exist among {views}")


RANDOM_WINDOWS: dict[str, Callable[..., NDArray[np.int64]]] = {
    "spread_window": spread_window_frames,
    "jittered_window": jittered_window_frames,
}
"""Training rules that evaluation replaces with `window`, as the originals do."""
SAMPLINGS = ("segments", "lavila_segments", "window", "padded_window", *RANDOM_WINDOWS)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which frames of a clip form a view."""

    frames: int
    """Frames a view."""
    sampling: str
    """One of SAMPLINGS."""
    stride: int
    """Distance of a window's frames."""
    clips: int = 1
    """Evaluation: temporal views of a clip."""

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"unknown sampling '{self.sampling}'; known: {', '.join(SAMPLINGS)}")
        if self.sampling == "lavila_segments" and self.clips > 1:
            raise ValueError("lavila_segments take one temporal view; set the evaluation's clips to 1")

    def numbers(
        self,
        start_s: float,
        end_s: float,
        *,
        fps: float,
        frame_count: int,
        rng: np.random.Generator | None = None,
        view: int = 0,
    ) -> NDArray[np.int64]:
        """Frame numbers of a clip's view; random with `rng`, else fixed. `frame_count` is the video's."""
        if self.sampling == "lavila_segments":
            first, length = lavila_range(
                start_s,
                end_s,
                fps=fps,
                frame_count=frame_count,
                count=self.frames,
                training=rng is not None,
            )
            return lavila_segment_frames(first, length, self.frames, rng=rng)
        start, end = frame_range(start_s, end_s, fps=fps, frame_count=frame_count)
        if self.sampling == "segments":
            return segment_frames(start, end, self.frames, rng=rng, view=view, views=self.clips)
        if rng is not None and self.sampling in RANDOM_WINDOWS:
            return RANDOM_WINDOWS[self.sampling](start, end, self.frames, stride=self.stride, rng=rng)
        rule = padded_window_frames if self.sampling == "padded_window" else window_frames
        return rule(start, end, self.frames, stride=self.stride, rng=rng, view=view, views=self.clips)
