"""Batches of clips in an order that depends only on the seed and the epoch.

A sample's generator is seeded from (seed, epoch, row), so batches are the same for any number of worker
processes, and an epoch can start at any step without reading the earlier ones. A clip that cannot be decoded
is recorded and replaced by a clip from another step of the epoch; too many stop the run. No step has a clip
twice: a contrastive loss would treat its text as a negative of itself. Neighbours in time, if a batch has
any, are drawn from the whole table, and may be clips that it has already.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, get_worker_info

from avion_core.data.clips import BadClip, ClipTable
from avion_core.data.deadline import time_limit
from avion_core.data.device_augment import packed
from avion_core.data.neighbours import Neighbours
from avion_core.data.shared import BufferPool, SharedTensor
from avion_core.data.tokenizer import longest
from avion_core.media import MediaError
from avion_core.processes import STOP_SIGNALS, end_with_parent

Batch = dict[str, torch.Tensor]
"""frames uint8 [B, T, H, W, C] or [B, V, T, H, W, C]; rows int64 [B]; with texts also tokens int64 [B, L]
of the longest text, and text_ids int64 [B]; the samples' own entries; with draws for the device, those of
`device_augment.packed`. With neighbours, B is twice the batch size: first all anchors, then a neighbour of
each."""
SPARE_STAND_INS = 8
"""Stand-ins per batch beyond one for each clip, as stand-ins may be bad themselves."""
LONGEST_HANG_SECONDS = 300.0
"""Of one batch, if other processes wait for it, which they do for `train.distributed.TIMEOUT_SECONDS`."""
GRACE_CLIPS = 200
"""Smallest denominator of the share of bad clips (or all clips, if there are fewer)."""


class Samples(Protocol):
    """Source of samples: `avion_core.data.dataset.ClipDataset`."""

    clips: ClipTable

    def __len__(self) -> int: ...

    def sample(
        self, row: int, rng: np.random.Generator, out: NDArray[np.uint8] | None = None
    ) -> dict[str, Any]:
        """A row's `frames`, with texts `tokens` and `text_id`, maybe `entries` and `draws`; MediaError if
        unreadable.

        Frames may be read into `out`, which has the shape of an earlier sample's frames.
        """


class BatchLoader:
    """Batches of this process (see the module docstring), one epoch at a time."""

    def __init__(
        self,
        dataset: Samples,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        shuffle: bool,
        drop_last: bool,
        clip_timeout_s: float,
        max_bad_share: float = 0.05,
        pin_memory: bool = False,
        neighbours: Neighbours | None = None,
    ) -> None:
        """`batch_size` is this process's share of a step; `workers` processes decode, 0 for none. With
        `neighbours`, that many anchors bring as many neighbours.

        A clip that is not read within `clip_timeout_s` seconds counts as undecodable. `pin_memory` makes
        copies to a GPU fast.

        Raises ValueError if there are no clips, or fewer than one batch with `drop_last`.
        """
        self.bad: list[BadClip] = []
        """Clips that could not be decoded, in order of occurrence, each once."""
        self._dataset, self._max_bad_share = dataset, max_bad_share
        self._seen, self._bad_rows = 0, set[int]()
        self._steps = _Steps(
            len(dataset),
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            shuffle=shuffle,
            drop_last=drop_last,
        )
        longest_hang_s = LONGEST_HANG_SECONDS if world_size > 1 else math.inf
        self._loader = DataLoader(
            _BatchReader(dataset, seed, clip_timeout_s, longest_hang_s, neighbours),
            batch_sampler=self._steps,
            collate_fn=_as_it_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="fork" if workers else None,
            worker_init_fn=partial(_ignore_stop_signals, os.getpid()),
            pin_memory=pin_memory,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one pass over the clips, the same for every process."""
        return self._steps.per_epoch

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        """Batches of an epoch from `first_step` on.

        Raises ValueError if more than the allowed share of the clips cannot be decoded, or a batch hangs for
        LONGEST_HANG_SECONDS, and OSError if /dev/shm has no room for the few pages that workers need.
        """
        self._steps.epoch, self._steps.first_step = epoch, first_step
        try:
            batches = iter(self._loader)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise OSError(
                "/dev/shm is full, where loader_workers keep semaphores; enlarge it (docker: --shm-size), "
                "or set loader_workers: 0"
            ) from None
        for batch in batches:
            if batch.pop("hangs"):
                raise ValueError(
                    f"{len(batch['bad'])} clips of one batch could not be read in "
                    f"{LONGEST_HANG_SECONDS:g} seconds, and the other processes do not wait longer; the "
                    f"last: {batch['bad'][-1][1]}. Check the storage and start again, which goes on from the "
                    "last checkpoint"
                )
            self._record(batch.pop("bad"), good=len(batch["rows"]))
            frames = batch.pop("planes").movedim(-3, -1)
            yield {"frames": frames, **{name: torch.from_numpy(value) for name, value in batch.items()}}

    def _record(self, bad: Sequence[tuple[int, str]], *, good: int) -> None:
        for row, reason in bad:
            if row not in self._bad_rows:
                self._bad_rows.add(row)
                self.bad.append(self._dataset.clips.bad(row, reason))
        self._seen += good + len(bad)
        clips = len(self._dataset)
        considered = min(max(self._seen, GRACE_CLIPS), clips)
        if len(self.bad) > self._max_bad_share * considered:
            raise ValueError(
                f"{len(self.bad)} of {considered} clips cannot be decoded, more than the share of "
                f"{self._max_bad_share} that max_bad_share allows; the last: {self.bad[-1].reason}"
            )
        if bad and not good:
            raise ValueError(
                f"no clips are left to take the places of those in one step that cannot be decoded "
                f"({len(bad)}); repair them or choose a smaller batch_size; the last: {bad[-1][1]}"
            )


