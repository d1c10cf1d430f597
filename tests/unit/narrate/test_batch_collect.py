"""Results of a batch, read line by line, and a batch that never ends."""

from __future__ import annotations

import itertools
import json
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from avion_core.config import VisionSettings
from avion_core.narrate import batch_client
from avion_core.narrate.api_key import ApiKey
from avion_core.narrate.batch_client import BatchClient
from avion_core.narrate.batch_collect import Collection
from avion_core.narrate.batch_results import custom_id, digest_of
from avion_core.narrate.batch_server import Batch, ResultsError
from avion_core.narrate.batch_state import Flight, Stage, new_flight
from avion_core.narrate.exchange import ProviderError, Request
from avion_core.narrate.failures import Failure, Fault
from avion_core.narrate.request_form import RequestForm

BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
ANSWER = {"choices": [{"message": {"content": "a cup"}, "finish_reason": "stop"}]}


def written(home: Path, count: int) -> Flight:
    flight = new_flight(home, server="http://s", price_share=0.5, first_try=10)
    with flight.writing():
        for place in range(count):
            name = custom_id(place, BODY)
            line = json.dumps({"custom_id": name, "body": BODY}).encode() + b"\n"
            request = Request(place, ("x",), tuple(BODY["messages"]), keys=(f"{place:016x}",))
            flight.add(request, line, token_limit=9, digest=digest_of(name))
    return flight


def line(place: int, status: int) -> bytes:
    body = ANSWER if status == 200 else {"error": {"message": "bad"}}
    response = {"status_code": status, "body": body}
    return json.dumps({"custom_id": custom_id(place, BODY), "response": response}).encode()


class Books(SimpleNamespace):
    """Notes which tries are cancelled."""

    def __init__(self, *open_tries: int) -> None:
        super().__init__(cancelled=[], settled=[], left={*open_tries})

    def cancel(self, number: int) -> None:
        self.cancelled.append(number)

    def open_tries(self) -> set[int]:
        return self.left

    def settle_unread(self, request: Request, _: Any) -> None:
        self.settled.append(request.number)

    def take_over(self, *_: Any, **__: Any) -> None:
        """Nothing."""


@pytest.mark.parametrize("order", list(itertools.permutations([(0, 200), (0, 500), (1, 500)])))
def test_an_answer_counts_before_and_after_an_error(tmp_path: Path, order: Any) -> None:
    """As of a server that writes a line for each of its own tries."""
    books = Books()
    batch = Batch.read({"id": "b", "status": "completed", "request_counts": {"completed": 1}})
    found = Collection(written(tmp_path, 2), batch, books, ApiKey("sk-none"), RequestForm(schema=False))
    answers = [answer for place, status in order for answer in found.take(line(place, status))]
    found.close()
    assert [(request.number, answer.content) for request, answer in answers] == [(0, "a cup")]
    assert [row.request.number for row, _ in found.failed] == [1] and books.cancelled == [11]


def collecting(flight: Flight, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> BatchClient:
    """A client that is to collect an earlier session's batch `b`."""
    flight.note(stage=Stage.CREATED, batch="b", created_at=1.0)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    chosen = VisionSettings(batch=True, batch_poll_seconds=0.001, base_url="http://s", **settings)
    direct = SimpleNamespace(key=ApiKey("sk-none"), server="http://s", form=RequestForm(schema=False))
    return BatchClient(chosen, flight.folder.parent, direct=direct, wanted=np.zeros(1, np.uint64))


def test_a_batch_that_is_never_over_ends_the_run_an_hour_after_it_was_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flight = written(tmp_path / "1-of-1", 1)
    client = collecting(flight, monkeypatch, batch_hours=1)
    odd = Batch.read({"id": "b", "status": "archived"})
    cancelled: list[str] = []
    client._server.api = SimpleNamespace(
        check=lambda: None, batch=lambda _: odd, cancel=cancelled.append, close=lambda: None
    )
    monkeypatch.setattr(batch_client, "now", itertools.count(10_000.0, 600.0).__next__)
    with pytest.raises(
        ProviderError, match=r"is 'archived' an hour after it was cancelled.*or delete .*000001"
    ):
        deque(client.answers(deque(), Books(10)), maxlen=0)
    assert cancelled == ["b"] and flight.folder.exists()


def test_a_result_file_that_always_breaks_off_ends_the_run_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flight = written(tmp_path / "1-of-1", 2)
    client = collecting(flight, monkeypatch, outage_minutes=0.0005, first_wait_seconds=0.01)
    whole = Batch.read({"id": "b", "status": "completed", "output_file_id": "f"})
    read = []

    def lines(_: str) -> Any:
        read.append(line(0, 200))
        yield read[-1]
        raise ResultsError(Failure(Fault.AWAY, "cut off", True))

    client._server.api = SimpleNamespace(
        check=lambda: None, batch=lambda _: whole, lines=lines, close=lambda: None
    )
    books = Books(10, 11)
    with pytest.raises(ProviderError, match=r"last error: cut off.*results of batch b break off .*000001"):
        deque(client.answers(deque(), books), maxlen=0)
    assert len(read) > 1 and books.settled == [0] and flight.folder.exists()
