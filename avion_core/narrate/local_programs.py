"""Programs that `local_server` starts: their command lines, and what they lack."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from avion_core.config import LocalServerSettings

HOST = "127.0.0.1"


def server_command(
    settings: LocalServerSettings, *, names: Sequence[str], port: int, threads: int, images: int
) -> list[str]:
    """The command of a server that knows its model by `names`, and takes this many images in a request."""
    if settings.program == "vllm":
        return _vllm_command(settings, names=names, port=port, images=images)
    return _llama_cpp_command(settings, names=names, port=port, threads=threads)


def _llama_cpp_command(
    settings: LocalServerSettings, *, names: Sequence[str], port: int, threads: int
) -> list[str]:
    program = Path(__file__).with_name("llama_cpp_server.py")
    command = [_python(settings), str(program), "--model", settings.model, "--alias", *names]
    command += ["--port", str(port), "--threads", str(threads), "--slots", str(settings.slots)]
    command += ["--context", str(settings.slots * settings.context_tokens)]
    command += ["--projector", settings.projector] if settings.projector else []
    return command + (["--chat-template", settings.chat_template] if settings.chat_template else [])


def _vllm_command(
    settings: LocalServerSettings, *, names: Sequence[str], port: int, images: int
) -> list[str]:
    program = Path(_python(settings)).with_name("vllm")
    command = [str(program), "serve", settings.model, "--served-model-name", *names]
    command += ["--host", HOST, "--port", str(port), "--max-num-seqs", str(settings.slots)]
    command += ["--max-model-len", str(settings.context_tokens)]
    command += ["--limit-mm-per-prompt", json.dumps({"image": images})] if images else []
    return command + (["--chat-template", settings.chat_template] if settings.chat_template else [])


def server_problems(settings: LocalServerSettings, *, looks: bool) -> Iterator[str]:
    """What would keep the server from starting; `looks`: whether it must take images."""
    files = {name: getattr(settings, name) for name in ("projector", "chat_template")}
    if settings.program == "llama_cpp" or settings.model.startswith(("/", "./", "../", "~")):
        files = {"model": settings.model, **files}
    for name, path in files.items():
        if path and not Path(path).exists():
            yield f"local_server.{name}: {path}: no such file; correct the path"
    if looks and settings.program == "llama_cpp" and not settings.projector:
        yield (
            "local_server.projector: narrator.provider sends images, for which llama.cpp needs the model's "
            "projector (a file with mmproj in its name)"
        )
    if not _has_package(settings):
        yield (
            f"local_server: the package {settings.package} is not installed for {_python(settings)}; give it "
            f"an environment of its own (python3 -m venv .venv-llm && .venv-llm/bin/pip install "
            f"{settings.package}), and set local_server.python: .venv-llm/bin/python"
        )
    if settings.port and not _is_free(settings.port):
        yield (
            f"local_server.port: another program listens on port {settings.port}; stop it, set another "
            "port, or leave port out"
        )


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _python(settings: LocalServerSettings) -> str:
    return settings.python or sys.executable


def _has_package(settings: LocalServerSettings) -> bool:
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({settings.package!r}) is None)"
    try:
        return subprocess.run([_python(settings), "-c", look], capture_output=True).returncode == 0
    except OSError:
        return False
