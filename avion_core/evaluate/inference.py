"""Run a trained model over every clip of a table: decode views ahead, average outputs, list bad clips.

Nothing here is random. A clip that cannot be read is skipped and reported, never replaced.

Shapes: N clips read, B clips in a batch, V views of a clip, D numbers out of the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avion_core.data.clips import BadClip, ClipTable
from avion_core.data.deadline import too_slow
from avion_core.data.tokenizer import longest
from avion_core.media import MediaError
from avion_core.progress import Progress

Pool = Literal["mean", "max"]
"""How the outputs of a clip's views become one."""
TEXTS_AT_ONCE = 256
"""Sentences per batch."""


class Views(Protocol):
    """Clip reader: `avion_core.data.dataset.ClipDataset` with an evaluation view."""

    def sample(self, row: int, rng: np.random.Generator) -> Mapping[str, Any]:
        """`{"frames": uint8 V,T,H,W,C, …}` of a row; MediaError when it cannot be read."""


@dataclass(frozen=True)
class Inference:
    """Output of the model for every clip that could be read, in the table's order."""

    rows: npt.NDArray[np.int64]
    """Row of each in the clip table, int64[N]."""
    outputs: npt.NDArray[np.float32]
    """The model's outputs, pooled over the clip's views, N,D."""
    bad: tuple[BadClip, ...]
    """Clips that could not be read."""

    def bad_clips(self) -> list[dict[str, Any]]:
        """The bad clips as written to metrics.json."""
        return [{name: value for name, value in asdict(clip).items() if name != "row"} for clip in self.bad]


class NothingReadError(ValueError):
    """No clip of a table can be read."""

    def __init__(self, message: str, bad: Sequence[BadClip]) -> None:
        super().__init__(message)
        self.bad = bad


