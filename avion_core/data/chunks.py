"""Chunk index for reading: a video's length and rate without opening files, and frames across chunks.

The table's schema is in `avion_core.media.chunk_table`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from avion_core.media import MediaError
from avion_core.media.chunk_table import read_chunk_table
from avion_core.media.crop import Crop
from avion_core.media.decode import decode_frames, empty_clip
from avion_core.media.packets import PACKETS, PacketIndex, read_packets


class VideoLengths(Protocol):
    """Columns of the chunk index that give the lengths of videos."""

    def has(self, video_id: str) -> bool: ...
    def duration_s(self, video_id: str) -> float: ...


def durations_s(video_ids: pa.Array | pa.ChunkedArray, index: VideoLengths) -> NDArray[np.float64]:
    """Length in seconds of each row's video; NaN if it has no chunks."""
    coded = video_ids.dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    names = coded.dictionary.to_pylist()
    lengths = [index.duration_s(name) if index.has(name) else np.nan for name in names]
    return np.array(lengths, np.float64)[coded.indices.to_numpy()]


class ChunkIndex:
    """All chunks of a data set. Cheap to copy into worker processes, which share its columns."""

    def __init__(self, table: pa.Table, packets: NDArray[np.void] | None) -> None:
        """`packets`: the records that rows with a codec point into."""
        table = table.combine_chunks().sort_by([("video_id", "ascending"), ("chunk", "ascending")])
        self._paths, self._checksums = table["path"], table["sha256"]
        self._codecs, self._extradata = _Repeated(table["codec"]), _Repeated(table["extradata"])
        self._first_packet = pc.fill_null(table["first_packet"], -1).to_numpy()
        self._packets = packets
        self._columns = {
            name: table[name].to_numpy()
            for name in ("start_frame", "frames", "fps_num", "fps_den", "width", "height", "bytes")
        }
        self._rows = _rows_by_video(table)

    @classmethod
    def load(cls, path: str | Path) -> ChunkIndex:
        """Read `chunks.parquet` and map `packets.npy` beside it.

        Raises ValueError, naming the file, if one of them is damaged or of another format.
        """
        table = read_chunk_table(path)
        indexed = table.filter(pc.is_valid(table["codec"]))["frames"]
        if not len(indexed):
            return cls(table, None)
        beside = Path(path).with_name(PACKETS)
        packets = read_packets(beside if beside.exists() else Path(path).resolve().with_name(PACKETS))
        if len(packets) != pc.sum(indexed).as_py():
            raise ValueError(f"{path}: {PACKETS} beside it is of another transcoding; run `transcode` again")
        return cls(table, packets)

    @property
    def video_ids(self) -> list[str]:
        """All videos, sorted."""
        return list(self._rows)

    @property
    def chunk_count(self) -> int:
        """Chunks of all videos."""
        return len(self._paths)

    def changed_chunks(self) -> Iterator[str]:
        """A reason for each chunk file that is missing or has changed size since it was indexed."""
        for row in range(self.chunk_count):
            try:
                self._unchanged_path(row)
            except MediaError as error:
                yield str(error)

    def has(self, video_id: str) -> bool:
        """Whether the video has chunks; quarantined ones have none."""
        return video_id in self._rows

    def fps(self, video_id: str) -> Fraction:
        """The video's constant rate in frames per second."""
        row = self._video(video_id).start
        return Fraction(int(self._columns["fps_num"][row]), int(self._columns["fps_den"][row]))

    def frame_count(self, video_id: str) -> int:
        """Number of frames in all chunks of the video."""
        last = self._video(video_id).stop - 1
        return int(self._columns["start_frame"][last] + self._columns["frames"][last])

    def duration_s(self, video_id: str) -> float:
        """Length of the video's chunks in seconds."""
        return float(self.frame_count(video_id) / self.fps(video_id))

    def size(self, video_id: str) -> tuple[int, int]:
        """(width, height) of the video's stored frames in pixels."""
        row = self._video(video_id).start
        return int(self._columns["width"][row]), int(self._columns["height"][row])

    def checksums(self, video_id: str) -> list[str]:
        """Checksums of a video's chunks, in order. Raises MediaError for an unknown video."""
        rows = self._video(video_id)
        checksums: list[str] = self._checksums[rows.start : rows.stop].to_pylist()
        return checksums

    def frame_sources(
        self, video_id: str, frames: Sequence[int] | NDArray[np.int64]
    ) -> list[tuple[str, int]]:
        """For each frame of a video the checksum of its chunk, and the frame's number within that.

        Raises MediaError for an unknown video.
        """
        wanted = np.asarray(frames, dtype=np.int64)
        rows = self._rows_of_frames(video_id, wanted)
        numbers = wanted - self._columns["start_frame"][rows]
        return [
            (self._checksums[row].as_py(), number)
            for row, number in zip(rows.tolist(), numbers.tolist(), strict=True)
        ]

    def read(
        self,
        video_id: str,
        frames: Sequence[int] | NDArray[np.int64],
        *,
        crop: Crop,
        size_px: int | tuple[int, int],
        backend: str = "pyav",
        out_THWC: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Frames by their number in the video, in any order and possibly repeated, through one crop.

        Returns uint8 [T, size_px, size_px, 3], or [T, H, W, 3] if `size_px` is (width, height); writes to
        `out_THWC` if given. Raises MediaError for an unknown video, a frame beyond its end, and a chunk
        that is missing, damaged or not the indexed one.
        """
        wanted = np.asarray(frames, dtype=np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.frame_count(video_id):
            raise MediaError(
                video_id,
                f"frames {wanted.min()} to {wanted.max()} are asked for, it has {self.frame_count(video_id)}",
            )
        chunk_of_frame = self._rows_of_frames(video_id, wanted)
        rows_here = np.unique(chunk_of_frame).tolist()
        read = partial(self._read_chunk, crop=crop, size_px=size_px, backend=backend)
        if len(rows_here) == 1:
            return read(rows_here[0], wanted, out_THWC=out_THWC)
        clip_THWC = empty_clip(len(wanted), size_px) if out_THWC is None else out_THWC
        for row in rows_here:
            here = np.flatnonzero(chunk_of_frame == row)
            clip_THWC[here] = read(row, wanted[here])
        return clip_THWC

    def _rows_of_frames(self, video_id: str, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of the chunk of each frame of a video."""
        rows = self._video(video_id)
        starts = self._columns["start_frame"][rows]
        return rows.start + np.searchsorted(starts, frames, side="right") - 1

    def _read_chunk(
        self,
        row: int,
        frames: NDArray[np.int64],
        *,
        crop: Crop,
        size_px: int | tuple[int, int],
        backend: str,
        out_THWC: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Frames of the video that lie in this row's chunk."""
        return decode_frames(
            self._unchanged_path(row),
            (frames - self._columns["start_frame"][row]).tolist(),
            crop=crop,
            size_px=size_px,
            backend=backend,
            packets=self.packet_index(row),
            out_THWC=out_THWC,
        )

    def packet_index(self, row: int) -> PacketIndex | None:
        """Packets of a row's chunk; None if the file must be opened."""
        first = int(self._first_packet[row])
        if self._packets is None or first < 0:
            return None
        return PacketIndex(
            codec=self._codecs[row],
            extradata=self._extradata[row],
            packets=self._packets[first : first + int(self._columns["frames"][row])],
        )

    def _video(self, video_id: str) -> slice:
        rows = self._rows.get(video_id)
        if rows is None:
            raise MediaError(video_id, "the video is not in the chunk index")
        return rows

    def _unchanged_path(self, row: int) -> str:
        path: str = self._paths[row].as_py()
        try:
            size = os.stat(path).st_size  # noqa: PTH116 (a Path is slower)
        except OSError as error:
            raise MediaError(path, f"the chunk is gone ({error.strerror})") from None
        if size != self._columns["bytes"][row]:
            expected = self._columns["bytes"][row]
            raise MediaError(path, f"the chunk has {size} bytes, it had {expected} when it was indexed")
        return path


class _Repeated:
    """A column that stores each of its few distinct values once."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        coded = column.combine_chunks().dictionary_encode()
        self._values = coded.dictionary.to_pylist()
        self._places = pc.fill_null(coded.indices, -1).to_numpy()

    def __getitem__(self, row: int) -> Any:
        """The row's value; None if the table has none."""
        place = self._places[row]
        return None if place < 0 else self._values[place]


def _rows_by_video(table: pa.Table) -> dict[str, slice]:
    """Row range of each video in a table sorted by video."""
    runs = table["video_id"].combine_chunks()
    if len(runs) == 0:
        return {}
    encoded = (runs.chunk(0) if isinstance(runs, pa.ChunkedArray) else runs).dictionary_encode()
    codes = encoded.indices.to_numpy()
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    stops = [*starts[1:].tolist(), len(codes)]
    names = encoded.dictionary.take(pa.array(codes[starts])).to_pylist()
    return {name: slice(int(start), stop) for name, start, stop in zip(names, starts, stops, strict=True)}
