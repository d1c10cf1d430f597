"""`make clean`: list what the pipeline made in this checkout with sizes, ask, and remove it.

Raw data and journals of paid answers stay unless requested. Files that the pipeline did not make always stay.
Links are never followed. Only the standard library is needed, as `.venv` may be gone already.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from avion_core.command import run

TOP = (".venv", ".venv-llm", ".snakemake", "results", "results_local_llm")
"""Made in the checkout itself, besides `data`."""
DATASET = ("chunks", "chunks.parquet", "packets.npy", "quarantine.json", "clips")
"""Made in `data/<dataset>`, besides `raw`, `narrations` and MARKS."""
MARKS = ("videos.parquet", "source.json")
"""Written when a data set is fetched, and removed last. A folder with neither is the user's own."""


@dataclass
class Removal:
    """Paths to remove, and those to keep with the reason."""

    remove: list[Path] = field(default_factory=list)
    keep: dict[Path, str] = field(default_factory=dict)

    def add(self, path: Path, *, keep: str | None = None) -> None:
        """Remove `path` if it exists, unless there is a reason to keep it."""
        if path.is_symlink():
            self.keep[path] = "a link"
        elif path.exists() and keep:
            self.keep[path] = keep
        elif path.exists():
            self.remove.append(path)


def planned_removal(root: Path, *, everything: bool) -> Removal:
    """Paths to remove from the checkout `root`; with `everything`, raw data and journals too."""
    removal = Removal()
    for name in TOP:
        removal.add(root / name)
    for dataset in _folders(root / "data", removal):
        if not any((dataset / name).exists() for name in MARKS):
            removal.add(dataset, keep="not a data set of the pipeline")
            continue
        for name in DATASET:
            removal.add(dataset / name)
        for provider in _folders(dataset / "narrations", removal):
            for path in sorted(provider.iterdir()):
                paid = path.name == "journal" and not everything
                removal.add(path, keep="a language model's answers" if paid else None)
        for name in ("raw", *MARKS):
            raw = name != "videos.parquet" and not everything
            removal.add(dataset / name, keep="raw data" if raw else None)
    return removal


def _folders(parent: Path, removal: Removal) -> Iterator[Path]:
    """Folders in `parent`; links are recorded as kept."""
    if parent.is_symlink():
        removal.add(parent)
    elif parent.is_dir():
        for path in sorted(parent.iterdir()):
            if path.is_symlink():
                removal.add(path)
            elif path.is_dir():
                yield path


def size(path: Path) -> int:
    """Bytes of a file or of all files in a folder; links count as themselves."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(size(entry) for entry in path.iterdir())


def readable(count: int) -> str:
    """A number of bytes in a readable unit: 1.5 GB."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def clean(root: Path, *, everything: bool, confirm: Callable[[str], bool]) -> None:
    """Print what is removed and what is kept, ask with `confirm`, and remove."""
    removal = planned_removal(root, everything=everything)
    for path, reason in removal.keep.items():
        print(f"keep    {'' if path.is_symlink() else readable(size(path)):>10}  {path}  ({reason})")
    sizes = {path: size(path) for path in removal.remove}
    for path, count in sizes.items():
        print(f"remove  {readable(count):>10}  {path}")
    if not sizes:
        print("nothing to remove")
    elif confirm(f"Remove {readable(sum(sizes.values()))}?"):
        for path in sizes:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            _remove_if_empty(path.parent, root)


def _remove_if_empty(folder: Path, root: Path) -> None:
    """Remove a folder that has become empty, and then its parents, up to the checkout."""
    with suppress(OSError):
        while folder != root:
            folder.rmdir()
            folder = folder.parent


def _ask(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ValueError("there is no terminal to confirm this at; `make clean YES=1` removes without asking")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make clean", description=__doc__)
    parser.add_argument("--yes", action="store_true", help="remove without asking")
    parser.add_argument("--everything", action="store_true", help="raw data and paid answers too")
    arguments = parser.parse_args()
    clean(Path(), everything=arguments.everything, confirm=(lambda _: True) if arguments.yes else _ask)


if __name__ == "__main__":
    run(main)
