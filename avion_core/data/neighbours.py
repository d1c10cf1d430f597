"""Neighbours in time: clips of the same minute of a video, EgoVLP's scene-aware negatives.

A video is cut into cells of equal length, a fixed grid rather than a window around each clip, as in EgoVLP's
code. A clip is in the cell of its middle, which is its narration's time, except where the clip was cut to its
video.
"""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from avion_core.data.clips import ClipTable


class Neighbours:
    """The clips in every clip's cell. 35 million rows take 420 MB, shared by the loader's workers."""

    def __init__(self, clips: ClipTable, *, seconds: float) -> None:
        """`seconds` is the length of a cell."""
        table = clips.arrow()
        videos = pc.index_in(table["video_id"], value_set=pc.unique(table["video_id"])).to_numpy()
        middle_s = (table["start_s"].to_numpy() + table["end_s"].to_numpy()) / 2
        cells = np.floor(middle_s / seconds).astype(np.int64)
        order = np.lexsort((cells, videos))  # stable: rows of a cell stay in order
        begins = np.ones(len(order), np.bool_)
        begins[1:] = (np.diff(videos[order]) != 0) | (np.diff(cells[order]) != 0)
        self._order = order.astype(np.uint32)
        self._first = np.append(np.flatnonzero(begins), len(order)).astype(np.uint32)
        self._cell_of = np.empty(len(order), np.uint32)
        self._cell_of[order] = np.cumsum(begins) - 1

    def of(self, row: int) -> NDArray[np.uint32]:
        """Rows in the cell of `row`, itself among them."""
        cell = int(self._cell_of[row])
        return self._order[self._first[cell] : self._first[cell + 1]]
