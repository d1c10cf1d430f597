"""The chat server of the tests with the Files and Batch API: real batches with real faults.

    python batch_server.py --port-file PORT --log REQUESTS.jsonl [--batches ok,expired] [--hold created]

Served requests of a batch are in the log as `billed`, like those sent directly; files, batches and downloads
are events in it: {"event": "upload", …}. A batch takes `--batch-seconds`. `--batches` is a cycle of
behaviours, one per batch:

    ok         completed, lines in another order    doubled    each line twice, and lines of others
    expired    60 % served, the rest in the errors  silent     60 % served, the rest nowhere
    failed     30 % served, then failed             cancelled  40 % served, then cancelled
    errors     every line a 500, no output file     refused    every line a 400, no output file
    ids        completed; the error file is ""      garbage    lines that are no JSON among the others
    mixed      lines with 400, 429 and 500 inside   truncated  the output file ends in the middle of a line
    uncounted  60 % served, request_counts null     broken     200 inside, but no answer, in every third line
    full       failed: token_limit_exceeded         crowded    creating it fails: token_limit_exceeded
    invalid    failed: line 2 of the file           empty      completed without any file
    gone       404 from the first look on           stuck      in progress until it is cancelled
    lost       created, but the reply is lost       never      not created, and the reply is a 500

`--hold EVENT` sleeps for `--hold-seconds` the first time, for tests to kill the client: `upload` before a
file is stored, `uploaded` after that, `create` before a batch is created, `created` after that, `look`, and
`download` in the middle of a file. `--api-chaos` are errors of
the chat server that these addresses draw from.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import time
import urllib.request
from typing import Any
from urllib.parse import parse_qs, urlsplit

from chat_server import ERRORS, Handler, Server, completion, narrations, parser, serve

SHARES = {"expired": 0.6, "silent": 0.6, "failed": 0.3, "cancelled": 0.4, "uncounted": 0.6, "stuck": 0.5}
STATUS = {"silent": "expired", "uncounted": "expired", "stuck": "cancelled"}
FULL = {
    "code": "token_limit_exceeded",
    "message": "Enqueued token limit reached for test-model in organization org-x. Limit: 90,000 enqueued "
    "tokens. Please try again once some in_progress batches have been completed.",
}


class BatchServer(Server):
    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(arguments, BatchHandler)
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.kinds = itertools.cycle(arguments.batches.split(","))
        self.drawn = random.Random(1)
        self.held: set[str] = set()
        self.numbers = itertools.count(1)

    def hold(self, event: str, **facts: Any) -> None:
        """Note an event, and sleep if a test waits for it."""
        self.write({"event": event, **facts})
        if event in self.arguments.hold.split(",") and event not in self.held:
            self.held.add(event)
            time.sleep(self.arguments.hold_seconds)

    def store(self, data: bytes) -> str:
        name = f"file-{next(self.numbers)}"
        self.files[name] = data
        return name

    def create(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        batch = {
            "id": f"batch_{next(self.numbers)}",
            "object": "batch",
            "status": "validating",
            "input_file_id": body["input_file_id"],
            "metadata": body.get("metadata"),
            "created_at": int(time.time()),
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
            "output_file_id": None,
            "error_file_id": None,
        }
        with self.lock:
            self.batches[batch["id"]] = batch
        batch["_kind"], batch["_lines"], batch["_at"] = kind, lines, time.monotonic()
        return batch

    def shown(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch as it is now; it is worked off at its end."""
        with self.lock:
            late = time.monotonic() - batch["_at"] > self.arguments.batch_seconds
            stuck = batch["_kind"] == "stuck" and batch["status"] != "cancelling"
            ready = late and not stuck and "_done" not in batch
            batch["_done" if ready else "_looked"] = True
        if ready:
            self.work_off(batch)
        elif "_done" not in batch and batch["status"] == "validating":
            batch["status"] = "in_progress"
        return {name: value for name, value in batch.items() if not name.startswith("_")}

    def work_off(self, batch: dict[str, Any]) -> None:
        kind, lines = batch["_kind"], batch["_lines"]
        if self.files.get(batch["input_file_id"]) is None or kind in ("full", "invalid"):
            wrong = FULL if kind == "full" else {"code": "invalid", "message": "bad line", "line": 2}
            batch.update(status="failed", errors={"data": [wrong]})
            return
        if kind == "empty":
            batch.update(status="completed", request_counts={"total": len(lines)})
            return
        served = lines[: int(len(lines) * SHARES.get(kind, 1.0))]
        out, errors = [], []
        for place, line in enumerate(served):
            status = self.status_of(kind, place)
            body = self.answer(line["body"]) if status == 200 else {"error": {"message": "bad"}}
            if kind == "broken" and place % 3 == 0:
                body = {"choices": []}
            response = {"status_code": status, "request_id": "r", "body": body}
            (out if status == 200 else errors).append(result(line, response, None))
        if kind == "expired":
            gone = {"code": "batch_expired", "message": "This request could not be executed before the end"}
            errors += [result(line, None, gone) for line in lines[len(served) :]]
        counts = {"total": len(lines), "completed": len(out), "failed": len(lines) - len(out)}
        status = STATUS.get(kind, kind if kind in SHARES else "completed")
        batch["output_file_id"] = self.store(spoilt(kind, out)) if out else None
        batch["error_file_id"] = self.store(b"".join(errors)) if errors else "" if kind == "ids" else None
        batch["request_counts"] = None if kind == "uncounted" else counts
        batch["status"] = status

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of the server behind this one, or one of our own."""
        if self.arguments.upstream:
            return forward(self.arguments.upstream, body)
        texts = narrations(body["messages"][-1]["content"])
        self.note(texts, "batch 200", billed=True)
        return completion("ok", texts, body)

    def status_of(self, kind: str, place: int) -> int:
        if kind == "mixed":
            return (200, 400, 429, 500)[place % 4]
        return {"errors": 500, "refused": 400}.get(kind, 200)


class BatchHandler(Handler):
    server: BatchServer

    def do_GET(self) -> None:  # noqa: N802 (http.server's name)
        self.route()

    def do_DELETE(self) -> None:  # noqa: N802
        self.route()

    def do_POST(self) -> None:  # noqa: N802
        if self.path.endswith("/chat/completions"):
            if self.server.arguments.upstream:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                return self.send(200, forward(self.server.arguments.upstream, json.loads(data)))
            return super().do_POST()
        return self.route()

    def route(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {self.server.arguments.key}":
            return self.send(401, {"error": {"message": "Incorrect API key provided"}})
        behaviour = self.server.drawn.choice(self.server.arguments.api_chaos.split(","))
        if behaviour in ERRORS:
            return self.send_error_of(behaviour)
        if behaviour == "drop":
            return self.hang_up(reset=False)
        path = urlsplit(self.path).path.removeprefix("/v1")
        for pattern, method in (
            (r"POST /files", self.upload),
            (r"GET /files/([\w-]+)/content", self.download),
            (r"DELETE /files/([\w-]+)", self.delete),
            (r"POST /batches", self.create),
            (r"GET /batches", self.list),
            (r"GET /batches/([\w-]+)", self.look),
            (r"POST /batches/([\w-]+)/cancel", self.cancel),
        ):
            found = re.fullmatch(pattern, f"{self.command} {path}")
            if found and self.server.arguments.batch_api:
                return method(*found.groups(), data=data)
        return self.send(404, {"error": {"message": f"Unknown address {path}"}})

    def upload(self, *, data: bytes) -> None:
        self.server.hold("upload")
        boundary = self.headers["Content-Type"].partition("boundary=")[2].encode()
        parts = [part.partition(b"\r\n\r\n") for part in data.split(b"--" + boundary)]
        (content,) = [body[:-2] for head, _, body in parts if b'name="file"' in head]
        assert any(b'name="purpose"' in head and body[:-2] == b"batch" for head, _, body in parts)
        if len(content) > self.server.arguments.most_bytes:
            return self.send(413, {"error": {"message": "The file is too large"}})
        name = self.server.store(content)
        self.server.hold("uploaded", file=name)
        return self.send(200, {"id": name, "object": "file", "purpose": "batch"})

    def download(self, name: str, *, data: bytes) -> None:
        content = self.server.files.get(name)
        if content is None:
            return self.send(404, {"error": {"message": f"No such File object: {name}"}})
        half = len(content) // 2
        self.send_bytes(200, content[:half], {"Content-Length": str(len(content))})
        self.wfile.flush()
        self.server.hold("download", file=name)
        self.wfile.write(content[half:])
        return None

    def delete(self, name: str, *, data: bytes) -> None:
        self.server.write({"event": "delete", "file": name})
        self.server.files.pop(name, None)
        return self.send(200, {"id": name, "deleted": True})

    def create(self, *, data: bytes) -> None:
        body = json.loads(data)
        kind = next(self.server.kinds)
        self.server.hold("create")
        if body["input_file_id"] not in self.server.files:
            return self.send(400, {"error": {"message": "Invalid file"}})
        running = [one for one in self.server.batches.values() if "_done" not in one]
        size = self.server.files[body["input_file_id"]].count(b"\n")
        queued = size + sum(len(one["_lines"]) for one in running)
        if kind == "crowded" or queued > self.server.arguments.most_queued:
            self.server.write({"event": "crowded", "size": size})
            return self.send(429, {"error": FULL})
        if kind == "never":
            return self.send(500, {"error": {"message": "upstream"}})
        batch = self.server.create(kind, body)
        self.server.hold("created", batch=batch["id"], size=len(batch["_lines"]))
        if kind == "lost":
            return self.hang_up(reset=False)
        return self.send(200, {name: value for name, value in batch.items() if name[0] != "_"})

    def list(self, *, data: bytes) -> None:
        query = parse_qs(urlsplit(self.path).query)
        found = list(self.server.batches.values())[::-1]
        after = query.get("after", [None])[0]
        if after:
            found = found[[one["id"] for one in found].index(after) + 1 :]
        page = found[: min(int(query["limit"][0]), self.server.arguments.page)]
        shown = [self.server.shown(one) for one in page]
        return self.send(200, {"object": "list", "data": shown, "has_more": len(found) > len(page)})

    def look(self, name: str, *, data: bytes) -> None:
        batch = self.server.batches.get(name)
        if batch is None or batch["_kind"] == "gone":
            return self.send(404, {"error": {"message": f"No batch found with id '{name}'."}})
        self.server.hold("look", batch=name)
        return self.send(200, self.server.shown(batch))

    def cancel(self, name: str, *, data: bytes) -> None:
        batch = self.server.batches[name]
        batch["status"] = "cancelling"
        return self.send(200, self.server.shown(batch))


def forward(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """What another server answers to a request."""
    sent = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(sent) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


def result(line: dict[str, Any], response: Any, error: Any) -> bytes:
    found = {"id": "b", "custom_id": line["custom_id"], "response": response, "error": error}
    return json.dumps(found).encode() + b"\n"


def spoilt(kind: str, lines: list[bytes]) -> bytes:
    """The output file: in another order, and with the faults of its kind."""
    lines = lines[::-1]
    if kind == "doubled":
        other = lines[0].replace(b'"custom_id": "', b'"custom_id": "9')
        lines = [line for line in lines for _ in (1, 2)] + [other, b'{"custom_id": null}\n', b"[]\n"]
    if kind == "garbage":
        lines = [piece for line in lines for piece in (b"\n", b"<html>\n", b'{"custom_id": \n', line)]
    data = b"".join(lines)
    return data[: int(len(data) * 0.7)] if kind == "truncated" else data


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--batches", default="ok", help="cycle of behaviours, comma-separated")
    options.add_argument("--batch-seconds", type=float, default=0.1)
    options.add_argument("--hold", default="", help="events, comma-separated")
    options.add_argument("--hold-seconds", type=float, default=5.0)
    options.add_argument("--api-chaos", default="ok", help="behaviours to draw from, comma-separated")
    options.add_argument("--most-queued", type=int, default=10**9, help="requests in all batches together")
    options.add_argument("--most-bytes", type=int, default=10**9, help="largest file")
    options.add_argument("--page", type=int, default=100, help="most batches on a page of the list")
    options.add_argument("--upstream", default="", help="address of a chat server that answers")
    options.add_argument("--no-batch-api", dest="batch_api", action="store_false")
    serve(BatchServer(options.parse_args()))


if __name__ == "__main__":
    main()
