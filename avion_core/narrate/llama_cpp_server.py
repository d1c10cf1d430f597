"""Runs llama.cpp's server from the package xllamacpp. Its environment has no other package of ours."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path


def main() -> None:
    """Serve until a signal ends the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--projector")
    parser.add_argument("--alias", nargs="+", required=True, help="names of the model in requests")
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--context", type=int, required=True, help="tokens of all slots together")
    parser.add_argument("--chat-template", type=Path)
    arguments = parser.parse_args()

    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = arguments.model
    settings.model_alias = set(arguments.alias)
    settings.hostnames, settings.port = ["127.0.0.1"], arguments.port
    settings.n_parallel, settings.n_ctx = arguments.slots, arguments.context
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = arguments.threads
    if arguments.projector:
        settings.mmproj.path = arguments.projector
    if arguments.chat_template:
        settings.chat_template = arguments.chat_template.read_text(encoding="utf-8")
    try:
        server = xllamacpp.Server(settings)
    except RuntimeError as error:  # llama.cpp has printed its reasons
        sys.exit(f"xllamacpp: {error}")
    print(f"listening on {server.listening_address}", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
