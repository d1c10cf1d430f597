"""A chat-completions server for tests, as a process of its own: real sockets, real failures, known answers.

    python chat_server.py --port-file PORT --log REQUESTS.jsonl [--chaos 429,500,drop,ok]

Binds a free port of 127.0.0.1 and writes its number to the port file. Its key is `--key`, $CHAT_SERVER_KEY or
sk-test. Every request adds a line to the log:
{"texts": [...], "behaviour": "ok", "billed": true}; work that was in vain is billed too. The answer to a
narration depends on the narration alone. Chaos is a cycle of behaviours, one a request:

    ok        answers                              nousage   answers without counting tokens
    parts     answers in a list of parts           badusage  answers, with counts that cannot be
    length    an answer cut off by the token limit useless   200, but not what was asked for
    surrogate an answer with a lone surrogate

Faults that are not billed:

    429       rate limit, Retry-After: 0.02        429ms     the same as retry-after-ms
    429date   the same as an HTTP date             429odd    the same as a word
    500       server error                         echo      500 that repeats the Authorization header
    502       a proxy's page in HTML               503       loading the model
    504       a gateway's time-out, no body        408       a time-out of the server's own

Faults that are billed:

    drop      closes without a word                reset     resets the connection
    cut       closes in the middle of the body     hang      no answer for `--hang-seconds`
    drip      a byte now and then                  broken    200 whose body is no JSON
    html      200 with a login page                empty     200 without a body
    null      200 whose message is null            nochoices 200 without choices
    dict      200 whose choices are a dictionary   error200  200 with an error in it
    huge      a reply of 2 MB                      gzip      200 that is said to be gzip, and is not

A narration with one of `--odd` (WORD=BEHAVIOUR, comma-separated) in it always meets that behaviour; beside
those above it may be 400, 413 or 422. Parameters named by `--refuse` are answered with 400.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import socket
import struct
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ERRORS: dict[str, tuple[int, dict[str, str]]] = {
    "429": (429, {"Retry-After": "0.02"}),
    "429ms": (429, {"retry-after-ms": "20"}),
    "429date": (429, {}),
    "429odd": (429, {"Retry-After": "soon"}),
    "500": (500, {}),
    "echo": (500, {}),
    "502": (502, {}),
    "503": (503, {}),
    "504": (504, {}),
    "408": (408, {}),
    "400": (400, {}),
    "413": (413, {}),
    "422": (422, {}),
}
"""Behaviours that are an HTTP error: status and headers. None of them is billed."""
BODIES: dict[str, bytes] = {
    "broken": b'{"choices": [{"mess',
    "html": b"<!DOCTYPE html><html><body>Please log in</body></html>",
    "empty": b"",
    "null": b'{"choices": [{"message": null}], "usage": {"prompt_tokens": 100, "completion_tokens": 50}}',
    "nochoices": b'{"id": "x", "usage": {"prompt_tokens": 100, "completion_tokens": 50}}',
    "dict": b'{"choices": {"0": {"message": {"content": "[]"}}}}',
    "error200": b'{"error": {"message": "overloaded"}}',
    "huge": b'{"choices": [{"message": {"content": "' + b"x" * 2_000_000 + b'"}}]}',
    "gzip": b"this is no gzip",
}
"""Behaviours that are 200 with a body that holds no answer."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, arguments: argparse.Namespace, handler: type[BaseHTTPRequestHandler] | None = None
    ) -> None:
        super().__init__(("127.0.0.1", arguments.port), handler or Handler)
        self.arguments = arguments
        self.behaviours = itertools.cycle(arguments.chaos.split(","))
        self.odd = dict(pair.split("=") for pair in arguments.odd.split(",") if pair)
        self.storm_left = arguments.storm
        self.lock = threading.Lock()

    def next_behaviour(self, texts: list[str]) -> str:
        for word, behaviour in self.odd.items():
            if any(word in text for text in texts):
                return behaviour
        with self.lock:
            if self.storm_left:
                self.storm_left -= 1
                return "429"
            return next(self.behaviours)

    def note(self, texts: list[str], behaviour: str, *, billed: bool) -> None:
        self.write({"texts": texts, "behaviour": behaviour, "billed": billed})

    def write(self, facts: dict[str, Any]) -> None:
        with self.lock, self.arguments.log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(facts) + "\n")


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        options = self.server.arguments
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != f"Bearer {options.key}":
            self.server.note([], "401", billed=False)
            said = f"Incorrect API key provided: {self.headers.get('Authorization', '')[7:]}"
            return self.send(401, {"error": {"message": said, "code": "invalid_api_key"}})
        if body["model"] != options.model:
            self.server.note([], "404", billed=False)
            return self.send(404, {"error": {"message": f"The model {body['model']} does not exist"}})
        for name in options.refuse.split(","):
            if name in body:
                self.server.note([], f"refused {name}", billed=False)
                return self.send(400, {"error": refusal(name)})
        texts = narrations(body["messages"][-1]["content"])
        behaviour = self.server.next_behaviour(texts)
        self.server.note(texts, behaviour, billed=behaviour not in ERRORS)
        time.sleep(options.delay)
        if behaviour in ERRORS:
            return self.send_error_of(behaviour)
        if behaviour in BODIES:
            kind = "text/html" if behaviour == "html" else "application/json"
            coding = {"Content-Encoding": "gzip"} if behaviour == "gzip" else {}
            return self.send_bytes(200, BODIES[behaviour], {"Content-Type": kind, **coding})
        if behaviour in ("drop", "reset"):
            return self.hang_up(reset=behaviour == "reset")
        if behaviour == "hang":
            time.sleep(options.hang_seconds)
        data = json.dumps(completion(behaviour, texts, body)).encode()
        if behaviour == "cut":
            self.send_bytes(200, data[: len(data) // 2], {"Content-Length": str(len(data))})
            return self.hang_up(reset=False)
        if behaviour == "drip":
            return self.drip(data)
        return self.send_bytes(200, data, {})

    def send_error_of(self, behaviour: str) -> None:
        status, headers = ERRORS[behaviour]
        if behaviour == "429date":
            headers = {"Retry-After": formatdate(time.time() + 1, usegmt=True)}
        if behaviour == "502":
            return self.send_bytes(
                status, b"<html><h1>502 Bad Gateway</h1></html>", {"Content-Type": "text/html"}
            )
        if behaviour == "504":
            return self.send_bytes(status, b"", headers)
        said = f"you sent {self.headers['Authorization']}" if behaviour == "echo" else f"error {behaviour}"
        return self.send(status, {"error": {"message": said}}, headers)

    def hang_up(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.connection.shutdown(socket.SHUT_RDWR)

    def drip(self, data: bytes) -> None:
        self.send_bytes(200, b"", {"Content-Length": str(len(data))})
        for byte in data:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(self.server.arguments.hang_seconds / 100)

    def send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self.send_bytes(status, json.dumps(value).encode(), headers or {})

    def send_bytes(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        usual = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        for name, value in (usual | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing: the request log says it all."""


def refusal(name: str) -> dict[str, str]:
    """OpenAI's error for a parameter that a model does not take."""
    instead = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
    said = f"Unsupported parameter: '{name}' is not supported with this model.{instead}"
    return {"message": said, "code": "unsupported_parameter", "param": name}


def completion(behaviour: str, texts: list[str], body: dict[str, Any]) -> dict[str, Any]:
    """A reply of the protocol, with the content that the behaviour names."""
    content: Any = answer(texts, bound="response_format" in body)
    if behaviour == "useless":
        content = "I'm sorry, I cannot help with that."
    if behaviour == "length":
        content = content[: len(content) // 2]
    if behaviour == "surrogate":
        content += "\ud83d"
    if behaviour == "parts":
        content = [{"type": "text", "text": content[:9]}, {"type": "text", "text": content[9:]}]
    finish = "length" if behaviour == "length" else "stop"
    message = {"role": "assistant", "content": content}
    reply: dict[str, Any] = {
        "id": "chatcmpl-test",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    }
    if behaviour == "badusage":
        reply["usage"] = {"prompt_tokens": -(10**9), "completion_tokens": "many"}
    elif behaviour != "nousage":
        reply["usage"] = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    return reply


def narrations(question: str) -> list[str]:
    """The narrations of a request: one, or numbered lines."""
    numbered = re.findall(r"^\d+\. (.*)$", question, re.MULTILINE)
    return numbered or [question]


def answer(texts: list[str], *, bound: bool) -> str:
    """Known sentences in the format that was asked for; `bound` to the schema, an object in any case."""
    if len(texts) == 1 and not bound:
        return json.dumps(sentences(texts[0]))
    return json.dumps({str(place): sentences(text) for place, text in enumerate(texts, 1)})


def sentences(text: str) -> list[str]:
    """Three sentences that are made from the narration."""
    plain = text.removeprefix("#C C ")
    return [f"#C C now {plain}.", f"again {plain}", f"Once more, {plain}"]


def parser(description: str | None) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--port-file", type=Path, required=True)
    options.add_argument("--port", type=int, default=0, help="this one instead of a free one")
    options.add_argument("--log", type=Path, required=True)
    options.add_argument("--key", default=os.environ.get("CHAT_SERVER_KEY", "sk-test"))
    options.add_argument("--model", default="test-model")
    options.add_argument("--chaos", default="ok", help="cycle of behaviours, comma-separated")
    options.add_argument("--odd", default="", help="WORD=BEHAVIOUR pairs, comma-separated")
    options.add_argument("--refuse", default="", help="parameters that are refused, comma-separated")
    options.add_argument("--storm", type=int, default=0, help="429 for so many requests at the beginning")
    options.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    options.add_argument("--hang-seconds", type=float, default=30.0)
    return options


def serve(server: Server) -> None:
    """Publish the port, and answer until the process is killed."""
    draft = server.arguments.port_file.with_suffix(".draft")
    draft.write_text(str(server.server_address[1]))
    draft.replace(server.arguments.port_file)
    server.serve_forever()


if __name__ == "__main__":
    serve(Server(parser(__doc__).parse_args()))
