"""The source `ego4d`: the official download, checked against its manifests."""

from __future__ import annotations

import configparser
import csv
import json
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from avion_core.config.sources import Ego4DSource
from avion_core.data.ego4d import (
    EGOMCQ,
    annotation_files,
    check_egoclip,
    check_egomcq,
    narration_path,
    read_all,
)
from avion_core.data.egoclip import EGOCLIP
from avion_core.data.published_text import EGO4D_TRAIN, check_rows
from avion_core.data.source_videos import SourceError, SourceVideo, names_of
from avion_core.files import write_json
from avion_core.processes import end_with_parent
from avion_core.sources.raw_folder import RawFolder
from avion_core.sources.source import Source
from avion_core.sources.state import SourceRecord

UNFINISHED = ".before_download.json"
"""Written during a download: lists earlier files that look like unfinished downloads."""


class Ego4DDownload(Source[Ego4DSource]):
    """Downloads with the official program, and copies EgoMCQ's and EgoVLP's files, which are not in the
    release."""

    def checks(self, record: SourceRecord) -> Sequence[Callable[[], object]]:
        """The account unless everything was downloaded, and the user's files unless they were copied."""
        checks: list[Callable[[], object]] = []
        if not self._has_arrived(record):
            checks.append(lambda: check_download(self.own))
        if EGOMCQ not in record.annotations:
            checks.append(lambda: check_questions(self.own))
        if EGOCLIP not in record.annotations:
            checks.append(lambda: check_tags(self.own))
        if EGO4D_TRAIN not in record.annotations and self.own.ego4d_train is not None:
            checks.append(lambda: check_rows(Path(self.own.ego4d_train or ""), "human"))
        return checks

    def _has_arrived(self, record: SourceRecord) -> bool:
        """Whether a download with these settings was complete; videos may have been deleted since."""
        return record.state.recipe == self.target.recipe and narration_path(self.target.raw_dir).is_file()

    def fetch(self, record: SourceRecord) -> list[SourceVideo]:
        """Download missing files, copy the user's, and read all annotations before they are used."""
        raw_dir = self.target.raw_dir
        raw = RawFolder(raw_dir)
        if self._has_arrived(record):
            videos = [SourceVideo(name, path) for name, (path, _) in record.videos.items()]
        else:
            raw.check_unedited()
            videos = fetch(self.own, raw_dir)
            raw.adopt(annotation_files(raw_dir))
        for name, file in self._own_files().items():
            if file.is_file():
                raw.copy(file, name)
        read_all(raw_dir, allow_missing_metadata=self.target.allow_missing_metadata)
        return videos

    def annotations(self) -> dict[str, Path]:
        """The downloaded files, and the user's."""
        return RawFolder(self.target.raw_dir).files() | self._own_files()

    def _own_files(self) -> dict[str, Path]:
        """EgoMCQ's, EgoVLP's and LaViLa's files that the settings name."""
        files = {EGOMCQ: self.own.egomcq, EGOCLIP: self.own.egoclip, EGO4D_TRAIN: self.own.ego4d_train}
        return {name: Path(path) for name, path in files.items() if path}

    def clips_at_most(self, recorded: Collection[str]) -> dict[str, int]:
        """No questions without EgoMCQ's file; other tables are counted after the download."""
        return {} if self.own.egomcq else {"egomcq": 0}


def command_path() -> str | None:
    """Path of the `ego4d` program: in this environment, else on the PATH."""
    beside = Path(sys.executable).with_name("ego4d")
    return str(beside) if beside.is_file() else shutil.which("ego4d")


def check_download(source: Ego4DSource) -> None:
    """Raise SourceError unless the program and the AWS profile exist."""
    if command_path() is None:
        raise SourceError("the program `ego4d` is not installed; run: pip install ego4d==1.7.3")
    if source.aws_profile not in _profiles():
        raise SourceError(
            f"AWS profile '{source.aws_profile}' is not configured; put the keys of your Ego4D licence "
            f"there with `aws configure --profile {source.aws_profile}`; environment variables are not enough"
        )


def check_questions(source: Ego4DSource) -> None:
    """Raise SourceError unless the EgoMCQ file of the settings exists and can be read."""
    if source.egomcq is not None and not Path(source.egomcq).is_file():
        raise SourceError(
            f"{source.egomcq}: EgoMCQ's file is not there; correct `ego4d.egomcq` or set it to null"
        )
    if source.egomcq is not None:
        check_egomcq(Path(source.egomcq))


def check_tags(source: Ego4DSource) -> None:
    """Raise SourceError unless EgoVLP's file of the settings exists and can be read."""
    if source.egoclip is None:
        return
    if not Path(source.egoclip).is_file():
        raise SourceError(
            f"{source.egoclip}: EgoVLP's file is not there; correct `ego4d.egoclip` or set it to null"
        )
    check_egoclip(Path(source.egoclip))


