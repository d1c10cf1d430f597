"""Small videos whose frames carry their own number, so that a test can tell which frame it got."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 16
RANDOM_ACCESS = {
    "g": "32",
    "bf": "15",
    "x264-params": "b-pyramid=none:ref=1:b-adapt=0:scenecut=0",
}
"""The transcoder's kind of stream: B frames that nothing refers to."""


def counted_frame(number: int, width: int = 170, height: int = 128) -> np.ndarray:
    """A textured picture [height, width, 3]; four rows of four blocks at the top left hold the number."""
    y, x = np.mgrid[:height, :width]
    wave = 110 + 40 * np.sin((x + 3 * number) / 9) + 30 * np.cos((y - number) / 7)
    picture = np.stack([wave, np.roll(wave, 5, axis=1), wave[:, ::-1]], axis=-1).astype(np.uint8)
    block = min(width, height) // 8
    for bit in range(BITS):
        row, column = divmod(bit, 4)
        on = (number >> bit) & 1
        picture[row * block : (row + 1) * block, column * block : (column + 1) * block] = 235 if on else 20
    return picture


def read_number(picture: np.ndarray) -> int:
    """The number in a picture that shows a whole counted frame (any size)."""
    height, width = picture.shape[:2]
    block = min(width, height) / 8
    number = 0
    for bit in range(BITS):
        row, column = divmod(bit, 4)
        value = picture[int((row + 0.5) * block), int((column + 0.5) * block)].mean()
        number |= int(value > 127) << bit
    return number


def write_counted(
    path: Path,
    frames: int,
    *,
    width: int = 170,
    height: int = 128,
    fps: Fraction | int = 30,
    options: dict[str, str] | None = None,
    times: list[int] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    sound: bool = False,
) -> Path:
    """Encode frames 0 … frames-1; `times` are their time stamps in 1/fps, if not 0, 1, 2, …"""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"preset": "ultrafast", **(options or {})})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        track = container.add_stream("aac", rate=16000) if sound else None
        for number in range(frames):
            picture = av.VideoFrame.from_ndarray(counted_frame(number, width, height), format="rgb24")
            picture.pts = times[number] if times else number
            picture.time_base = 1 / Fraction(fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        if track is not None:
            silence = av.AudioFrame.from_ndarray(
                np.zeros((1, int(frames / fps * 16000)), np.float32), format="fltp", layout="mono"
            )
            silence.rate = 16000
            container.mux(track.encode(silence))
            container.mux(track.encode())
    return path
