"""Takes the place of the Python that runs llama.cpp's server: real sockets, known answers, no model.

    stand_in_server.py BEHAVIOUR LOG llama_cpp_server.py --model FILE --alias NAME --port PORT …

Behaviours: `late` is healthy after two seconds, `broken` ends at the start, `midway` ends after five answers,
`silent` never gets healthy. Its process id is in LOG.pid.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path

import chat_server

BEHAVIOUR, LOG = sys.argv[1], Path(sys.argv[2])
KEY = "none"
STARTED = time.monotonic()
ANSWERS = itertools.count()


class Handler(chat_server.Handler):
    def do_GET(self) -> None:  # noqa: N802 (http.server's name)
        healthy = BEHAVIOUR != "silent" and time.monotonic() - STARTED > 2
        self.send(200 if healthy else 503, {"status": "ok" if healthy else "loading model"})

    def do_POST(self) -> None:  # noqa: N802
        if BEHAVIOUR == "midway" and next(ANSWERS) > 5:
            print("failed to allocate the compute buffer", file=sys.stderr, flush=True)
            os._exit(3)
        if "Authorization" not in self.headers:
            self.headers["Authorization"] = f"Bearer {KEY}"
        super().do_POST()


def main() -> None:
    options = dict(itertools.pairwise(sys.argv[3:]))
    LOG.with_name(f"{LOG.name}.pid").write_text(str(os.getpid()))
    if BEHAVIOUR == "broken":
        sys.exit(f"error loading model: {options['--model']}: unknown magic")
    words = ["--port", options["--port"], "--port-file", f"{LOG}.port", "--log", str(LOG)]
    words += ["--key", KEY, "--model", options["--alias"], "--delay", "0.05"]
    chat_server.serve(chat_server.Server(chat_server.parser(None).parse_args(words), Handler))


if __name__ == "__main__":
    main()