def _profiles() -> set[str]:
    """Names of the AWS profiles in the AWS tools' two files."""
    names: set[str] = set()
    for variable, default in (("AWS_SHARED_CREDENTIALS_FILE", "credentials"), ("AWS_CONFIG_FILE", "config")):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        path = os.environ.get(variable) or Path.home() / ".aws" / default
        try:
            parser.read(path)
        except (configparser.Error, OSError, UnicodeDecodeError) as error:
            problem = str(error).splitlines()[0]
            raise SourceError(f"{path}: AWS profiles cannot be read ({problem}); correct it") from None
        names |= {section.removeprefix("profile ") for section in parser.sections()}
    return names


def fetch(source: Ego4DSource, raw_dir: Path) -> list[SourceVideo]:
    """Download annotations and videos with the official program, and check them against its manifests.

    The program reports success even when files failed, so success means that every file of the manifest is
    there. Complete files are not fetched again. Raises SourceError.
    """
    release = raw_dir / source.version.split("_")[0]
    for dataset in ("annotations", source.videos):
        benchmarks = source.benchmarks if dataset == source.videos else ()
        with _own_leftovers(release / dataset):
            _run(
                download_command(source, dataset, raw_dir, benchmarks=benchmarks), profile=source.aws_profile
            )
        missing = missing_files(release / dataset, benchmarks=benchmarks)
        if missing:
            raise SourceError(
                f"ego4d: {len(missing)} files of '{dataset}' did not arrive: {names_of(missing)}; "
                f"run the same command again, it fetches only these"
            )
    names = listed_files(release / source.videos / "manifest.csv", benchmarks=source.benchmarks)
    return [SourceVideo(Path(name).stem, release / source.videos / name) for name in sorted(names)]


@contextmanager
def _own_leftovers(folder: Path) -> Iterator[None]:
    """Delete unfinished files that a killed download left in `folder`, but none that was there before."""
    record, similar = folder / UNFINISHED, {file.name for file in folder.glob("*.mp4.*")}
    users = set(json.loads(record.read_text())) if record.is_file() else similar
    write_json(record, sorted(users))
    for name in similar - users:
        (folder / name).unlink()
    yield
    record.unlink()


def download_command(
    source: Ego4DSource, dataset: str, raw_dir: Path, *, benchmarks: Sequence[str]
) -> list[str]:
    """Arguments of the official program for one of its data sets."""
    command = [command_path() or "ego4d", "--output_directory", str(raw_dir), "--datasets", dataset]
    command += ["--version", source.version, "--aws_profile_name", source.aws_profile, "--metadata", "-y"]
    return [*command, "--benchmarks", *benchmarks] if benchmarks else command


def listed_files(manifest: Path, *, benchmarks: Sequence[str]) -> list[str]:
    """File names in a manifest, only of the given benchmarks if there are any.

    As in the program: rows with a `file_uid` (or of type file or json) keep their object's name, the
    others are `<video_uid>.mp4`; `benchmarks` is written `[EM|FHO]`.
    """
    wanted = {name.lower() for name in benchmarks}
    names = []
    with manifest.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            tags = set((row.get("benchmarks") or "").strip("[] ").lower().replace(" ", "").split("|"))
            if wanted and "benchmarks" in row and not wanted & tags:
                continue
            location = row.get("canonical_s3_location") or row.get("s3_path") or ""
            is_file = "file_uid" in row
            if row.get("type") in ("mp4", "video", "file", "json"):
                is_file = row["type"] in ("file", "json")
            uid = row.get("file_uid") or row.get("video_uid")
            names.append(location.rsplit("/", 1)[-1] if is_file else f"{uid}.mp4")
    return names


def missing_files(folder: Path, *, benchmarks: Sequence[str]) -> list[str]:
    """Files of the manifest in `folder` that are missing there."""
    names = listed_files(folder / "manifest.csv", benchmarks=benchmarks)
    return sorted({name for name in names if not (folder / name).is_file()})


EXPIRED = ("ExpiredToken", "InvalidAccessKeyId", "403", "Forbidden", "AccessDenied")


def _run(command: Sequence[str], *, profile: str) -> None:
    """Run the program, show its output, and explain common failures."""
    said: deque[str] = deque(maxlen=50)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=end_with_parent,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.rstrip())
            print(said[-1], file=sys.stderr, flush=True)
    if process.returncode == 0:
        return
    text = "\n".join(said)
    if any(mark in text for mark in EXPIRED):
        raise SourceError(
            f"ego4d: the keys of AWS profile '{profile}' were refused; they expire after 14 days: "
            f"renew them on the Ego4D licence page and store them in the profile"
        )
    last_line = said[-1] if said else "it said nothing"
    raise SourceError(f"ego4d: the program failed (exit code {process.returncode}): {last_line}")
