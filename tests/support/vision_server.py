"""A chat-completions server that looks at the images it is sent, in this process or as one of its own.

    python vision_server.py --port-file PORT --log REQUESTS.jsonl [--images 1] [--choices refused] …

Its sentences tell the mean colour of what it was shown, and nothing else. Each request adds a line to the
log:
{"said": "ok", "images": [digests], "n": 10, "schema": true}.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from avion_core.narrate.clip_frames import images_of
from avion_core.narrate.vision_probe import probe_pictures

VERBS = ["lifts", "holds", "moves", "takes", "turns", "washes", "opens", "cuts", "drops", "wipes"]


@dataclass
class Limits:
    """What a server takes."""

    images: int = 16
    """Images in a request; 0 for none."""
    choices: str = "taken"
    """`n`: taken, refused or ignored."""
    tokens: int = 10**9
    """Tokens of a request, 100 an image."""
    schema: str = "taken"
    limit_name: str = "max_tokens"
    image_error: int = 400
    """Status for too many images."""
    says: str = ""
    """Said instead of sentences."""
    delay: float = 0.0


class VisionServer(ThreadingHTTPServer):
    """Binds a free port; a context manager that serves in a thread."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, limits: Limits, log: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.limits, self.log = limits, log
        self.requests: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        pictures = probe_pictures(4, 64)
        self.probes = {
            _digest(image)
            for sheet in (True, False)
            for image in images_of(pictures, sheet=sheet, quality=90)
        }

    @property
    def url(self) -> str:
        """Address for `base_url`."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def answered(self) -> list[str]:
        """What was shown in each request about a clip (4 frames of 64 pixels) that got an answer."""
        shown = [line["images"] for line in self.requests if line["said"] == "ok" and not line["probe"]]
        return ["+".join(images) for images in shown if images]

    def note(self, line: dict[str, Any]) -> None:
        with self.lock:
            self.requests.append(line)
            if self.log is not None:
                with self.log.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(line) + "\n")

    def __enter__(self) -> VisionServer:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


@dataclass
class _Seen:
    """A request, taken apart."""

    images: list[np.ndarray] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    text: str = ""


class _Handler(BaseHTTPRequestHandler):
    server: VisionServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        seen = _seen(body["messages"])
        refused = self._refusal(body, seen)
        line = {
            "said": refused[1] if refused else "ok",
            "images": seen.digests,
            "n": body.get("n", 1),
            "schema": "response_format" in body,
            "probe": bool(seen.images) and seen.digests[0] in self.server.probes,
            "limit": [name for name in body if name.startswith("max_")],
        }
        self.server.note(line)
        time.sleep(self.server.limits.delay)
        if refused:
            self._send(refused[0], {"error": {"message": refused[1]}})
        else:
            self._send(200, self._completion(body, seen))

    def _refusal(self, body: dict[str, Any], seen: _Seen) -> tuple[int, str] | None:
        limits = self.server.limits
        if limits.limit_name not in body:
            other = next(name for name in body if name.startswith("max_"))
            return (
                400,
                f"Unsupported parameter: '{other}' is not supported. Use '{limits.limit_name}' instead.",
            )
        if limits.schema == "refused" and "response_format" in body:
            return 400, "response_format is not supported"
        if limits.choices == "refused" and body.get("n", 1) > 1:
            return 400, "Only one completion choice is allowed"
        if seen.images and not limits.images:
            return limits.image_error, "image input is not supported"
        if len(seen.images) > limits.images:
            return limits.image_error, f"At most {limits.images} image(s) may be provided in one request."
        if 100 * len(seen.images) > limits.tokens:
            return 400, f"This model's maximum context length is {limits.tokens} tokens"
        return None

    def _completion(self, body: dict[str, Any], seen: _Seen) -> dict[str, Any]:
        choices = body.get("n", 1) if self.server.limits.choices == "taken" else 1
        wanted = re.search(r"an array of (\w+) (?:different )?sentence", body["messages"][0]["content"])
        count = 1 if wanted is None or wanted[1] == "one" else int(wanted[1])
        told = [sentence(seen.images, place) for place in range(max(choices, count))]
        groups = [[text] for text in told] if choices > 1 else [told]
        contents = [self.server.limits.says or json.dumps({"1": group}) for group in groups]
        usage = {"prompt_tokens": 100 * len(seen.images) + len(seen.text) // 4, "completion_tokens": 20}
        return {
            "choices": [
                {"index": place, "message": {"content": content}, "finish_reason": "stop"}
                for place, content in enumerate(contents)
            ],
            "usage": usage,
        }

    def _send(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def _seen(messages: list[dict[str, Any]]) -> _Seen:
    seen = _Seen()
    for message in messages:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                seen.text += part["text"]
                continue
            kind, _, coded = part["image_url"]["url"].partition(",")
            assert kind == "data:image/jpeg;base64", kind
            data = base64.b64decode(coded)
            seen.images.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
            seen.digests.append(_digest(data))
    return seen


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def sentence(images: list[np.ndarray], place: int) -> str:
    """The sentence of this number about some images."""
    means = [image.reshape(-1, 3).mean(0) for image in images] or [np.zeros(3)]
    red, green, blue = np.mean(means, axis=0).round().astype(int).tolist()
    return f"#C C {VERBS[place % len(VERBS)]} the cup of colour {red} {green} {blue}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--choices", default="taken")
    parser.add_argument("--delay", type=float, default=0.0)
    options = parser.parse_args()
    limits = Limits(images=options.images, choices=options.choices, delay=options.delay)
    server = VisionServer(limits, options.log)
    draft = options.port_file.with_suffix(".draft")
    draft.write_text(str(server.server_address[1]))
    draft.replace(options.port_file)
    server.serve_forever()


if __name__ == "__main__":
    main()