def _ignore_stop_signals(parent: int, worker: int) -> None:
    """Worker initialiser: ignore stop signals, except from the parent; end with it if it is killed.

    A signal to the whole job must not end a worker while its parent still needs batches to finish its step.
    The parent saves, then stops its workers.
    """
    end_with_parent(parent=parent)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    threading.Thread(target=_end_on_signal_of, args=(parent,), daemon=True).start()


def _end_on_signal_of(parent: int) -> None:
    while signal.sigwaitinfo(STOP_SIGNALS).si_pid != parent:
        pass
    os._exit(0)


@dataclass(frozen=True)
class _Request:
    """The rows of one batch, and stand-ins for bad ones, in order of use."""

    epoch: int
    rows: list[int]
    stand_ins: list[int]


class _Steps:
    """Batch sampler that can start at any step."""

    def __init__(
        self,
        clips: int,
        *,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        shuffle: bool,
        drop_last: bool,
    ) -> None:
        step_size = batch_size * world_size
        self.per_epoch = clips // step_size if drop_last else -(-clips // step_size)
        if self.per_epoch == 0:
            raise ValueError(
                f"{clips} clips do not fill one batch of {step_size}; choose a smaller batch_size"
            )
        self.epoch = self.first_step = 0
        self._clips, self._batch_size, self._seed = clips, batch_size, seed
        self._rank, self._world_size, self._shuffle = rank, world_size, shuffle

    def __len__(self) -> int:
        return self.per_epoch

    def __iter__(self) -> Iterator[list[_Request]]:
        epoch, order = self.epoch, self._order(self.epoch)
        for step in range(self.first_step, self.per_epoch):
            rows, stand_ins = (
                np.take(order, places, mode="wrap").tolist()
                for places in (self._places(step), self._stand_in_places(step))
            )
            yield [_Request(epoch, rows, stand_ins)]

    def _order(self, epoch: int) -> NDArray[np.uint32]:
        """Every row once. 35 million rows take 140 MB, in the main process only."""
        order = np.arange(self._clips, dtype=np.uint32)
        if self._shuffle:
            np.random.default_rng([self._seed, epoch]).shuffle(order)
        return order

    def _places(self, step: int) -> range:
        """This process's places in the epoch's order; the last step may run past its end."""
        step_size = self._batch_size * self._world_size
        first = step * step_size
        # A partial last step is divided evenly, so that no process waits for another.
        size = -(-min(step_size, self._clips - first) // self._world_size)
        return range(first + self._rank * size, first + (self._rank + 1) * size)

    def _stand_in_places(self, step: int) -> NDArray[np.int64]:
        """Places for the stand-ins of this process's bad clips; the order is a ring.

        They are spread evenly over all places outside the step, starting with the farthest, and dealt to the
        processes in turn, so that no two processes use the same clip.
        """
        size = len(self._places(step))
        outside = max(0, self._clips - size * self._world_size)
        wanted = min(outside, (size + SPARE_STAND_INS) * self._world_size)
        dealt = np.arange(self._rank, wanted, self._world_size)
        after_step = (outside // 2 + dealt * outside // max(1, wanted)) % max(1, outside)
        return (step * self._batch_size + size) * self._world_size + after_step


_Seeded = tuple[int, list[int]]
"""A row, and the seed of its sample's generator."""


class _BatchReader(Dataset[dict[str, Any]]):
    """Runs in the workers: reads a batch, each row with its own generator."""

    def __init__(
        self,
        dataset: Samples,
        seed: int,
        clip_timeout_s: float,
        longest_hang_s: float,
        neighbours: Neighbours | None,
    ) -> None:
        self._dataset, self._seed, self._neighbours = dataset, seed, neighbours
        self._clip_timeout_s, self._longest_hang_s = clip_timeout_s, longest_hang_s
        self._pool = BufferPool()
        self._patience_s = longest_hang_s
        """Seconds that the clips of the present batch may still hang."""

    def __getitems__(self, requests: Sequence[_Request]) -> dict[str, Any]:
        """Read the whole batch; clips go straight into the shared tensor."""
        [request] = requests
        shared: SharedTensor | None = None
        frames: torch.Tensor | None = None
        samples: list[dict[str, Any]] = []
        bad: list[tuple[int, str]] = []
        stand_ins = iter(request.stand_ins)
        self._patience_s = self._longest_hang_s
        anchors = len(request.rows)
        clips = anchors if self._neighbours is None else 2 * anchors
        for place in range(clips):
            out = None if frames is None else frames[place].numpy()
            if place < anchors:
                seeded = self._seeded(request.epoch, chain([request.rows[place]], stand_ins))
            else:
                seeded = self._seeded_neighbours(request.epoch, samples[place - anchors]["row"])
            sample = self._first_readable(seeded, out, bad)
            if sample is None:
                return {"rows": np.empty(0, np.int64), "bad": bad, "hangs": self._patience_s <= 0}
            if frames is None:
                *leading, height, width, channels = sample["frames"].shape
                shape = (clips, *leading, channels, height, width)
                shared = self._pool.get(shape) if get_worker_info() else None
                planes = shared.tensor if shared else torch.empty(shape, dtype=torch.uint8)
                frames = planes.movedim(-3, -1)
            if sample["frames"] is not out:
                frames[place] = torch.from_numpy(sample["frames"])
            samples.append(sample)
        whole = shared.hand_over() if shared else planes
        return {"planes": whole, "bad": bad, "hangs": False, **_labels(samples)}

    def _seeded(self, epoch: int, rows: Iterable[int]) -> Iterator[_Seeded]:
        return ((row, [self._seed, epoch, row]) for row in rows)

    def _seeded_neighbours(self, epoch: int, anchor: int) -> Iterator[_Seeded]:
        """The clips of an anchor's cell in random order; the anchor, which can be read, is one of them."""
        assert self._neighbours is not None
        order = np.random.default_rng([self._seed, epoch, anchor, 0, 1])
        for row in order.permutation(self._neighbours.of(anchor)).tolist():
            yield row, [self._seed, epoch, anchor, 1 + row]

    def _first_readable(
        self, rows: Iterable[_Seeded], out: NDArray[np.uint8] | None, bad: list[tuple[int, str]]
    ) -> dict[str, Any] | None:
        """The sample of the first decodable row; rows that fail are added to `bad`."""
        for row, seed in rows:
            limit_s, began = min(self._clip_timeout_s, self._patience_s), time.monotonic()
            try:
                with time_limit(limit_s, self._dataset.clips.video_id(row)):
                    return self._dataset.sample(row, np.random.default_rng(seed), out)
            except MediaError as error:
                bad.append((row, str(error)))
                if time.monotonic() - began >= limit_s:
                    self._patience_s -= limit_s
                if self._patience_s <= 0:
                    return None
        return None


def _labels(samples: Sequence[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    """A batch without its frames. Arrays, as workers would put tensors into /dev/shm."""
    labels: dict[str, NDArray[Any]] = {"rows": np.array([sample["row"] for sample in samples], np.int64)}
    if "tokens" in samples[0]:
        tokens_BL = np.stack([np.asarray(sample["tokens"]) for sample in samples])
        labels["tokens"] = tokens_BL[:, : longest(tokens_BL)].copy()
        labels["text_ids"] = np.array([sample["text_id"] for sample in samples], np.int64)
    for name in samples[0].get("entries", ()):
        labels[name] = np.stack([sample["entries"][name] for sample in samples])
    if "draws" in samples[0]:
        height, width = samples[0]["frames"].shape[-3:-1]
        labels |= packed([sample["draws"] for sample in samples], height=height, width=width)
    return labels


def _as_it_is(batch: Any) -> Any:
    return batch
