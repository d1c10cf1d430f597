"""The FFmpeg program: the pinned build that imageio-ffmpeg carries, unless a variable names another.

FFmpeg's versions give different frames, times and colours for the same source, and word damage reports
differently. So neither the PATH nor imageio-ffmpeg's own variable chooses the program, and untested versions
are refused.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from avion_core.command import run

FFMPEG_VARIABLE = "AVION_FFMPEG"
"""Environment variable that names an FFmpeg program to use instead of the pinned one."""
TESTED_VERSION = 9
"""Major version of FFmpeg that passes `tests/unit/media`; 5.1 and 7.0 do not."""
NEEDED_LIBRARIES = ("libx264", "libzimg")
"""Libraries that the program must be built with: the encoder, and conversion from HDR."""

_WAY_OUT = f"unset {FFMPEG_VARIABLE} for the pinned FFmpeg"


@dataclass(frozen=True)
class Program:
    """A usable FFmpeg program."""

    path: str
    version: str
    """As printed by the program, such as `9.0.2`."""


def ffmpeg_binary() -> str:
    """Absolute path of the FFmpeg program. Raises ValueError as `ffmpeg_program`."""
    return ffmpeg_program().path


def ffmpeg_program() -> Program:
    """The pinned FFmpeg, or the one that AVION_FFMPEG names.

    Raises ValueError if there is none, or if it cannot be started, has an untested version, or lacks a
    library.
    """
    named = os.environ.get(FFMPEG_VARIABLE)
    if not named:
        return _checked(_carried(), origin="the FFmpeg of imageio-ffmpeg")
    found = shutil.which(named)
    if found is None:
        raise ValueError(f"{FFMPEG_VARIABLE}: there is no program '{named}'; {_WAY_OUT}")
    return _checked(str(Path(found).absolute()), origin=FFMPEG_VARIABLE)  # it runs in other folders


def _carried() -> str:
    """The program inside the package imageio-ffmpeg, whose own search would accept others too."""
    folder = Path(str(resources.files("imageio_ffmpeg"))) / "binaries"
    found = sorted(folder.glob("ffmpeg-*"))
    if not found:
        raise ValueError(
            f"{folder} holds no FFmpeg for this system; set {FFMPEG_VARIABLE} to an FFmpeg {TESTED_VERSION}"
        )
    return str(found[0])


@functools.cache
def _checked(path: str, *, origin: str) -> Program:
    try:
        said = subprocess.run(
            [path, "-version"], capture_output=True, text=True, errors="replace", check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(f"{origin}: {path} cannot be started ({error})") from None
    version = re.match(r"ffmpeg version (n?(\d+)\.\S+)", said)
    if version is None or int(version[2]) != TESTED_VERSION:
        which = version[1] if version else said.partition("\n")[0][:80] or "no version"
        raise ValueError(
            f"{origin}: {path} is '{which}', which gives other frames and colours than the tested "
            f"FFmpeg {TESTED_VERSION}; {_WAY_OUT}"
        )
    missing = [library for library in NEEDED_LIBRARIES if f"--enable-{library}" not in said]
    if missing:
        raise ValueError(f"{origin}: {path} was built without {' and '.join(missing)}; {_WAY_OUT}")
    return Program(path, version[1])


def main() -> None:
    """Print the FFmpeg that would be used: `python -m avion_core.media.program`."""
    program = ffmpeg_program()
    print(f"{program.path}: FFmpeg {program.version}")


if __name__ == "__main__":
    run(main)
