"""`make clean` asks, keeps what cannot be had again, and follows no link."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from avion_core.clean import clean, readable

ROOT = Path(__file__).parents[2]
RAW, RECORD = "data/ek100/raw/P01/P01_01.MP4", "data/ek100/source.json"
JOURNAL = "data/ek100/narrations/openai/journal/1.jsonl"
OTHERS = (
    *("README.md", "data/ek100/notes.txt", "data/notes.txt", "mine/video.mp4"),
    *("data/my videos/clips/1.mp4", "data/my videos/raw/1.mp4", "data/my videos/chunks/1.mp4"),
)
MADE = (
    ".venv/bin/python",
    ".snakemake/log",
    "results/llm/pretrain/model.safetensors",
    "data/ek100/chunks/P01_01/chunks/00000.mp4",
    "data/ek100/chunks.parquet",
    "data/ek100/videos.parquet",
    "data/ego4d/videos.parquet",
    "data/ek100/clips/train.arrow",
    "data/ek100/narrations/openai/train.arrow",
    "data/ego4d/narrations/lexicon/train.arrow",
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in (RAW, RECORD, JOURNAL, *OTHERS, *MADE):
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
    (tmp_path / "checkout/avion_core").symlink_to(ROOT / "avion_core")
    (tmp_path / "a python").symlink_to(sys.executable)
    return tmp_path / "checkout"


def left(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def make_clean(checkout: Path, *options: str, said: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            "make",
            "--file",
            str(ROOT / "Makefile"),
            "clean",
            f"PYTHON={checkout.with_name('a python')}",
            *options,
        ],
        cwd=checkout,
        input=said,
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_was_made_goes_and_raw_data_and_paid_answers_stay(checkout, capsys):
    clean(checkout, everything=False, confirm=lambda question: question == "Remove 10 kB?")
    assert left(checkout) == {RAW, RECORD, JOURNAL, *OTHERS}
    assert not (checkout / "data/ego4d").exists()
    said = capsys.readouterr().out
    assert "data/ek100/raw  (raw data)" in said and "journal  (a language model's answers)" in said


def test_everything_is_that_too_but_nothing_that_others_made(checkout):
    clean(checkout, everything=True, confirm=lambda _: True)
    assert left(checkout) == set(OTHERS)


def test_no_is_no(checkout):
    clean(checkout, everything=True, confirm=lambda _: False)
    assert left(checkout) == {RAW, RECORD, JOURNAL, *OTHERS, *MADE}


def test_without_a_terminal_nothing_goes_unless_told_so(checkout):
    refused = make_clean(checkout, said="y\n")
    assert refused.returncode != 0 and "make clean YES=1" in refused.stderr
    assert left(checkout) == {RAW, RECORD, JOURNAL, *OTHERS, *MADE}
    assert make_clean(checkout, "YES=1").returncode == 0
    assert left(checkout) == {RAW, RECORD, JOURNAL, *OTHERS}
    assert make_clean(checkout, "YES=1", "EVERYTHING=1").returncode == 0
    assert left(checkout) == set(OTHERS)


@pytest.mark.parametrize(
    "name",
    [
        *("data", "data/ek100", "data/ek100/raw", "data/ek100/chunks", "data/ek100/narrations"),
        *("data/ek100/narrations/openai", "results", "results/llm", ".venv"),
    ],
)
def test_links_are_not_followed(checkout, name):
    """What they lead to is elsewhere: another disk, somebody else's folder."""
    elsewhere = checkout.with_name("elsewhere")
    (checkout / name).rename(elsewhere)
    (checkout / name).symlink_to(elsewhere)
    before = left(elsewhere)
    clean(checkout, everything=True, confirm=lambda _: True)
    assert left(elsewhere) == before


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (1500, "1.5 kB"), (999_000_000_000, "999 GB"), (3.2e12, "3.2 TB")]
)
def test_sizes_are_readable(count, text):
    assert readable(count) == text
