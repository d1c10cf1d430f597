"""The client against a server in this process that answers as each test scripts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from avion_core.config import RephraserSettings
from avion_core.narrate import patience
from avion_core.narrate.client import ChatClient
from avion_core.narrate.exchange import HARMLESS, Answer, NoAnswer, ProviderError, Request
from avion_core.processes import SAME_REQUEST_SECONDS

ROOT = Path(__file__).parents[3]
KEY = "sk-proj-Zq8-TopSecret_4711x"


@dataclass
class Sent:
    """What a scripted server answers with."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False


Script = Callable[[dict[str, Any], int], Sent]
"""From a request and its number among those with the same narration (from 1) to what comes back."""


def completion(content: Any = '["take the mug"]', finish: Any = "stop", **more: Any) -> Sent:
    message = {"role": "assistant", "content": content} | more.pop("message", {})
    body = {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}
    body["usage"] = more.pop("usage", {"prompt_tokens": 100, "completion_tokens": 50})
    return Sent(body=json.dumps(body).encode())


def error(status: int, message: str = "no", headers: dict[str, str] | None = None, **more: Any) -> Sent:
    return Sent(status, json.dumps({"error": {"message": message, **more}}).encode(), headers or {})


class ScriptedServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    script: Script
    requests: list[dict[str, Any]]


