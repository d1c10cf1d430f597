"""Starts `snakemake` many times for the price of importing it once.

Run as a program, this imports Snakemake and what the workflow needs, and forks for each command line. A dry
run then costs a quarter of what a fresh interpreter takes; other runs save the same seconds.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SCRIPTS = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
OURS = ("avion_core", "workflow_scripts")
PACKAGES = (
    "snakemake.cli",
    "snakemake.api",
    "pandas",
    "pyarrow.parquet",
    "pydantic",
    "yaml",
    "av",
    "lemminflect",
    "workflow_scripts",
    "avion_core.begin",
    "avion_core.evaluate.code",
    "avion_core.workflow.code",
    "avion_core.workflow.inputs",
    "avion_core.workflow.remakes",
)


class WarmSnakemake:
    """The process that forks, started on first use and ended with this one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(
        self, arguments: Sequence[str], environment: dict[str, str], python: str = sys.executable
    ) -> subprocess.CompletedProcess[str]:
        """Run `snakemake` with these arguments to the end; stdout and stderr come back together.

        Its jobs run the program `python`.
        """
        process = self._running()
        assert process.stdin and process.stdout
        with tempfile.NamedTemporaryFile() as output:
            order = {
                "argv": [str(SCRIPTS / "snakemake"), *arguments],
                "environment": environment,
                "folder": str(Path.cwd()),
                "output": output.name,
                "python": python,
            }
            print(json.dumps(order), file=process.stdin, flush=True)
            code = process.stdout.readline()
            assert code, "the warm process has ended"
            said = Path(output.name).read_text()
        return subprocess.CompletedProcess(order["argv"], int(code), stdout=said)

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            atexit.register(self._end)
        return self._process

    def _end(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()


def serve() -> bool:
    """Fork for every line of stdin. True in a child, which is then to run Snakemake; False at the end."""
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            become(**json.loads(line))
            return True
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return False


def become(argv: list[str], environment: dict[str, str], folder: str, output: str, python: str) -> None:
    """Take on a command's arguments, environment, folder, and output file, and its jobs' Python."""
    for path, descriptors in ((os.devnull, (0,)), (output, (1, 2))):
        opened = os.open(path, os.O_RDWR | os.O_APPEND)
        for descriptor in descriptors:
            os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv, sys.executable = argv, python
    if f"{ROOT}/Snakefile" not in argv:  # another copy of our code
        for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
            del sys.modules[name]


if __name__ == "__main__":
    import gc
    import importlib

    sys.path[0] = str(ROOT)
    for package in PACKAGES:
        importlib.import_module(package)
    sys.path[0] = str(SCRIPTS)  # as the installed `snakemake` has it
    gc.freeze()  # its memory stays shared with the forks
    if serve():
        from snakemake.cli import main

        sys.exit(main())
