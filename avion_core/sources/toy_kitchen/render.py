"""From a script to a video file with sound: frames go to FFmpeg, files appear whole, none is made twice."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ffmpeg

from avion_core.config import ToyKitchenSettings
from avion_core.data.source_videos import SourceError
from avion_core.files import fingerprint, publish, read_json, remove_partials, sha256, write_json
from avion_core.media.program import ffmpeg_binary
from avion_core.media.source_file import FileMark
from avion_core.processes import end_with_parent
from avion_core.progress import Progress
from avion_core.sources.toy_kitchen.painter import Painter
from avion_core.sources.toy_kitchen.script import FPS, Script

RECORD = ".toy_kitchen.json"
"""Beside the rendered files: by path, the fingerprint of the script that a file shows, its size and time."""

CODE = ("actions.py", "narrations.py", "painter.py", "render.py", "script.py", "sprites.py", "vocabulary.py")


def render_command(script: Script, target: Path, *, seed: int) -> list[str]:
    """FFmpeg's arguments: raw RGB frames on its standard input, quiet kitchen noise as sound.

    An odd size needs 4:4:4 chroma, as 4:2:0 has no half pixels.
    """
    odd = script.width % 2 or script.height % 2
    seconds = script.frames / FPS
    frames = ffmpeg.input(
        "pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{script.width}x{script.height}", framerate=FPS
    )
    hum = (
        f"anoisesrc=colour=brown:amplitude=0.05:sample_rate=16000:seed={seed % 2**31}:duration={seconds:.3f}"
    )
    sound = ffmpeg.input(hum, f="lavfi")
    output = ffmpeg.output(
        frames.video,
        sound.audio,
        str(target),
        vcodec="libx264",
        preset="superfast",
        crf=20,
        pix_fmt="yuv444p" if odd else "yuv420p",
        threads=1,
        acodec="aac",
        ac=1,
        audio_bitrate="24k",
        movflags="+faststart",
        fflags="+bitexact",
        f="mp4",
    )
    return [
        str(part)
        for part in output.global_args("-loglevel", "error", "-nostdin").compile(cmd=ffmpeg_binary())
    ]


def render(script: Script, target: Path, *, seed: int) -> None:
    """Write one video. Raises RuntimeError with FFmpeg's message when encoding fails."""
    command = render_command(script, target, seed=seed)
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=end_with_parent
    )
    assert process.stdin is not None and process.stderr is not None
    try:
        for picture in Painter(script, seed=seed).frames():
            process.stdin.write(picture.tobytes())
        process.stdin.close()
    except BrokenPipeError:
        pass
    message = process.stderr.read().decode(errors="replace").strip()
    if process.wait() != 0:
        raise RuntimeError(f"FFmpeg could not write {target}: {message}")


def render_all(
    scripts: Sequence[Script], raw_dir: Path, *, suffix: str, settings: ToyKitchenSettings, title: str
) -> list[Path]:
    """Render `raw_dir/<script.name><suffix>` for every script, with progress; return the paths in order.

    A file that already shows its script is kept, so a killed run goes on where it was; changed settings
    or drawing code make new files; files of scripts that are no longer wanted are removed. Raises SourceError
    before any rendering if a file in the way was not rendered here, or was changed since.
    """
    shown = _Shown(raw_dir)
    look = _code_fingerprint()
    wanted = {
        f"{script.name}{suffix}": fingerprint([settings.seed, look, repr(script)]) for script in scripts
    }
    for name, mark in wanted.items():
        if not shown.shows(name, mark):
            shown.check_own(name)
    for stale in shown.names() - set(wanted):
        shown.remove(stale)
    total = sum(script.frames for script in scripts)
    kept = {name for name, mark in wanted.items() if shown.shows(name, mark)}
    done = sum(script.frames for script in scripts if f"{script.name}{suffix}" in kept)
    with Progress(title, total, unit="frames", done=done) as progress:
        for script in scripts:
            name = f"{script.name}{suffix}"
            if name in kept:
                continue
            target = raw_dir / name
            target.parent.mkdir(parents=True, exist_ok=True)
            remove_partials(target.parent)
            shown.remove(name)
            with publish(target) as draft:
                render(script, draft, seed=settings.seed)
                shown.record(name, wanted[name], draft)
            progress.advance(script.frames, note=script.name)
    return [raw_dir / name for name in wanted]


class _Shown:
    """What the rendered files of a folder show, and whether they are still the files that were rendered."""

    def __init__(self, raw_dir: Path) -> None:
        self._raw_dir = raw_dir
        record = raw_dir / RECORD
        entries = read_json(record) if record.exists() else {}
        self._entries: dict[str, list[Any]] = {
            # Earlier versions recorded no size and time: those that the files have are taken for theirs.
            name: entry if isinstance(entry, list) else [entry, *_mark(raw_dir / name)]
            for name, entry in entries.items()
        }

    def names(self) -> set[str]:
        return set(self._entries)

    def shows(self, name: str, script: str) -> bool:
        """Whether the file is there and was rendered from this script; a user may have replaced it since."""
        return (
            name in self._entries and self._entries[name][0] == script and bool(_mark(self._raw_dir / name))
        )

    def check_own(self, name: str) -> None:
        """Raise SourceError if a file of this name is there and is not the one that was rendered."""
        there = _mark(self._raw_dir / name)
        if there and there != self._entries.get(name, [None])[1:]:
            raise SourceError(
                f"{self._raw_dir / name}: it was not rendered by the toy kitchen, or was changed since; move "
                "it away, or use the folder as it is with the source `local`"
            )

    def record(self, name: str, script: str, draft: Path) -> None:
        """Say what a file shows, just before it gets its name: a kill in between leaves no unknown file."""
        self._entries[name] = [script, *_mark(draft)]
        write_json(self._raw_dir / RECORD, self._entries)

    def remove(self, name: str) -> None:
        """Delete a rendered file, unless it was changed since."""
        there = _mark(self._raw_dir / name)
        if there and there == self._entries.pop(name)[1:]:
            (self._raw_dir / name).unlink()


def _mark(path: Path) -> list[int]:
    mark = FileMark.of(path)
    return [mark.bytes, mark.mtime_ns] if mark else []


def _code_fingerprint() -> str:
    """Changes when the code that draws changes."""
    here = Path(__file__).parent
    return fingerprint([sha256(here / name) for name in CODE])
