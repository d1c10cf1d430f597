"""On a GPU, the next batch is read and copied while the present step computes."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from avion_core.train.log import Stopwatch
from avion_core.train.protocols import Batch, on_device


class Prefetch:
    """The batches of an iterator, on the device. On the CPU each is read when it is due."""

    def __init__(self, batches: Iterator[Batch], device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ahead: Batch | Exception | None = None
        self._waited_s = 0.0

    def next(self) -> Batch:
        """The next batch, for the device's current stream. Raises what reading it raised."""
        taken, self._ahead = self._ahead or self._read(), None
        if isinstance(taken, Exception):
            raise taken
        if self._stream is not None:
            present = torch.cuda.current_stream(self._device)
            present.wait_stream(self._stream)
            for value in taken.values():
                value.record_stream(present)  # memory of the copying stream, which must not reuse it yet
        return taken

    def ahead(self) -> None:
        """Read the next batch and start its copy. Errors wait for `next`: the present step is not over."""
        if self._stream is not None:
            try:
                self._ahead = self._read()
            except Exception as error:
                self._ahead = error

    def waited(self) -> float:
        """Seconds since the last call that the device has waited for a batch."""
        seconds, self._waited_s = self._waited_s, 0.0
        return seconds

    def _read(self) -> Batch:
        watch = Stopwatch()
        if self._stream is None:
            batch = next(self._batches)
            self._waited_s += watch.lap()
            return batch
        computed, read = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        computed.record(torch.cuda.current_stream(self._device))
        batch = next(self._batches)
        if computed.query():  # the device has been idle since
            read.record(self._stream)
            read.synchronize()
            self._waited_s += min(watch.lap(), computed.elapsed_time(read) / 1e3)
        with torch.cuda.stream(self._stream):
            return on_device(batch, self._device)
