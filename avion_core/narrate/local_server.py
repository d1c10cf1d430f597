"""The server of `local_server`: started, watched and stopped by one job, used by others.

The serving job publishes its state as a small JSON file: `pid` of the job's shell, then `url` once the server
has answered, or `error`. The server ends with the job, however that ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import psutil

from avion_core.config import CLIENTS, LocalServerSettings
from avion_core.files import write_json
from avion_core.narrate.local_programs import HOST, free_port, server_command
from avion_core.processes import end_with_parent

INTERVAL_SECONDS = 0.2
"""Between two looks at a process or the state's file."""
STOP_SECONDS = 10.0
"""Time for a server to end after SIGTERM; then it is killed."""
LAST_LINES = 8
"""Lines of the server's log in an error."""


class LocalServerError(ValueError):
    """The local server does not start, does not answer, or has ended. The message has its last lines."""


# The job that serves.


def serve(
    settings: LocalServerSettings,
    *,
    names: Sequence[str],
    images: int,
    threads: int,
    run: int,
    state: Path,
    log: Path,
) -> None:
    """Run the server until the job's shell ends or a stop signal comes, which raises KeyboardInterrupt.

    `names` of the model in requests; `images` in a request; `run`, the process id of Snakemake; `state`, with
    the `pid` of the shell, which is the parent process; `log`, where this process and the server write.
    Raises LocalServerError if the server does not get ready or ends by itself, or Snakemake has been killed;
    `state` says why too.
    """
    job = _read(state)["pid"]
    end_with_parent(signal.SIGTERM, parent=job)
    port = settings.port or free_port()
    command = server_command(settings, names=names, port=port, threads=threads, images=images)
    print(*command, flush=True)
    try:
        with _running(command) as server:
            check = partial(_check_alive, server, run)
            _wait_until_ready(settings, check, f"http://{HOST}:{port}", name=names[0])
            write_json(state, {"pid": job, "url": f"http://{HOST}:{port}/v1"})
            while True:
                check()
                time.sleep(INTERVAL_SECONDS)
    except LocalServerError as error:
        text = f"local_server: {error}{_last_lines(log)}"
        write_json(state, {"pid": job, "error": text})
        raise LocalServerError(text) from None


@contextmanager
def _running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The server, with all processes that it starts, for as long as the body runs."""
    end = partial(end_with_parent, parent=os.getpid())
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=end)
    except OSError as error:
        raise LocalServerError(f"{command[0]} cannot be started ({error.strerror})") from None
    try:
        yield server
    finally:
        _signal_all(server, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)
        _signal_all(server, signal.SIGKILL)
        server.wait()


def _signal_all(server: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(server.pid, number)


def _wait_until_ready(
    settings: LocalServerSettings, check: Callable[[], None], address: str, *, name: str
) -> None:
    """Wait for the server's word that it is healthy, then for one completion."""
    deadline = time.monotonic() + settings.startup_minutes * 60
    while True:
        check()
        with suppress(OSError):
            _request(f"{address}/health", seconds=5.0)
            break
        if time.monotonic() > deadline:
            raise LocalServerError(
                f"no answer within {settings.startup_minutes:g} minutes (local_server.startup_minutes)"
            )
        time.sleep(INTERVAL_SECONDS)
    question = {"model": name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    try:
        left = max(deadline - time.monotonic(), 5.0)
        _request(f"{address}/v1/chat/completions", question, seconds=left)
    except HTTPError as error:
        said = error.read(1000).decode("utf-8", "replace")
        raise LocalServerError(f"it refuses a first request ({error.code}: {said})") from None
    except OSError as error:
        check()
        raise LocalServerError(f"no answer to a first request ({error})") from None


def _request(address: str, question: dict[str, Any] | None = None, *, seconds: float) -> None:
    """Raise an OSError unless the answer is a success."""
    body = None if question is None else json.dumps(question).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=seconds) as reply:
        reply.read()


def _check_alive(server: subprocess.Popen[bytes], run: int) -> None:
    if not psutil.pid_exists(run):
        raise LocalServerError("the run has ended")
    code = server.poll()
    if code is not None:
        ending = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise LocalServerError(f"the server {ending}")


def _last_lines(log: Path) -> str:
    """The end of the log for an error, with its path."""
    lines = [line.rstrip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "\n  ".join(["; its last lines:", *lines[-LAST_LINES:], f"({log.absolute()})"])


# The jobs that use it.


@contextmanager
def local_server(states: Sequence[Path] | None) -> Iterator[str | None]:
    """The address of the server with the state in this file, while the body runs; None without a file.

    Waits for the server. Raises LocalServerError if it fails; a body that is running then gets SIGTERM first.
    """
    if not states:
        yield None
        return
    (state,) = states
    address = _address(state)
    os.environ[CLIENTS["openai"].key_variable] = "none"
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), HOST]))
    watch = _Watch(state)
    try:
        yield address
    except KeyboardInterrupt:
        if watch.problem:
            raise LocalServerError(watch.problem) from None
        raise
    finally:
        watch.stop()


def _address(state: Path) -> str:
    while True:
        told = _read(state)
        if problem := _problem(told):
            raise LocalServerError(problem)
        if "url" in told:
            return str(told["url"])
        time.sleep(INTERVAL_SECONDS)


def _read(state: Path) -> dict[str, Any]:
    """The published state; empty while the job's shell is just writing it."""
    with suppress(ValueError):
        told = json.loads(state.read_text(encoding="utf-8"))
        return told if isinstance(told, dict) else {}
    return {}


def _problem(told: dict[str, Any]) -> str | None:
    if "pid" in told and "error" not in told and not psutil.pid_exists(told["pid"]):
        return "local_server: the job of the server has ended"
    return told.get("error")


class _Watch:
    """Looks after the server in a thread, and stops this process with SIGTERM if it has failed."""

    def __init__(self, state: Path) -> None:
        self.problem: str | None = None
        self._state, self._over = state, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(INTERVAL_SECONDS):
            try:
                self.problem = _problem(_read(self._state))
            except OSError:
                self.problem = f"local_server: {self._state} has disappeared"
            if self.problem:
                os.kill(os.getpid(), signal.SIGTERM)
                return
