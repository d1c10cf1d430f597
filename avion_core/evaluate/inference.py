"""A trained model over every clip of a table: views decoded ahead, averaged, bad clips listed.

Nothing here is random. A clip that cannot be read is left out and reported; no other takes its place.

Shapes: N clips read, B clips in a batch, V views of a clip, D numbers out of the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avion_core.data.clips import ClipTable
from avion_core.media import MediaError
from avion_core.media.decode import stack_clips
from avion_core.progress import Progress

TEXTS_AT_ONCE = 256
"""Sentences encoded together."""


class Views(Protocol):
    """What reads a clip: `avion_core.data.dataset.ClipDataset` with an evaluation view."""

    def sample(self, row: int, rng: np.random.Generator) -> Mapping[str, Any]:
        """`{"frames": uint8 V,T,H,W,C, …}` of a row; MediaError when it cannot be read."""


@dataclass(frozen=True)
class BadClip:
    """A clip that could not be read, and why."""

    video_id: str
    start_s: float
    end_s: float
    reason: str


@dataclass(frozen=True)
class Inference:
    """Output of the model for every clip that could be read, in the table's order."""

    rows: npt.NDArray[np.int64]
    """Row of each in the clip table, int64[N]."""
    outputs: npt.NDArray[np.float32]
    """Mean of the model's outputs over the clip's views, N,D."""
    bad: tuple[BadClip, ...]
    """What is missing."""

    def bad_clips(self) -> list[dict[str, Any]]:
        """The bad clips as they stand in metrics.json."""
        return [asdict(clip) for clip in self.bad]


def over_clips(
    forward: Callable[[Tensor], Tensor],
    dataset: Views,
    clips: ClipTable,
    *,
    views: int,
    batch_size: int,
    threads: int,
    device: torch.device,
    title: str,
) -> Inference:
    """`forward(frames_BTHWC uint8) -> B,D` of every clip of the table, averaged over its `views`.

    `batch_size` counts views; `threads` decode while the model computes. Raises ValueError when no clip
    can be read.
    """
    rows: list[int] = []
    outputs: list[Tensor] = []
    bad: list[BadClip] = []
    with Progress(title, len(clips), unit="clips") as progress, torch.inference_mode():
        readable = _readable(dataset, clips, threads=threads, bad=bad, progress=progress)
        while batch := list(islice(readable, max(1, batch_size // views))):
            frames_BVTHWC = torch.from_numpy(stack_clips([frames for _, frames in batch])).to(device)
            output_BVD = forward(frames_BVTHWC.flatten(0, 1)).float().unflatten(0, (len(batch), views))
            outputs.append(output_BVD.mean(1).cpu())
            rows += [row for row, _ in batch]
            progress.advance(len(batch), note=f"{len(bad)} bad" if bad else "")
    if not rows:
        first = f": {bad[0].reason}" if bad else ""
        raise ValueError(f"{title}: none of the {len(clips)} clips can be read{first}")
    return Inference(np.array(rows, np.int64), torch.cat(outputs).numpy(), tuple(bad))


def _readable(
    dataset: Views, clips: ClipTable, *, threads: int, bad: list[BadClip], progress: Progress
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Row and frames_VTHWC of each clip in order; those that cannot be read join `bad`."""
    ahead: deque[tuple[int, Future[Mapping[str, Any]]]] = deque()
    remaining = iter(range(len(clips)))
    with ThreadPoolExecutor(threads) as pool:
        while True:
            for row in remaining:
                # an evaluation view draws nothing, so all rows may have the same generator
                ahead.append((row, pool.submit(dataset.sample, row, np.random.default_rng(0))))
                if len(ahead) > 2 * threads:
                    break
            if not ahead:
                return
            row, pending = ahead.popleft()
            try:
                frames_VTHWC = pending.result()["frames"]
            except MediaError as error:
                bad.append(BadClip(clips.video_id(row), clips.start_s(row), clips.end_s(row), str(error)))
                progress.advance(note=f"{len(bad)} bad")
            else:
                yield row, frames_VTHWC


def over_texts(
    encode: Callable[[Tensor], Tensor], tokens_ML: Tensor, *, device: torch.device
) -> npt.NDArray[np.float32]:
    """`encode(tokens_BL) -> B,D` of all tokenised sentences: M,D."""
    with torch.inference_mode():
        parts = [encode(part.to(device)).float().cpu() for part in tokens_ML.split(TEXTS_AT_ONCE)]
    return torch.cat(parts).numpy()


def unit_length(vectors_ND: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The vectors scaled to length 1: a mean of unit vectors is shorter."""
    return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)


def choose_device(gpus: int) -> torch.device:
    """The GPU if one is asked for, else the CPU. Raises ValueError when there is none to use."""
    if not gpus:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("the evaluation asks for a GPU (gpus: 1), and torch finds none; set gpus: 0")
    return torch.device("cuda")
