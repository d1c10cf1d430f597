"""Runs programs of ours, and Snakemake, for the price of importing their packages once.

`WarmPython.path` is a program that takes the place of `python` in a command line. For `-m` with one of our
modules and for a file it asks a server to fork, which has imported Snakemake, torch and our code; anything
else goes to the real Python. All of pytest-xdist's workers share the server.

The fork has the client's streams, folder, variables and ignored signals, and a session of its own. Stop
signals reach its process group by way of the client; if the client is killed, so is the fork with all that
it has started. Processes that our torchrun starts are forks too, and its children as they should be.
"""

from __future__ import annotations

import array
import atexit
import fcntl
import gc
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[2]
FOLDER_VARIABLE = "AVION_WARM_PYTHON"
"""The folder of the server of this run of the tests."""
TORCHRUN = "workflow_scripts.torchrun"
PACKAGES = (
    "snakemake.cli",
    "snakemake.api",
    "snakemake.report",
    "smart_open",
    "torch.distributed.optim",
    "torch.distributed.run",
    "torch.utils.flop_counter",
    "torch.utils.tensorboard",
    "pandas",
    "pyarrow.dataset",
    "pyarrow.pandas_compat",
    "pyarrow.parquet",
    "av",
    "ftfy",
    "imageio_ffmpeg",
    "safetensors.torch",
    "lemminflect",
    "openai.resources.chat",
    "psutil",
    "pytest",
    "timm.data.mixup",
    "tqdm",
    "yaml",
    "avion_core.begin",
    "avion_core.evaluate.code",
    "avion_core.workflow.code",
    "avion_core.workflow.inputs",
    "avion_core.workflow.remakes",
)
"""What our code imports only when it is needed."""
CLIENT = """#!{python} -IS
import os, sys
first, *more = sys.argv[1:]
ours = more and more[0].startswith("workflow_scripts.") and not more[0].endswith(".local_server")
if not (first == "-m" and (ours or more[0] == "snakemake") or not first.startswith("-")):
    os.execv("{python}", ["{python}", *sys.argv[1:]])
import array, json, signal, socket
def hand_on(number, frame):
    try:
        server.send(bytes([number]))
    except OSError:  # the program has just ended
        pass
signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
with socket.socket(socket.AF_UNIX) as server:
    server.connect("{address}")
    ignored = [number for number in signals if signal.getsignal(number) is signal.SIG_IGN]
    order = dict(arguments=sys.argv[1:], environment=dict(os.environ), folder=os.getcwd(), ignored=ignored)
    server.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (0, 1, 2)))])
    server.sendall(json.dumps(order).encode() + b"\\n")
    for number in signals:  # the program may hear one that its parent ignored
        signal.signal(number, hand_on)
    code = int(server.makefile().readline())
    for number in signals:
        signal.signal(number, signal.SIG_IGN)
if code < 0:
    if -code in signals:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


class WarmPython:
    """The client's program; the server starts on first use and ends with the tests."""

    def __init__(self) -> None:
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        """The program."""
        if self._path is None:
            folder = Path(os.environ[FOLDER_VARIABLE])
            with (folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not (folder / "python").exists():
                    _start(folder)
            self._path = folder / "python"
        return self._path


def wait_for_forks_in(folder: Path) -> None:
    """Wait until no process works in a folder whose clients were killed: their forks end a moment later."""
    while any(_works_in(process, folder) for process in Path("/proc").glob("[0-9]*")):
        time.sleep(0.005)


def _works_in(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").readlink() == folder.resolve()
    except OSError:  # it has ended
        return False


def begin() -> None:
    """Give this run of the tests a folder for its server; call it in the process that starts all others."""
    if FOLDER_VARIABLE not in os.environ:
        folder = tempfile.mkdtemp(prefix="warm-")
        os.environ[FOLDER_VARIABLE] = folder
        (Path(folder) / "tests").write_text(str(os.getpid()))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _start(folder: Path) -> None:
    address = folder / "server"
    server = subprocess.Popen(
        [sys.executable, __file__, str(address), (folder / "tests").read_text()],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert server.stdout and server.stdout.readline(), "the warm process has ended"
    draft = folder / "draft"
    draft.write_text(CLIENT.format(python=sys.executable, address=address))
    draft.chmod(0o755)
    draft.rename(folder / "python")


@dataclass(frozen=True)
class Order:
    """A program to run as a client would have."""

    arguments: list[str]
    """Python's."""
    environment: dict[str, str]
    folder: str
    ignored: list[int]
    """Signals."""

    @property
    def is_torchrun(self) -> bool:
        """Whether it starts further processes of ours."""
        return self.arguments[:2] == ["-m", TORCHRUN]

    @property
    def is_snakemake(self) -> bool:
        """Whether it is Snakemake, a module or a file."""
        return Path(self.arguments[self.arguments[0] == "-m"]).name == "snakemake"

    def take_on(self) -> None:
        """Give this process the variables, the folder, the modules and the signals."""
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.folder)
        for number in self.ignored:
            signal.signal(number, signal.SIG_IGN)
        sys.argv = self.arguments[self.arguments[0] == "-m" :]
        first = self.folder if self.arguments[0] == "-m" else str(Path(sys.argv[0]).parent)
        sys.path[:1] = [first, *filter(None, self.environment.get("PYTHONPATH", "").split(os.pathsep))]
        known = _is_imported() or f"{ROOT}/Snakefile" in sys.argv
        _forget({"workflow_scripts"} if known else {"workflow_scripts", "avion_core"})

    def run(self) -> NoReturn:
        """Run the program and end as Python would, but leave the imported packages in one piece.

        To take them apart would copy all the memory that forks share: ten times what a fork costs.
        """
        code: Any = None
        try:
            if self.arguments[0] == "-m":
                runpy.run_module(self.arguments[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(self.arguments[0], run_name="__main__")
        except SystemExit as end:
            code = end.code
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 1
        if not isinstance(code, int | None):
            print(code, file=sys.stderr)
            code = 1
        threading._shutdown()  # waits for threads
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # nobody reads it any more
                stream.flush()
        os._exit(code or 0)


def _is_imported() -> bool:
    """Whether the code that a client would import is the one that this process has imported."""
    found = PathFinder.find_spec("avion_core")
    return found is not None and found.origin == sys.modules["avion_core"].__file__


def _forget(packages: set[str]) -> None:
    """Let these packages be imported again."""
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]


@dataclass(frozen=True)
class Fork:
    """A process that runs for a client."""

    pid: int
    client: socket.socket

    def hand_on(self) -> bool:
        """Signal it as its client was, or end it as the client has been ended; False then."""
        heard = self.client.recv(64)
        if not heard:
            _kill_with_descendants(self.pid)
        for number in heard:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
        return bool(heard)


def _kill_with_descendants(pid: int) -> None:
    import psutil

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.Error):
                each.kill()


def serve(address: str, tests: int) -> Order | None:
    """Answer clients until the tests' process has ended: None. In a fork, what it is to run."""
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as events:
        listener.bind(address)
        listener.listen(64)
        events.register(listener, selectors.EVENT_READ)
        ending = os.pidfd_open(tests)
        events.register(ending, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for event, _ in events.select():
                if event.fileobj == ending:
                    return None
                if event.fileobj is listener:
                    client, _ = listener.accept()
                    order, streams = _received(client)
                    child = os.fork()
                    if child == 0:
                        os.setsid()
                        client.close()
                        for target, opened in enumerate(streams):
                            os.dup2(opened, target)
                            os.close(opened)
                        return order
                    for opened in streams:
                        os.close(opened)
                    fork = Fork(child, client)
                    events.register(os.pidfd_open(child), selectors.EVENT_READ, fork)
                    events.register(client, selectors.EVENT_READ, fork)
                elif event.fileobj is event.data.client:
                    if not event.data.hand_on():
                        events.unregister(event.fileobj)
                else:
                    events.unregister(event.fileobj)
                    os.close(event.fd)
                    _end(event.data, events)


def _end(fork: Fork, events: selectors.BaseSelector) -> None:
    """Tell the client how its fork has ended."""
    _, status = os.waitpid(fork.pid, 0)
    with suppress(KeyError):
        events.unregister(fork.client)
    with fork.client, suppress(OSError):  # a client may have been killed
        fork.client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _received(client: socket.socket) -> tuple[Order, array.array[int]]:
    """A client's order and its streams."""
    _, passed, _, _ = client.recvmsg(1, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    return Order(**json.loads(client.makefile().readline())), array.array("i", passed[0][2])


class Worker:
    """A fork that waits for torchrun to start it; then what torchrun asks of a `Popen`."""

    def __init__(self, pid: int, start: socket.socket) -> None:
        self.pid, self.returncode = pid, None
        self._start = start

    def start(self, args: tuple[str, ...], env: dict[str, str]) -> Worker:
        """Run the program in it."""
        with self._start:
            self._start.sendall(json.dumps([args, env]).encode() + b"\n")
        return self

    def poll(self) -> int | None:
        """Its exit code once it has ended."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        deadline = time.monotonic() + (1e9 if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode


def fork_workers(order: Order) -> Order:
    """Fork the processes that this torchrun will start. Returns the order, and in each of them its own."""
    option = "--nproc-per-node="
    (count,) = (int(word.removeprefix(option)) for word in order.arguments if word.startswith(option))
    waiting: list[Worker] = []
    starts: list[socket.socket] = []
    for _ in range(count):
        start, started = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            for theirs in (*starts, start):
                theirs.close()
            with started:
                said = started.makefile().readline()
            if not said:  # torchrun has ended
                os._exit(0)
            args, environment = json.loads(said)
            return Order(args[1 + (args[1] == "-u") :], environment, order.folder, order.ignored)
        started.close()
        starts.append(start)
        waiting.append(Worker(pid, start))

    def popen(args: tuple[str, ...], env: dict[str, str], **streams: Any) -> Worker:
        assert streams == {"stdout": None, "stderr": None, "start_new_session": True}, streams
        return waiting.pop(0).start(args, env)

    handler = importlib.import_module(
        "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler"
    )
    handler.Popen = popen
    return order


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    scripts = (f"workflow_scripts.{script.stem}" for script in ROOT.glob("workflow_scripts/[a-z]*.py"))
    for imported in (*PACKAGES, *scripts):
        importlib.import_module(imported)
    from avion_core.files import code_fingerprint

    for path in (ROOT / "avion_core").rglob("*.py"):
        code_fingerprint([path])  # remembers what it has parsed
    gc.freeze()  # its memory stays shared with the forks
    if order := serve(sys.argv[1], int(sys.argv[2])):
        if order.is_torchrun:
            order = fork_workers(order)
        elif order.is_snakemake:
            sys.executable = str(Path(sys.argv[1]).with_name("python"))  # its jobs' as well
        order.take_on()
        order.run()