def over_clips(
    forward: Callable[[Tensor, Sequence[int]], Tensor],
    dataset: Views,
    clips: ClipTable,
    *,
    views: int,
    batch_size: int,
    threads: int,
    clip_timeout_s: float,
    max_bad_share: float,
    limit: str,
    device: torch.device,
    title: str,
    pool: Pool = "mean",
) -> Inference:
    """`forward(frames_BTHWC uint8, rows) -> B,D` of every clip of the table, pooled over its `views`.

    `rows` are those of the batch's clips in the table. `batch_size` counts views; `threads` decode while the
    model computes. A clip that takes longer than `clip_timeout_s` seconds is bad. Raises ValueError once more
    than `max_bad_share` of the clips cannot be read (`limit` is the setting, for the message), and
    NothingReadError if none can.
    """
    rows: list[int] = []
    outputs: list[Tensor] = []
    bad: list[BadClip] = []

    def set_aside(clip: BadClip) -> None:
        bad.append(clip)
        progress.advance(note=f"{len(bad)} bad")
        if len(bad) > max_bad_share * len(clips):
            raise ValueError(f"{title}: {_too_many(bad, clips, limit)}")

    with (
        Progress(title, len(clips), unit="clips") as progress,
        closing(_Readers(dataset, clips, threads=threads, clip_timeout_s=clip_timeout_s)) as readers,
        torch.inference_mode(),
    ):
        readable = _readable(readers, clips, ahead=2 * threads + 1, set_aside=set_aside)
        while batch := list(islice(readable, max(1, batch_size // views))):
            batch_rows, frames = [row for row, _ in batch], np.stack([frames for _, frames in batch])
            outputs.append(_pooled(forward, frames, batch_rows, device, pool))
            # wait for the batch before this one only, so that reading goes on while a GPU computes
            outputs[-2:-1] = [output_BD.cpu() for output_BD in outputs[-2:-1]]
            rows += batch_rows
            progress.advance(len(batch), note=f"{len(bad)} bad" if bad else "")
    if not rows:
        first = f": {bad[0].reason}" if bad else ""
        raise NothingReadError(f"{title}: none of the {len(clips)} clips can be read{first}", bad)
    outputs[-1] = outputs[-1].cpu()
    return Inference(np.array(rows, np.int64), torch.cat(outputs).numpy(), tuple(bad))


def _too_many(bad: Sequence[BadClip], clips: ClipTable, limit: str) -> str:
    return (
        f"{len(bad)} or more of {len(clips)} clips cannot be read, more than {limit} allows; the last: "
        f"{bad[-1].reason}. Repair them, or raise it"
    )


def _pooled(
    forward: Callable[[Tensor, Sequence[int]], Tensor],
    views_BVTHWC: npt.NDArray[np.uint8],
    rows: Sequence[int],
    device: torch.device,
    pool: Pool,
) -> Tensor:
    """Outputs B,D pooled over the views, on `device`; nothing waits for a GPU."""
    frames = torch.from_numpy(views_BVTHWC)
    if device.type == "cuda":
        frames = frames.pin_memory().to(device, non_blocking=True)
    outputs_BVD = forward(frames.flatten(0, 1), rows).float().unflatten(0, views_BVTHWC.shape[:2])
    return outputs_BVD.amax(1) if pool == "max" else outputs_BVD.mean(1)


class _Readers:
    """Threads that read clips. A hung thread is replaced and does not block program exit."""

    def __init__(self, dataset: Views, clips: ClipTable, *, threads: int, clip_timeout_s: float) -> None:
        self._dataset, self._clips, self._clip_timeout_s = dataset, clips, clip_timeout_s
        self._asked: SimpleQueue[tuple[int, Future[Mapping[str, Any]]] | None] = SimpleQueue()
        self._threads = 0
        for _ in range(threads):
            self._add()

    def ask(self, row: int) -> Future[Mapping[str, Any]]:
        """Queue a row to be read."""
        answer: Future[Mapping[str, Any]] = Future()
        self._asked.put((row, answer))
        return answer

    def take(self, row: int, answer: Future[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Wait for a queued row's sample. Raises MediaError when it is not read in time."""
        if not wait([answer], timeout=self._clip_timeout_s).done:
            self._add()
            raise too_slow(self._clips.video_id(row), self._clip_timeout_s)
        return answer.result()

    def close(self) -> None:
        """End the threads once all queued rows are read."""
        for _ in range(self._threads):
            self._asked.put(None)

    def _add(self) -> None:
        self._threads += 1
        Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        for row, answer in iter(self._asked.get, None):
            try:
                # an evaluation view draws nothing, so all rows can share a seed
                answer.set_result(self._dataset.sample(row, np.random.default_rng(0)))
            except BaseException as error:
                answer.set_exception(error)


def _readable(
    readers: _Readers, clips: ClipTable, *, ahead: int, set_aside: Callable[[BadClip], None]
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Row and frames_VTHWC of each clip in order, read `ahead` clips in advance; bad ones are set aside."""
    remaining = iter(range(len(clips)))
    asked = deque((row, readers.ask(row)) for row in islice(remaining, ahead))
    while asked:
        row, answer = asked.popleft()
        try:
            frames_VTHWC = readers.take(row, answer)["frames"]
        except MediaError as error:
            set_aside(clips.bad(row, str(error)))
        else:
            yield row, frames_VTHWC
        asked.extend((row, readers.ask(row)) for row in islice(remaining, 1))


def over_texts(
    encode: Callable[[Tensor], Tensor], tokens_ML: Tensor, *, device: torch.device
) -> npt.NDArray[np.float32]:
    """`encode(tokens_BL) -> B,D` of all tokenised sentences: M,D."""
    with torch.inference_mode():
        parts = [
            encode(part[:, : longest(part)].to(device)).float().cpu()
            for part in tokens_ML.split(TEXTS_AT_ONCE)
        ]
    return torch.cat(parts).numpy()


def unit_length(vectors_ND: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The vectors scaled to length 1; a mean of unit vectors is shorter."""
    return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)


def choose_device(gpus: int) -> torch.device:
    """The GPU if `gpus` is set, else the CPU. Raises ValueError when there is no GPU."""
    if not gpus:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("the evaluation asks for a GPU (gpus: 1), and torch finds none; set gpus: 0")
    return torch.device("cuda")
