"""From a script to a video file with sound: frames go to FFmpeg, files appear whole, none is made twice."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import ffmpeg

from avion_core.config import ToyKitchenSettings
from avion_core.data.toy_kitchen.painter import Painter
from avion_core.data.toy_kitchen.script import FPS, Script
from avion_core.files import fingerprint, publish, read_json, remove_partials, sha256, write_json
from avion_core.media.program import ffmpeg_binary
from avion_core.progress import Progress

RECORD = ".toy_kitchen.json"
"""Beside the rendered files: by path, the fingerprint of the script that a file shows."""

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
    """Publish one video at `target`. Raises RuntimeError with FFmpeg's message when encoding fails."""
    with publish(target) as draft:
        command = render_command(script, draft, seed=seed)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
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
    or drawing code make new files; files of scripts that are no longer wanted are removed.
    """
    record_path = raw_dir / RECORD
    record: dict[str, str] = read_json(record_path) if record_path.exists() else {}
    look = _code_fingerprint()
    wanted = {
        f"{script.name}{suffix}": fingerprint([settings.seed, look, repr(script)]) for script in scripts
    }
    for stale in set(record) - set(wanted):
        (raw_dir / stale).unlink(missing_ok=True)
    record = {
        name: mark for name, mark in record.items() if wanted.get(name) == mark and (raw_dir / name).exists()
    }
    total = sum(script.frames for script in scripts)
    kept = sum(script.frames for script in scripts if f"{script.name}{suffix}" in record)
    with Progress(title, total, unit="frames", done=kept) as progress:
        for script in scripts:
            name = f"{script.name}{suffix}"
            if name in record:
                continue
            target = raw_dir / name
            target.parent.mkdir(parents=True, exist_ok=True)
            remove_partials(target.parent)
            render(script, target, seed=settings.seed)
            record[name] = wanted[name]
            write_json(record_path, record)
            progress.advance(script.frames, note=script.name)
    return [raw_dir / name for name in wanted]


def _code_fingerprint() -> str:
    """Changes when the code that draws changes."""
    here = Path(__file__).parent
    return fingerprint([sha256(here / name) for name in CODE])
