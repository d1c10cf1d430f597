"""A folder to transcode in, and the frames of what comes out."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from avion_core.config import TranscodeSettings
from avion_core.files import read_json
from avion_core.media.chunk_table import read_chunk_table
from avion_core.media.chunker import ffmpeg_binary
from avion_core.media.crop import Crop
from avion_core.media.decode import decode_frames
from avion_core.media.transcode import transcode_shard

SETTINGS = TranscodeSettings(chunk_seconds=2, short_side_px=128, preset="ultrafast")
PROGRAM = """
import sys
from pathlib import Path
from avion_core.config import TranscodeSettings
from tests.unit.media.place import Place
Place(Path(sys.argv[1])).transcode(settings=TranscodeSettings.model_validate_json(sys.argv[2]))
"""


def ffmpeg(line: str, path: Path) -> Path:
    """Write `path` with FFmpeg; the line names inputs and options."""
    subprocess.run([ffmpeg_binary(), "-nostdin", "-v", "error", *line.split(), str(path)], check=True)
    return path


class Place:
    """A folder with a list of videos and what transcoding makes of it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.chunks = folder, folder / "chunks"
        self.index, self.quarantine = folder / "index.parquet", folder / "quarantine.json"
        self.videos = folder / "videos.parquet"

    def list_videos(self, *paths: Path) -> None:
        rows = {
            "video_id": [path.name.replace(".", "_") for path in paths],
            "path": [str(path) for path in paths],
        }
        pq.write_table(pa.table({**rows, "bytes": [0] * len(paths)}), self.videos)

    def transcode(self, shard: str = "1-of-1", settings: TranscodeSettings = SETTINGS) -> list[dict]:
        transcode_shard(
            self.videos,
            settings=settings,
            shard=shard,
            chunks_dir=self.chunks,
            index=self.index,
            quarantine=self.quarantine,
        )
        return read_chunk_table(self.index).to_pylist()

    def start(self, settings: TranscodeSettings, **options: Any) -> subprocess.Popen[bytes]:
        """`transcode` in a process of its own; `options` are Popen's."""
        command = [sys.executable, "-c", PROGRAM, str(self.folder), settings.model_dump_json()]
        return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path.cwd())}, **options)

    def reasons(self) -> dict[str, str]:
        return {entry["video_id"]: entry["reason"] for entry in read_json(self.quarantine)}

    def drafts(self) -> list[Path]:
        """Chunks of broken-off work, in order."""
        return sorted(self.chunks.glob("*/.partial-*/chunks/*.mp4"))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)


def read_all(rows: list[dict]) -> np.ndarray:
    """Every frame of the given chunks as whole squares, T,H,W,3."""
    return np.concatenate(
        [
            decode_frames(
                row["path"],
                range(row["frames"]),
                crop=Crop(0, 0, row["width"], row["height"]),
                size_px=128,
            )
            for row in rows
        ]
    )
