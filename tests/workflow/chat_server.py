"""A chat-completions server for tests, as a process of its own: real sockets, real failures, known answers.

    python chat_server.py --port-file PORT --log REQUESTS.jsonl [--key sk-test] [--chaos 429,500,drop,ok]

Binds a free port of 127.0.0.1 and writes its number to the port file. Every request adds a line to the
log: {"texts": [...], "behaviour": "ok"}. The answer to a narration depends on the narration alone. Chaos is
a cycle of behaviours, one a request:

    ok        answers                            500       server error
    429       rate limit, Retry-After: 0.02      drop      closes the connection without a word
    broken    200 whose body is no JSON          useless   200 and billed, but not what was asked for
    hang      no answer for `--hang-seconds`     nousage   answers without counting tokens
    length    an answer cut off by the token limit
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.arguments = arguments
        self.behaviours = itertools.cycle(arguments.chaos.split(","))
        self.storm_left = arguments.storm
        self.lock = threading.Lock()

    def next_behaviour(self) -> str:
        with self.lock:
            if self.storm_left:
                self.storm_left -= 1
                return "429"
            return next(self.behaviours)

    def note(self, texts: list[str], behaviour: str) -> None:
        line = json.dumps({"texts": texts, "behaviour": behaviour}) + "\n"
        with self.lock, self.arguments.log.open("a", encoding="utf-8") as log:
            log.write(line)


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        options = self.server.arguments
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != f"Bearer {options.key}":
            self.server.note([], "401")
            said = f"Incorrect API key provided: {self.headers.get('Authorization', '')[7:]}"
            return self.send(401, {"error": {"message": said, "code": "invalid_api_key"}})
        if body["model"] != options.model:
            self.server.note([], "404")
            return self.send(404, {"error": {"message": f"The model {body['model']} does not exist"}})
        texts = narrations(body["messages"][-1]["content"])
        behaviour = self.server.next_behaviour()
        self.server.note(texts, behaviour)
        time.sleep(options.delay)
        return self.behave(behaviour, texts, body)

    def behave(self, behaviour: str, texts: list[str], body: dict[str, Any]) -> None:
        if behaviour == "429":
            said = {"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}
            return self.send(429, said, {"Retry-After": "0.02"})
        if behaviour == "500":
            return self.send(500, {"error": {"message": "The server had an error"}})
        if behaviour == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return None
        if behaviour == "hang":
            time.sleep(self.server.arguments.hang_seconds)
        if behaviour == "broken":
            return self.send_bytes(200, b'{"choices": [{"mess', {})
        content = "I'm sorry, I cannot help with that." if behaviour == "useless" else answer(texts)
        if behaviour == "length":
            content = content[: len(content) // 2]
        reply = {
            "id": "chatcmpl-test",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": content},
                    "finish_reason": "length" if behaviour == "length" else "stop",
                }
            ],
        }
        if behaviour != "nousage":
            reply["usage"] = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
        return self.send(200, reply)

    def send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self.send_bytes(status, json.dumps(value).encode(), headers or {})

    def send_bytes(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing: the request log says it all."""


def narrations(question: str) -> list[str]:
    """The narrations of a request: one, or numbered lines."""
    numbered = re.findall(r"^\d+\. (.*)$", question, re.MULTILINE)
    return numbered or [question]


def answer(texts: list[str]) -> str:
    """Known sentences in the format that was asked for."""
    if len(texts) == 1:
        return json.dumps(sentences(texts[0]))
    return json.dumps({str(place): sentences(text) for place, text in enumerate(texts, 1)})


def sentences(text: str) -> list[str]:
    """Three sentences that are made from the narration."""
    plain = text.removeprefix("#C C ")
    return [f"#C C now {plain}.", f"again {plain}", f"Once more, {plain}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--key", default="sk-test")
    parser.add_argument("--model", default="test-model")
    parser.add_argument("--chaos", default="ok", help="cycle of behaviours, comma-separated")
    parser.add_argument("--storm", type=int, default=0, help="429 for so many requests at the beginning")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--hang-seconds", type=float, default=30.0)
    server = Server(parser.parse_args())
    draft = server.arguments.port_file.with_suffix(".draft")
    draft.write_text(str(server.server_address[1]))
    draft.replace(server.arguments.port_file)
    server.serve_forever()


if __name__ == "__main__":
    main()
