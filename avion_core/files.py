"""Atomic publication of files, checksums, and the manifest that records where a result came from."""

from __future__ import annotations

import ast
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

PARTIAL = ".partial-"
"""Prefix of unfinished files; a name with it is never a result."""
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Error numbers of a full or read-only disk."""
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Error numbers of a folder that this user cannot write to."""


@contextmanager
def publish(path: str | Path, *, key: str | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`.

    The body writes one file there (or makes one folder). After an exception or a kill, `path` is unchanged.
    The temporary name keeps the suffix, as some writers depend on it. Permissions follow the umask, as some
    libraries make private files. With a `key`, an unfinished draft is kept for the next body with this key.
    The OSError of a full disk names `path`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = (
        Path(tempfile.mkdtemp(prefix=PARTIAL, dir=target.parent)) if key is None else _staging(target, key)
    )
    draft, kept = staging / target.name, key is not None
    try:
        yield draft
        mode = _mode_of_new_files(staging)
        for entry in [draft] if draft.is_symlink() else [*draft.rglob("*"), draft]:
            _set_mode(entry, mode)
            _sync(entry)
        if draft.is_dir() and target.exists():
            target.rename(staging / f"{target.name}.old")
        draft.replace(target)
        _sync(target.parent)
        kept = False
    except OSError as error:
        if error.errno in CANNOT_WRITE and error.filename is None:
            error.filename = str(target)
        raise
    finally:
        if not kept:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def claim(path: str | Path) -> Iterator[None]:
    """Run the body under an exclusive lock on `path`, held against all processes on this file system.

    Raises BlockingIOError at once while another process holds it. The kernel releases the lock of a killed
    process. On a file system without locks, or where nothing may be written, there is no lock.
    """
    target = Path(path)
    lock = target.with_name(f".{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            busy = not os.fstat(file.fileno()).st_nlink  # opened just before its owner deleted it
        except OSError as error:
            busy = isinstance(error, BlockingIOError)
        if busy:
            raise BlockingIOError(f"{path}: another process is at work on it; wait for it or stop it")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _staging(target: Path, key: str) -> Path:
    """Staging folder of `target` for this key; removes half-written and half-deleted files."""
    staging = target.parent / f"{PARTIAL}{key}"
    staging.mkdir(exist_ok=True)
    remove_partials(staging / target.name)
    shutil.rmtree(staging / f"{target.name}.old", ignore_errors=True)
    return staging


def _mode_of_new_files(folder: Path) -> int:
    """Permissions of a new file in `folder`, by the umask or the folder's default ACL."""
    with tempfile.TemporaryDirectory(dir=folder) as probe:
        new = Path(probe) / "new"
        new.touch()
        return stat.S_IMODE(new.stat().st_mode)


def _set_mode(path: Path, mode: int) -> None:
    """Give a file `mode`, and a folder the same plus search permission; leave links alone."""
    found = path.lstat().st_mode
    if stat.S_ISDIR(found):
        mode |= (mode & 0o444) >> 2 | found & stat.S_ISGID
    if not stat.S_ISLNK(found) and stat.S_IMODE(found) != mode:
        with suppress(OSError):  # file systems without permissions
            path.chmod(mode)


def restore(path: str | Path) -> None:
    """Put back the old `path` that a killed `publish` with a key had moved aside."""
    target = Path(path)
    for aside in target.parent.glob(f"{PARTIAL}*/{target.name}.old"):
        if not target.exists():
            aside.rename(target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partials(folder: str | Path, *, except_key: str | None = None) -> None:
    """Delete leftovers of killed writers in `folder`, except drafts with this key."""
    for leftover in Path(folder).glob(f"{PARTIAL}*"):
        if leftover.name != f"{PARTIAL}{except_key}":
            shutil.rmtree(leftover, ignore_errors=True)


def write_json(path: str | Path, value: Any) -> None:
    """Publish `value` as `json_text`."""
    with publish(path) as draft:
        draft.write_text(json_text(value), encoding="utf-8")


def json_text(value: Any) -> str:
    """`value` as indented JSON, keys in order."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def read_json(path: str | Path) -> Any:
    """Parse a JSON file; a ValueError for other content names the file."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None


def sha256(path: str | Path) -> str:
    """Hex digest of a file's content."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Short digest of a JSON-able value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_fingerprint(paths: Iterable[str | Path]) -> str:
    """Digest of source files; in Python, comments, docstrings and formatting do not count."""
    texts = {Path(path).name: Path(path).read_text(encoding="utf-8") for path in paths}
    return fingerprint({name: _bare(text) if name.endswith(".py") else text for name, text in texts.items()})


@cache
def _bare(source: str) -> str:
    """A Python source's syntax tree without docstrings, as text."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return ast.dump(tree)


def code_revision() -> str:
    """Git revision of this code, with `+changes` if files differ; 'unknown' outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(here), "describe", "--always", "--abbrev=12", "--dirty=+changes"]
        # In a git hook these name the repository being committed to.
        others = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")
        here_only = {name: value for name, value in os.environ.items() if name not in others}
        return subprocess.run(
            command, env=here_only, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def checksums(inputs: Mapping[str, Path]) -> dict[str, str]:
    """Hex digest of each input's content, by its name."""
    return {name: sha256(path) for name, path in inputs.items()}


def write_manifest(
    path: str | Path,
    *,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Path],
    identity: Mapping[str, Any],
) -> None:
    """Publish a result's provenance: code revision, settings, and each input's path and checksum.

    `identity` is everything that affects the result, with the inputs' checksums as `inputs`. They were taken
    when the work began: an input may have changed since.
    """
    digests = identity["inputs"]
    entries = {name: {"path": str(file), "sha256": digests[name]} for name, file in inputs.items()}
    manifest = {"revision": code_revision(), "settings": settings, "inputs": entries}
    write_json(path, {**manifest, "identity": fingerprint(identity)})
