"""Footage and chunks made with PyAV alone, for machines without FFmpeg and without footage.

A camera pans over a textured wall, with noise. The chunks have the transcoder's kind of stream (crf,
keyframes, B frames that nothing refers to) and its tables, so the loader reads them as it reads any others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray

from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import ClipTable
from avion_core.data.dataset import View
from avion_core.data.tokenizer import TOKENIZERS, Tokenizer
from avion_core.files import sha256
from avion_core.media.chunk_table import write_chunk_table
from avion_core.media.packets import PACKETS, index_packets, write_packets
from benchmarks.plain_step import TOKENS

FPS, INDEX, TOKENIZER = 30, "chunks.parquet", "stand_in"
X264 = {
    "crf": "19.5",
    "preset": "veryfast",
    "tune": "psnr,fastdecode",
    "x264-params": "keyint=14:min-keyint=1:bframes=13:open-gop=1:scenecut=0:b-adapt=0:b-pyramid=none:ref=1",
}
RECIPE_VIEW = View(
    frames=4,
    sampling="segments",
    stride=1,
    image_size_px=224,
    crop="random_resized",
    crop_scale=(0.5, 1.0),
    horizontal_flip=0.0,
    rand_augment=None,
    random_erasing=0.0,
    training=True,
)
"""A clip as in contrastive pretraining."""


def chunks(folder: Path, *, videos: int, seconds: int, width: int = 512, height: int = 288) -> ChunkIndex:
    """An index of `videos` videos of one chunk each, encoded by PyAV's libx264, or made there earlier.

    Raises ImportError if this PyAV has no libx264.
    """
    if "libx264" not in av.codecs_available:
        raise ImportError("needs a PyAV with libx264")
    if (folder / INDEX).exists():
        return ChunkIndex.load(folder / INDEX)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    packets: list[NDArray[np.void]] = []
    for video in range(videos):
        path = _encode(folder / f"{video}.mp4", _pan(video, FPS * seconds, width, height), width, height)
        index = index_packets(path)
        rows.append(
            {
                "video_id": str(video),
                "chunk": 0,
                "start_frame": 0,
                "frames": len(index),
                "fps_num": FPS,
                "fps_den": 1,
                "width": width,
                "height": height,
                "bytes": path.stat().st_size,
                "sha256": sha256(path),
                "path": str(path),
                "codec": index.codec,
                "extradata": index.extradata,
                "first_packet": sum(map(len, packets)),
            }
        )
        packets.append(index.packets)
    write_packets(folder / PACKETS, packets, count=sum(map(len, packets)))
    write_chunk_table(folder / INDEX, rows)
    return ChunkIndex.load(folder / INDEX)


def clips(index: ChunkIndex, count: int) -> ClipTable:
    """Clips of one second at random places, each with a sentence of its own."""
    random = np.random.default_rng(0)
    videos = [index.video_ids[place] for place in random.integers(len(index.video_ids), size=count)]
    starts = [random.uniform(0, index.duration_s(video) - 1) for video in videos]
    return ClipTable.from_rows(
        {
            "video_id": video,
            "start_s": start,
            "end_s": start + 1,
            "texts": [f"#C C opens the drawer {number}"],
        }
        for number, (video, start) in enumerate(zip(videos, starts, strict=True))
    )


def stand_in_tokens(texts: Sequence[str], context_length: int) -> torch.Tensor:
    """TOKENS numbers for each text, the end's largest, without open_clip: [B, context_length]."""
    tokens = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in enumerate(texts):
        random = torch.Generator().manual_seed(sum(text.encode()))
        tokens[row, :TOKENS] = torch.randint(1, 100, (TOKENS,), generator=random)
    tokens[:, TOKENS - 1] = 500
    return tokens


TOKENIZERS.register(TOKENIZER, Tokenizer(stand_in_tokens))


def _pan(seed: int, frames: int, width: int, height: int) -> Iterable[NDArray[np.uint8]]:
    """Pictures [height, width, 3] of a wall that a slowly swinging camera sees."""
    random = np.random.default_rng(seed)
    wall = np.zeros((2 * height, 2 * width, 3), np.float32)
    for size in (64, 16, 4, 1):  # coarse shapes are stronger than fine ones
        coarse = random.normal(size=(2 * height // size + 1, 2 * width // size + 1, 3))
        wall += 6 * size**0.5 * np.kron(coarse, np.ones((size, size, 1)))[: 2 * height, : 2 * width]
    wall = np.clip(wall + 128, 0, 255)
    noise = random.normal(scale=3, size=(2 * height, 2 * width, 1)).astype(np.float32)
    for number in range(frames):
        y = int((0.5 + 0.5 * np.sin(number / 37)) * height)
        x = int((0.5 + 0.5 * np.cos(number / 53)) * width)
        dy, dx = random.integers(height), random.integers(width)
        picture = wall[y : y + height, x : x + width] + noise[dy : dy + height, dx : dx + width]
        yield np.clip(picture, 0, 255).astype(np.uint8)


def _encode(path: Path, pictures: Iterable[NDArray[np.uint8]], width: int, height: int) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options=X264)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path
