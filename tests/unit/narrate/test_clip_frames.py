"""Images of a clip are the frames that training samples, and a contact sheet has all of them in order."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avion_core.media import MediaError
from avion_core.narrate.clip_frames import GAP_PX, ClipFrames, contact_sheet, images_of
from tests.support.chunk_index import chunk_index
from tests.support.counted_video import read_number


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_the_jpegs_are_the_middles_of_equal_parts_across_chunks(tmp_path: Path):
    frames = ClipFrames(chunk_index(tmp_path, {"b": [30, 40]}), frames=4, size_px=128)
    clip = frames.read("b", 0.8, 1.6)  # frames 24 to 47
    images = [opened(image) for image in images_of(clip, sheet=False, quality=90)]
    chunks = [read_number(image) for image in images]
    assert chunks == [27, 3, 9, 15], "27 of the first chunk, then 33, 39 and 45, which begin anew"
    (sheet,) = images_of(clip, sheet=True, quality=90)
    assert opened(sheet).shape == (256 + GAP_PX, 256 + GAP_PX, 3)


def test_a_frame_s_identity_is_its_chunk_and_number_and_reads_nothing(tmp_path: Path):
    index = chunk_index(tmp_path, {"a": [60], "b": [30, 40]})
    for video in tmp_path.glob("*.mp4"):
        video.unlink()
    frames = ClipFrames(index, frames=4, size_px=64)
    first, *others = frames.identity("b", 0.8, 1.6)
    assert first[1] == 27 and [number for _, number in others] == [3, 9, 15]
    assert len({first[0], others[0][0]}) == 2 and len({chunk for chunk, _ in others}) == 1
    assert frames.identity("b", 0.8, 1.6) == [first, *others] != frames.identity("b", 0.8, 1.9)
    with pytest.raises(MediaError, match="lost: the video is not in the chunk index"):
        frames.identity("lost", 0.0, 1.0)


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (7, 3, 3)])
def test_a_contact_sheet_shows_every_frame_in_reading_order(count, columns, rows):
    frames = np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 10, 3), np.uint8)
    sheet = contact_sheet(frames)
    assert sheet.shape == (rows * (8 + GAP_PX) - GAP_PX, columns * (10 + GAP_PX) - GAP_PX, 3)
    middles = sheet[4 :: 8 + GAP_PX, 5 :: 10 + GAP_PX, 0].ravel()
    assert middles[:count].tolist() == list(range(1, count + 1)) and not middles[count:].any()