class Handler(BaseHTTPRequestHandler):
    server: ScriptedServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        self.server.requests.append(body)
        count = sum(other["messages"][-1]["content"] == text for other in self.server.requests)
        sent = self.server.script(body, count)
        if sent.drop:
            self.close_connection = True
            return
        self.send_response(sent.status)
        for name, value in sent.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(sent.body)))
        self.end_headers()
        self.wfile.write(sent.body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[[Script], ScriptedServer]]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    servers: list[ScriptedServer] = []

    def start(script: Script) -> ScriptedServer:
        server = ScriptedServer(("127.0.0.1", 0), Handler)
        server.script, server.requests = script, []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Ledger:
    """Books that only count."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.open: set[int] = set()
        self.refuse_after: int | None = None

    def begin(self, request: Request, token_limit: int) -> int:
        if self.refuse_after is not None and len(self.begun) >= self.refuse_after:
            raise ProviderError("the books are closed")
        self.begun.append(request.texts[0])
        self.open.add(len(self.begun))
        return len(self.begun)

    def cancel(self, try_number: int) -> None:
        self.open.remove(try_number)


SCHEMA = {"type": "object", "properties": {"1": {"type": "array", "items": {"type": "string"}}}}


def requests(*texts: str, schema: bool = False) -> deque[Request]:
    return deque(
        Request(number, (text,), ({"role": "user", "content": text},), SCHEMA if schema else None)
        for number, text in enumerate(texts)
    )


def settings(server: ScriptedServer, **more: Any) -> RephraserSettings:
    address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    return RephraserSettings.model_validate(
        {"base_url": address, "first_wait_seconds": 0.01, "max_attempts": 3, **more}
    )


def ask(
    server: ScriptedServer, waiting: deque[Request], ledger: Ledger | None = None, **more: Any
) -> dict[str, Answer | NoAnswer]:
    answers = ChatClient(settings(server, **more)).answers(waiting, ledger or Ledger())
    return {request.texts[0]: outcome for request, outcome in answers}


def is_odd(body: dict[str, Any]) -> bool:
    return "odd" in body["messages"][-1]["content"]


def test_every_request_is_answered_and_every_try_is_in_the_books(serve):
    server, ledger = serve(lambda body, count: completion()), Ledger()
    texts = [f"text {number}" for number in range(30)]
    found = ask(server, requests(*texts), ledger)
    assert sorted(found) == sorted(texts) == sorted(ledger.begun)
    assert sorted(answer.try_number for answer in found.values()) == list(range(1, 31))
    answer = found["text 0"]
    assert (answer.content, answer.finish) == ('["take the mug"]', "stop")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (100, 50)


def test_the_caller_may_add_requests_to_the_last_answer(serve):
    server, waiting, seen = serve(lambda body, count: completion()), requests("first"), []
    for request, _ in ChatClient(settings(server)).answers(waiting, Ledger()):
        seen.append(request.texts[0])
        if request.texts[0] == "first":
            waiting.extend(requests("second", "third"))
    assert seen[0] == "first" and sorted(seen[1:]) == ["second", "third"]


@pytest.mark.parametrize("parallel", [1, 4])
@pytest.mark.parametrize(
    ("odd", "tries", "billed", "reason"),
    [
        (lambda: error(400, "context length exceeded"), (1, 1), False, "context length exceeded"),
        (lambda: error(413), (1, 1), False, "413"),
        (lambda: error(422), (1, 1), False, "422"),
        (lambda: error(429, "Request too large for model"), (1, 1), False, "too large"),
        (lambda: error(500, "boom"), (3, 4), False, "boom"),
        (lambda: Sent(body=b"<html>login</html>"), (3, 4), True, "not JSON"),
        (lambda: Sent(body=b""), (3, 4), True, "empty"),
        (lambda: Sent(drop=True), (3, 4), True, "connection lost"),
        (lambda: error(200, "overloaded"), (3, 4), True, "overloaded"),
    ],
)
def test_a_request_that_always_fails_is_given_up_and_the_others_are_answered(
    serve, parallel, odd, tries, billed, reason
):
    def script(body: dict[str, Any], count: int) -> Sent:
        time.sleep(0.005)
        return odd() if is_odd(body) else completion()

    server, ledger = serve(script), Ledger()
    texts = ["odd 1", *(f"text {number}" for number in range(8)), "odd 2"]
    found = ask(server, requests(*texts), ledger, parallel_requests=parallel)
    assert sorted(found) == sorted(texts)
    for text, outcome in found.items():
        assert isinstance(outcome, NoAnswer) == (text in ("odd 1", "odd 2")), text
    assert reason in found["odd 1"].reason and reason in found["odd 2"].reason
    asked = Counter(ledger.begun)
    assert tries[0] <= asked["odd 1"] <= tries[1] and tries[0] <= asked["odd 2"] <= tries[1]
    assert len(ledger.open) == 8 + asked[HARMLESS] + billed * (asked["odd 1"] + asked["odd 2"])


def test_a_lone_odd_request_is_given_up_too(serve):
    server = serve(lambda body, count: error(500) if is_odd(body) else completion())
    assert "500" in ask(server, requests("odd"))["odd"].reason
    assert len(server.requests) == 5, "three tries, one request to compare with, and one more try"


@pytest.mark.parametrize("status", [400, 500])
def test_a_rerun_of_odd_requests_alone_gives_them_up(serve, status):
    server = serve(lambda body, count: error(status) if is_odd(body) else completion())
    found = ask(server, requests(*(f"odd {number}" for number in range(25))))
    assert len(found) == 25 and all(isinstance(outcome, NoAnswer) for outcome in found.values())


def test_many_odd_neighbours_do_not_end_the_run(serve):
    server = serve(lambda body, count: error(400) if is_odd(body) else completion())
    texts = [f"odd {number}" for number in range(40)] + [f"text {number}" for number in range(40)]
    found = ask(server, requests(*texts))
    assert len(found) == 80 and sum(isinstance(outcome, NoAnswer) for outcome in found.values()) == 40


def test_a_refusal_of_every_request_ends_the_run_after_few(serve):
    server = serve(lambda body, count: error(400, "no such deployment option"))
    with pytest.raises(ProviderError, match="no such deployment option"):
        ask(server, requests(*(f"text {number}" for number in range(500))), parallel_requests=50)
    assert len(server.requests) <= 15


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (error(401, "bad key"), "OPENAI_API_KEY"),
        (error(403, "not for you"), "OPENAI_API_KEY"),
        (error(404, "model not found"), "narrate.language_model.model"),
        (error(402, "pay first"), "no credit"),
        (error(429, "You exceeded your current quota", code="insufficient_quota"), "no credit"),
        (
            Sent(302, headers={"location": "https://u:p@login.example/sso?key=abc"}),
            "https://login.example/sso",
        ),
    ],
)
def test_what_only_the_user_can_mend_ends_the_run_at_once(serve, sent, words):
    server = serve(lambda body, count: sent)
    with pytest.raises(ProviderError, match=words) as caught:
        ask(server, requests(*(f"text {number}" for number in range(50))), parallel_requests=50)
    assert len(server.requests) <= 4 and "u:p" not in str(caught.value) and "abc" not in str(caught.value)


def test_one_refused_key_among_answers_is_tried_again(serve):
    server = serve(lambda body, count: error(401) if is_odd(body) and count == 1 else completion())
    found = ask(server, requests("a", "b", "odd", "c"), parallel_requests=1)
    assert all(isinstance(outcome, Answer) for outcome in found.values())


def test_a_key_that_is_revoked_ends_the_run_and_gives_nothing_up(serve):
    revoked = []

    def script(body: dict[str, Any], count: int) -> Sent:
        revoked.append(1)
        return completion() if len(revoked) <= 10 else error(401)

    server, found = serve(script), []
    with pytest.raises(ProviderError, match="OPENAI_API_KEY"):
        for _, outcome in ChatClient(settings(server)).answers(
            requests(*(f"text {number}" for number in range(50))), Ledger()
        ):
            found.append(outcome)
    assert len(found) == 10 and all(isinstance(outcome, Answer) for outcome in found)


def test_an_outage_is_waited_out_and_gives_nothing_up(serve, capsys, monkeypatch):
    monkeypatch.setattr(patience, "SAID_AFTER_SECONDS", 0.0)

    def script(body: dict[str, Any], count: int) -> Sent:
        number = len(server.requests)
        return error(503 if number % 2 else 502) if 6 < number < 30 else completion()

    server = serve(script)
    found = ask(server, requests(*(f"text {number}" for number in range(40))))
    assert len(found) == 40 and all(isinstance(outcome, Answer) for outcome in found.values())
    said = capsys.readouterr().err
    assert said.count("has not answered since") == said.count("is answering again") >= 1


def test_an_outage_of_errors_500_is_waited_out_too(serve):
    def script(body: dict[str, Any], count: int) -> Sent:
        return error(500) if 6 < len(server.requests) < 45 else completion()

    server = serve(script)
    found = ask(server, requests(*(f"text {number}" for number in range(100))))
    assert len(found) == 100 and all(isinstance(outcome, Answer) for outcome in found.values())


def test_an_answer_to_what_was_sent_before_an_outage_gives_nothing_up(serve):
    failed_twice, slow_is_answered = threading.Event(), threading.Event()

    def script(body: dict[str, Any], count: int) -> Sent:
        text = body["messages"][-1]["content"]
        if text == "slow":
            failed_twice.wait(20)
        if text != "unlucky" or count > 3:
            return completion()
        if count == 2:
            failed_twice.set()
        if count == 3:
            slow_is_answered.wait(20)
        return error(500)

    found = {}
    waiting = requests("slow", "unlucky")
    for request, outcome in ChatClient(settings(serve(script), first_wait_seconds=0.5)).answers(
        waiting, Ledger()
    ):
        found[request.texts[0]] = outcome
        slow_is_answered.set()
    assert len(found) == 2 and all(isinstance(outcome, Answer) for outcome in found.values())


def test_a_held_request_waits_for_an_answer_to_what_was_sent_after_it_failed(serve):
    odd_is_over = threading.Event()

    def script(body: dict[str, Any], count: int) -> Sent:
        if body["messages"][-1]["content"] == "slow":
            odd_is_over.wait(20)
            time.sleep(0.2)
        if is_odd(body) and count == 3:
            odd_is_over.set()
        return error(500) if is_odd(body) else completion()

    ledger = Ledger()
    found = ask(serve(script), requests("slow", "odd"), ledger)
    assert isinstance(found["slow"], Answer) and isinstance(found["odd"], NoAnswer)
    assert Counter(ledger.begun) == {"slow": 1, "odd": 4, HARMLESS: 1}


def test_a_server_that_stays_away_ends_the_run_with_the_setting_to_change(serve):
    server = serve(lambda body, count: error(503, "loading the model"))
    with pytest.raises(ProviderError, match=r"loading the model.*outage_minutes"):
        ask(server, requests("a", "b"), outage_minutes=0.005)


@pytest.mark.parametrize("parallel", [1, 4])
def test_odd_requests_that_only_ever_get_502_are_given_up_though_nothing_else_is_asked(serve, parallel):
    server = serve(lambda body, count: error(502, "worker died") if is_odd(body) else completion())
    waiting = requests("odd 1", "odd 2", "odd 3")
    found = ask(server, waiting, outage_minutes=0.005, parallel_requests=parallel)
    assert len(found) == 3 and all(isinstance(outcome, NoAnswer) for outcome in found.values())


def test_a_closed_port_is_an_outage_that_costs_nothing(serve):
    server, ledger = serve(lambda body, count: completion()), Ledger()
    server.shutdown()
    server.server_close()
    with pytest.raises(ProviderError, match="no connection"):
        ask(server, requests("a"), ledger, outage_minutes=0.002)
    assert len(ledger.begun) > 1 and not ledger.open


def test_a_server_asks_everyone_to_wait(serve):
    stamps = []

    def script(body: dict[str, Any], count: int) -> Sent:
        stamps.append(time.monotonic())
        return error(429, headers={"Retry-After": "0.4"}) if len(stamps) == 1 else completion()

    found = ask(serve(script), requests("a", "b", "c"), parallel_requests=1)
    assert len(found) == 3 and stamps[1] - stamps[0] >= 0.4


def test_one_requests_growing_wait_is_not_everyones(serve):
    def script(body: dict[str, Any], count: int) -> Sent:
        unlucky = body["messages"][-1]["content"] == "unlucky" and count == 1
        return error(429, headers={"Retry-After": "0.01"}) if unlucky else completion()

    server = serve(script)
    ask(server, requests("unlucky", "b", "c", "d"), parallel_requests=2, first_wait_seconds=2)
    asked = [body["messages"][-1]["content"] for body in server.requests]
    assert sorted(asked) == ["b", "c", "d", "unlucky", "unlucky"] and asked[-1] == "unlucky"


def test_a_reply_that_drips_is_bounded_by_the_timeout(serve):
    server, ledger = serve(lambda body, count: completion()), Ledger()

    def drip(handler: Handler) -> None:
        length = int(handler.headers["Content-Length"])
        text = json.loads(handler.rfile.read(length))["messages"][-1]["content"]
        handler.send_response(200)
        body = completion().body
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        for byte in body:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(0.05 if text == "odd" else 0)

    server.RequestHandlerClass = type("Dripping", (Handler,), {"do_POST": drip})
    found = ask(server, requests("odd", "a", "b"), ledger, timeout_seconds=0.4, max_attempts=2)
    assert "no answer within 0.4 s" in found["odd"].reason
    assert len(ledger.open) == len(ledger.begun), "a reply that was cut off may be billed"


def test_books_that_close_end_the_run_after_the_replies_on_their_way(serve):
    server, ledger, found = serve(lambda body, count: (time.sleep(0.05), completion())[1]), Ledger(), []
    ledger.refuse_after = 6
    with pytest.raises(ProviderError, match="the books are closed"):
        for request, outcome in ChatClient(settings(server)).answers(
            requests(*(f"text {number}" for number in range(20))), ledger
        ):
            found.append((request, outcome))
    assert len(found) == 6 == len(server.requests)


@pytest.mark.parametrize("parallel", [1, 4, 30])
def test_a_model_that_takes_only_max_completion_tokens(serve, parallel):
    def script(body: dict[str, Any], count: int) -> Sent:
        time.sleep(0.02)
        if "max_tokens" in body:
            return error(
                400,
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                "'max_completion_tokens' instead.",
                code="unsupported_parameter",
                param="max_tokens",
            )
        if body["max_completion_tokens"] < 1000:
            return completion("", "length")
        return completion()

    server, ledger = serve(script), Ledger()
    found = ask(
        server, requests(*(f"text {number}" for number in range(30))), ledger, parallel_requests=parallel
    )
    assert all(answer.content for answer in found.values()) and len(found) == 30
    assert len(server.requests) <= 30 + min(parallel, 4) and len(ledger.open) == 30


def test_no_temperature_is_sent_by_default(serve):
    server = serve(lambda body, count: completion())
    ask(server, requests("a"))
    ask(server, requests("b"), temperature=0.0)
    assert "temperature" not in server.requests[0] and server.requests[1]["temperature"] == 0.0


def test_a_temperature_that_the_model_refuses_is_named(serve):
    refusal = error(
        400,
        "Unsupported value: 'temperature' does not support 0.7 with this model.",
        code="unsupported_value",
        param="temperature",
    )
    server = serve(lambda body, count: refusal)
    with pytest.raises(ProviderError, match=r"narrate\.language_model\.temperature: 0\.7"):
        ask(server, requests("a", "b"), temperature=0.7)
    assert len(server.requests) <= 4


def test_an_odd_narration_about_the_temperature_is_not_about_the_setting(serve):
    odd = "odd: #C C lowers the temperature"
    server = serve(lambda body, count: error(400, f"invalid: {odd}") if is_odd(body) else completion())
    found = ask(server, requests(odd, "a"), temperature=0.5)
    assert isinstance(found[odd], NoAnswer) and isinstance(found["a"], Answer)


def test_a_model_that_reasons_is_given_room_for_it(serve, capsys):
    def script(body: dict[str, Any], count: int) -> Sent:
        if body["max_tokens"] < 1000:
            usage = {
                "prompt_tokens": 10,
                "completion_tokens": 200,
                "completion_tokens_details": {"reasoning_tokens": 200},
            }
            return completion("", "length", usage=usage)
        return completion()

    server, waiting = serve(script), requests("a")
    outcomes = []
    for _, outcome in ChatClient(settings(server)).answers(waiting, Ledger()):
        outcomes.append(outcome)
        if len(outcomes) == 1:
            waiting.extend(requests("a"))
    assert [answer.content for answer in outcomes] == ["", '["take the mug"]']
    assert outcomes[0].finish == "length"
    assert "for reasoning" in capsys.readouterr().err


def test_replies_are_bound_to_the_schema_unless_the_user_turns_it_off(serve):
    server = serve(lambda body, count: completion())
    ask(server, requests("a", schema=True))
    ask(server, requests("b", schema=True), schema_bound=False)
    assert server.requests[0]["response_format"]["json_schema"]["schema"] == SCHEMA
    assert "response_format" not in server.requests[1]


@pytest.mark.parametrize(
    "refusal",
    [
        error(400, "This response_format type is unavailable now"),
        error(400, "Invalid request", param="response_format"),
        error(500, "failed to parse grammar"),
        error(422, "bad request"),
    ],
)
def test_a_server_without_schemas_is_asked_once(serve, capsys, refusal):
    server = serve(lambda body, count: refusal if "response_format" in body else completion())
    texts = [f"text {number}" for number in range(30)]
    found = ask(server, requests(*texts, schema=True))
    assert all(isinstance(answer, Answer) for answer in found.values()) and len(found) == 30
    assert sum("response_format" in body for body in server.requests) <= 4
    assert capsys.readouterr().err.count("JSON schema") == 1


def test_an_odd_request_does_not_turn_the_schema_off(serve):
    server = serve(lambda body, count: error(400, "too long") if is_odd(body) else completion())
    found = ask(server, requests("odd", "a", "b", "c", schema=True), parallel_requests=1)
    assert isinstance(found["odd"], NoAnswer)
    assert sum("response_format" not in body for body in server.requests) == 1


@pytest.mark.parametrize("status", [200, 400, 401, 404, 500])
def test_words_that_repeat_the_key_are_shown_nowhere(serve, capsys, status):
    def script(body: dict[str, Any], count: int) -> Sent:
        said = f"you sent Authorization: Bearer {KEY}"
        if not is_odd(body):
            return completion()
        return completion(said) if status == 200 else error(status, said)

    server = serve(script)
    found = {}
    try:
        found = ask(server, requests("a", "odd", "b"), parallel_requests=1)
    except ProviderError as problem:
        assert "TopSecret" not in str(problem) and status == 401
    assert "TopSecret" not in repr(found) + capsys.readouterr().err


def test_a_reason_to_stop_that_repeats_the_key_is_withheld(serve):
    found = ask(serve(lambda body, count: completion(finish=KEY)), requests("a"))
    assert "TopSecret" not in repr(found)


PROGRAM = """
import sys
from collections import deque
import workflow_scripts
from avion_core.command import run
from avion_core.config import RephraserSettings
from avion_core.narrate.client import ChatClient
from avion_core.narrate.exchange import HARMLESS
from avion_core.narrate.exchange import Request

