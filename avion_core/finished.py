"""Keep finished results whose recipe and inputs are unchanged.

Snakemake plans everything downstream of a job that runs, and deletes a job's outputs before it starts. (Its
flag `update()` copies them first, gigabytes, and restores them after a failure as if they were the new
result.) So before the first job, hard links of the outputs are set aside. A job with the identity in their
manifest takes them back; any other job leaves them there and removes them once it has made its own.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from avion_core.manifests import MANIFEST, read_manifest

ASIDE = ".finished"
"""Folder in a result's folder that holds the hard links."""


def set_planned_aside(dag: Any) -> None:
    """Set aside the outputs of planned jobs with a manifest, and remove those of jobs that the user forces.

    `dag` is Snakemake's.
    """
    for job in dag.needrun_jobs():
        if manifest := job.output.get("manifest"):
            if job.rule in dag.forcerules or not dag.forcefiles.isdisjoint(job.output):
                forget(Path(manifest).parent)
            else:
                set_aside(map(Path, job.output))


def set_aside(outputs: Iterable[Path]) -> None:
    """Link the outputs of one job, including its manifest, into ASIDE beside them.

    If some are missing, or the file system has no hard links, nothing changes: the job makes its own.
    """
    paths = sorted(outputs, key=lambda path: path.name == MANIFEST)
    if not all(path.is_file() for path in paths):
        return
    forget(paths[0].parent)
    try:
        for path in paths:
            aside = path.parent / ASIDE
            aside.mkdir(exist_ok=True)
            os.link(path, aside / path.name)
    except OSError:
        forget(paths[0].parent)


def keep(
    folder: Path, names: Sequence[str], *, identity: Callable[[Mapping[str, Any]], str], title: str
) -> bool:
    """Whether the finished files `names` of `folder` have this identity; they then count as new.

    Looks in `folder` and among the files set aside. The manifest comes back last, so that a kill in between
    leaves nothing that looks finished. `identity` is called with the manifest, if there is one.
    """
    for place in (folder, folder / ASIDE):
        if not all((place / name).is_file() for name in (*names, MANIFEST)):
            continue
        manifest = _manifest(place)
        if manifest is None or manifest.get("identity") != identity(manifest):
            continue
        if place != folder:
            unfinish(folder)
            for name in (*names, MANIFEST):
                (folder / name).unlink(missing_ok=True)
                os.link(place / name, folder / name)
        for name in (*names, MANIFEST):
            os.utime(folder / name)
        forget(folder)
        print(f"{title}: nothing it depends on has changed; kept", file=sys.stderr, flush=True)
        return True
    return False


def unfinish(folder: Path) -> None:
    """Remove the manifest before other files of `folder` are replaced: it does not describe those."""
    (folder / MANIFEST).unlink(missing_ok=True)


def forget(folder: Path) -> None:
    """Remove the files set aside in `folder`."""
    shutil.rmtree(folder / ASIDE, ignore_errors=True)


def _manifest(folder: Path) -> Mapping[str, Any] | None:
    """The manifest of a folder; None if there is none or it is damaged."""
    try:
        return read_manifest(folder)
    except ValueError:
        return None
