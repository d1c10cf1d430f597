"""Runs the jobs of a workflow for the price of importing their code once.

`WarmPython.path` is a program that takes the place of `python` in a job's command. For our scripts it asks
a process to fork that has imported them with all they need. All else goes to the real Python, and so does the
job of a server, which watches its parent process.
"""

from __future__ import annotations

import array
import atexit
import gc
import importlib
import json
import os
import runpy
import selectors
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "torch.distributed.optim",
    "torch.utils.flop_counter",
    "pandas",
    "av",
    "safetensors.torch",
    "lemminflect",
    "openai.resources.chat",
    "timm.data.mixup",
    "tqdm",
)
"""What our code imports only when it is needed."""
CLIENT = """#!{python} -IS
import os, sys
name = sys.argv[2] if sys.argv[1:2] == ["-m"] else ""
if not name.startswith("workflow_scripts.") or name.endswith(".local_server"):
    os.execv("{python}", ["{python}", *sys.argv[1:]])
import array, json, signal, socket
with socket.socket(socket.AF_UNIX) as server:
    server.connect("{address}")
    order = dict(module=sys.argv[2], argv=sys.argv[2:], environment=dict(os.environ), folder=os.getcwd())
    server.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (0, 1, 2)))])
    server.sendall(json.dumps(order).encode() + b"\\n")
    code = int(server.makefile().readline())
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


class WarmPython:
    """The process that forks, started on first use and ended with this one."""

    def __init__(self) -> None:
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        """The program."""
        if self._path is None:
            folder = tempfile.TemporaryDirectory(prefix="warm-")
            self._path = Path(folder.name) / "python"
            address = f"{folder.name}/server"
            server = subprocess.Popen(
                [sys.executable, __file__, address],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
            atexit.register(lambda: (server.kill(), server.wait(), folder.cleanup()))
            assert server.stdout and server.stdout.readline(), "the warm process has ended"
            self._path.write_text(CLIENT.format(python=sys.executable, address=address))
            self._path.chmod(0o755)
        return self._path


def serve(address: str) -> str | None:
    """Answer clients until the tests have ended: None. In a fork for a client, the module to run."""
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as events:
        listener.bind(address)
        listener.listen(64)
        events.register(listener, selectors.EVENT_READ)
        tests = os.getppid()
        print("ready", flush=True)
        while os.getppid() == tests:
            for event, _ in events.select(timeout=5):
                if event.fileobj is listener:
                    client, _ = listener.accept()
                    child = os.fork()
                    if child == 0:
                        return take(client)
                    events.register(os.pidfd_open(child), selectors.EVENT_READ, (child, client))
                else:
                    events.unregister(event.fileobj)
                    os.close(event.fd)
                    child, client = event.data
                    _, status = os.waitpid(child, 0)
                    with client, suppress(OSError):  # a client may have been killed
                        client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    return None


def take(client: socket.socket) -> str:
    """Take on a client's order; the module to run."""
    with client:
        _, passed, _, _ = client.recvmsg(1, socket.CMSG_SPACE(3 * array.array("i").itemsize))
        order = json.loads(client.makefile().readline())
    return become(array.array("i", passed[0][2]), **order)


def become(
    descriptors: array.array[int], module: str, argv: list[str], environment: dict[str, str], folder: str
) -> str:
    """Take on a client's streams, environment and folder; the module to run."""
    for target, opened in enumerate(descriptors):
        os.dup2(opened, target)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = argv
    sys.path[:1] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    forget(not is_imported())
    return module


def is_imported() -> bool:
    """Whether the code that a client would import is the one that this process has imported."""
    found = PathFinder.find_spec("avion_core")
    return found is not None and found.origin == sys.modules["avion_core"].__file__


def forget(library: bool) -> None:
    """Let the scripts be imported again, as Python runs them; the library as well if it is another copy."""
    gone = {"workflow_scripts", "avion_core"} if library else {"workflow_scripts"}
    for name in [name for name in sys.modules if name.partition(".")[0] in gone]:
        del sys.modules[name]


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    scripts = (f"workflow_scripts.{script.stem}" for script in ROOT.glob("workflow_scripts/[a-z]*.py"))
    for imported in (*PACKAGES, *scripts):
        importlib.import_module(imported)
    gc.freeze()  # its memory stays shared with the forks
    if name := serve(sys.argv[1]):
        runpy.run_module(name, run_name="__main__", alter_sys=True)