class Books:
    def begin(self, request, token_limit):
        return 0

def main():
    texts = [f"text {number}" for number in range(40)]
    waiting = deque(Request(0, (text,), ({"role": "user", "content": text},)) for text in texts)
    settings = RephraserSettings(base_url=sys.argv[1], parallel_requests=4)
    for request, _ in ChatClient(settings).answers(waiting, Books()):
        print(request.texts[0], flush=True)

run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_keeps_replies_on_their_way_and_a_second_one_does_not(serve, number, times):
    go = threading.Event()

    def script(body: dict[str, Any], count: int) -> Sent:
        if len(server.requests) > 4:  # after those before the first answer
            go.wait(30)
        return completion()

    server = serve(script)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, f"http://127.0.0.1:{server.server_address[1]}/v1"],
        cwd=ROOT,
        env=os.environ | {"OPENAI_API_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(server.requests) < 8:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    assert process.stderr is not None
    said = process.stderr.readline()
    assert "stopping; waiting for replies to requests already sent" in said
    process.send_signal(number)  # to the group, and once more by Snakemake: one request to stop
    if times == 2:
        time.sleep(2 * SAME_REQUEST_SECONDS)
        process.send_signal(number)
        process.wait()
    go.set()
    answered, more = process.communicate()
    assert len(answered.splitlines()) == (8 if times == 1 else 4) and more == ""
    assert len(server.requests) == 8
    assert process.returncode == -(number if number == signal.SIGUSR1 else signal.SIGINT)


@pytest.mark.parametrize(
    ("limit", "per_minute"), [("requests_per_minute", 1200), ("tokens_per_minute", 180_000)]
)
def test_requests_are_spread_over_the_minute(serve, limit, per_minute):
    """All shards share a limit: here 0.1 s for each request, of 150 tokens by its reply."""
    moments = []

    def script(body, count):
        moments.append(time.monotonic())
        return completion()

    client = ChatClient(settings(serve(script), **{limit: per_minute}), shards=2)
    assert len(list(client.answers(requests(*"abcdefgh"), Ledger()))) == 8
    assert moments[-1] - moments[1] > 0.1 * 6 * 0.9  # the first are expected to have longer replies


def test_a_server_without_room_is_left_alone_until_its_reset(serve):
    moments = []

    def script(body, count):
        moments.append(time.monotonic())
        sent = completion()
        if len(moments) == 1:
            sent.headers.update(
                {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "500ms"}
            )
        return sent

    assert len(ask(serve(script), requests("a", "b", "c"), parallel_requests=1)) == 3
    assert moments[1] - moments[0] > 0.49
    assert moments[2] - moments[1] < 0.4
