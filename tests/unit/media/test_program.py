"""Which FFmpeg makes chunks: the pinned one, whatever the machine has, or one that is named and tested."""

from __future__ import annotations

from pathlib import Path

import imageio_ffmpeg
import pytest

from avion_core.media import chunker
from avion_core.media.program import FFMPEG_VARIABLE, ffmpeg_binary, ffmpeg_program
from tests.support.counted_video import read_number, write_counted
from tests.unit.media.place import SETTINGS, read_all

PINNED = Path(imageio_ffmpeg.__file__).parent / "binaries"
BUILT = "configuration: --enable-libx264 --enable-libzimg"


def fake(folder: Path, banner: str, built: str = BUILT) -> Path:
    """An FFmpeg that can say its version and nothing else."""
    program = folder / "ffmpeg"
    program.write_text(f'#!/bin/sh\n[ "$*" = -version ] && printf "{banner}\\n{built}\\n"\n')
    program.chmod(0o755)
    return program


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FFMPEG_VARIABLE, raising=False)


def test_what_the_machine_has_changes_nothing(tmp_path, monkeypatch):
    """Neither the PATH nor the variable that other programs read names the FFmpeg of a pipeline."""
    broken = fake(tmp_path, "ffmpeg version 9.9.9")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(broken))
    assert Path(ffmpeg_binary()).parent == PINNED
    source = write_counted(tmp_path / "a.mp4", 10, width=256, height=256)
    chunks = chunker.make_chunks(source, tmp_path / "chunks", SETTINGS)
    assert [read_number(frame) for frame in read_all([vars(chunk) for chunk in chunks])] == list(range(10))


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ("ffmpeg version 9.0.2 Copyright (c) 2000-2026", "9.0.2"),
        ("ffmpeg version n9.1-4-gabcdef Copyright (c)", "n9.1-4-gabcdef"),
        ("ffmpeg version 9.0-3ubuntu2 Copyright (c)", "9.0-3ubuntu2"),
    ],
)
def test_a_named_program_of_a_tested_version_is_taken(tmp_path, monkeypatch, banner, version):
    program = fake(tmp_path, banner)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in (str(program), "ffmpeg"):
        monkeypatch.setenv(FFMPEG_VARIABLE, name)
        assert (ffmpeg_program().path, ffmpeg_program().version) == (str(program), version)


@pytest.mark.parametrize(
    ("banner", "built", "said"),
    [
        ("ffmpeg version 5.1.9-0+deb12u1 Copyright (c) 2000", BUILT, r"5\.1\.9-0\+deb12u1.*tested FFmpeg 9"),
        ("ffmpeg version 7.0.2-static https://x.org", BUILT, r"7\.0\.2-static.*tested FFmpeg 9"),
        ("ffmpeg version 10.0 Copyright", BUILT, r"10\.0.*tested FFmpeg 9"),
        ("ffmpeg version N-118000-g2a571b Copyright", BUILT, r"N-118000-g2a571b.*tested FFmpeg 9"),
        ("no such option", BUILT, "no such option.*tested FFmpeg 9"),
        ("ffmpeg version 9.0.2 Copyright", "configuration:", "built without libx264 and libzimg"),
        ("ffmpeg version 9.0.2 Copyright", "--enable-libx264", "built without libzimg"),
    ],
)
def test_a_named_program_that_would_make_other_chunks_is_refused(tmp_path, monkeypatch, banner, built, said):
    monkeypatch.setenv(FFMPEG_VARIABLE, str(fake(tmp_path, banner, built)))
    with pytest.raises(ValueError, match=f"AVION_FFMPEG: .*ffmpeg .*{said}.*unset AVION_FFMPEG"):
        ffmpeg_binary()


def test_a_named_program_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(FFMPEG_VARIABLE, str(tmp_path / "ffmpeg"))
    with pytest.raises(ValueError, match=r"AVION_FFMPEG: there is no program '.*unset AVION_FFMPEG"):
        ffmpeg_binary()
    (tmp_path / "ffmpeg").write_bytes(b"\x7fELF not really")
    (tmp_path / "ffmpeg").chmod(0o755)
    with pytest.raises(ValueError, match=r"AVION_FFMPEG: .* cannot be started"):
        ffmpeg_binary()


def test_the_version_is_recorded_with_the_chunks(place):
    place.list_videos(write_counted(place.folder / "a.mp4", 10))
    place.transcode()
    marker = (place.chunks / "a_mp4/chunks/done.json").read_text()
    assert f'"ffmpeg": "{ffmpeg_program().version}"' in marker
