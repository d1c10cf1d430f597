"""The images of a clip that a model gets: frames chosen and cropped as in training, as JPEGs."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avion_core.data.chunks import ChunkIndex
from avion_core.media.crop import center_crop
from avion_core.media.sample import Sampling

GAP_PX = 2
"""Between the frames of a contact sheet."""


@dataclass(frozen=True)
class ClipFrames:
    """Reads the frames of clips."""

    chunks: ChunkIndex
    frames: int
    """Frames of a clip."""
    size_px: int
    """Side of a frame."""

    def identity(self, video_id: str, start_s: float, end_s: float) -> list[tuple[str, int]]:
        """What determines the frames, without decoding: each frame's chunk, by its checksum, and its number
        within the chunk. Raises MediaError for an unknown video."""
        return self.chunks.frame_sources(video_id, self._numbers(video_id, start_s, end_s))

    def read(self, video_id: str, start_s: float, end_s: float) -> NDArray[np.uint8]:
        """The frames, uint8 [T, size_px, size_px, 3]. Raises MediaError if they cannot be read."""
        numbers = self._numbers(video_id, start_s, end_s)
        crop = center_crop(*self.chunks.size(video_id))
        return self.chunks.read(video_id, numbers, crop=crop, size_px=self.size_px)

    def _numbers(self, video_id: str, start_s: float, end_s: float) -> NDArray[np.int64]:
        sampling = Sampling(frames=self.frames, sampling="segments", stride=1)
        fps, frame_count = float(self.chunks.fps(video_id)), self.chunks.frame_count(video_id)
        return sampling.numbers(start_s, end_s, fps=fps, frame_count=frame_count)


def images_of(frames_THWC: NDArray[np.uint8], *, sheet: bool, quality: int) -> list[bytes]:
    """The frames as JPEGs; with `sheet` as a single one that shows all."""
    pictures = [contact_sheet(frames_THWC)] if sheet else list(frames_THWC)
    return [jpeg(picture, quality=quality) for picture in pictures]


def contact_sheet(frames_THWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frames in rows, in reading order, on black; uint8 [H, W, 3]. As nearly square as they allow."""
    count, height, width, _ = frames_THWC.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    size = (rows * (height + GAP_PX) - GAP_PX, columns * (width + GAP_PX) - GAP_PX)
    sheet_HWC = np.zeros((*size, 3), np.uint8)
    for place, frame_HWC in enumerate(frames_THWC):
        top, left = (height + GAP_PX) * (place // columns), (width + GAP_PX) * (place % columns)
        sheet_HWC[top : top + height, left : left + width] = frame_HWC
    return sheet_HWC


def jpeg(picture_HWC: NDArray[np.uint8], *, quality: int) -> bytes:
    """A picture as JPEG."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture_HWC)).save(stream, "JPEG", quality=quality)
    return stream.getvalue()
