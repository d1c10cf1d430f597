"""Source videos become chunks made for random access, and each chunk a row of the index.

One FFmpeg process a video decodes the source once and writes all its chunks; a video's chunks appear
together or not at all. A video that cannot be used is quarantined with its reason, and the rest goes on.
"""

from __future__ import annotations

import functools
import shutil


@functools.cache
def ffmpeg_binary() -> str:
    """Path of the FFmpeg program: the system's if there is one, else the one imageio-ffmpeg carries."""
    system = shutil.which("ffmpeg")
    if system is not None:
        return system
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())
