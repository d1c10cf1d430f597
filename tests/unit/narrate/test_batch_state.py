"""A batch on disk is what was sent, at every stage and after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from avion_core.narrate.batch_state import (
    BATCHES,
    Flight,
    Stage,
    keys_in_flight,
    load_flights,
    new_flight,
    shards_in_flight,
)
from avion_core.narrate.exchange import Request

SCHEMA = {"type": "object"}


def request(number: int) -> Request:
    image = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AAAA"}}
    return Request(
        number,
        (f"take {number} \u2028",),
        ({"role": "user", "content": [image]},),
        SCHEMA,
        choices=3,
        image_tokens=700,
        keys=(f"{number:016x}",),
    )


def line(sent: Request) -> bytes:
    bound = {"type": "json_schema", "json_schema": {"schema": sent.schema}}
    body = {"messages": list(sent.messages), "response_format": bound}
    return json.dumps({"body": body}).encode() + b"\n"


def written(home: Path, numbers: list[int]) -> Flight:
    flight = new_flight(home, server="s", price_share=0.5, first_try=10)
    with flight.writing():
        for number in numbers:
            sent = request(number)
            flight.add(sent, line(sent), token_limit=200, digest="d")
    return flight


def test_requests_come_back_whole_from_memory_from_disk_and_from_a_removed_batch(tmp_path):
    flight = written(tmp_path / BATCHES / "1-of-1", [4, 5])
    flight.note(stage=Stage.CREATED, batch="b")
    (again,) = load_flights(flight.folder.parent)
    again.load()
    assert again.earlier and again.state == flight.state and again.rows == flight.rows
    assert [again.try_number(place) for place in again.rows] == [10, 11] and again.size == 2
    flight.unload()
    assert not flight.rows
    flight.load()
    row = flight.rows[1]
    assert flight.full(row) == request(5)
    flight.remove()
    assert flight.full(row) == again.full(row) == request(5)
    assert not (tmp_path / BATCHES / "1-of-1").exists() and shards_in_flight(tmp_path) == []


def test_keys_in_flight_are_those_that_the_server_may_have(tmp_path):
    home = tmp_path / BATCHES
    sent, made, asked = (written(home / f"{n}-of-3", [n, n + 10]) for n in (1, 2, 3))
    made.note(stage=Stage.CREATING)
    asked.note(stage=Stage.CREATED)
    assert shards_in_flight(tmp_path) == ["1-of-3", "2-of-3", "3-of-3"]
    assert sorted(keys_in_flight(tmp_path)) == [2, 3, 12, 13]
    assert sorted(keys_in_flight(tmp_path, "2-of-3")) == [2, 12] == sorted(made.keys)
    (asked.folder / "requests.jsonl").unlink()  # another process is removing it
    assert sorted(keys_in_flight(tmp_path)) == [2, 12]
    assert keys_in_flight(tmp_path / "nothing").dtype == np.uint64
    assert sent.state.stage is Stage.PREPARING


def test_what_a_kill_left_of_a_removed_batch_is_cleared(tmp_path):
    first, second = written(tmp_path, [1]), written(tmp_path, [2])
    (first.folder / "state.json").unlink()
    (tmp_path / ".DS_Store").touch()  # somebody looked into the folder
    assert [flight.folder for flight in load_flights(tmp_path)] == [second.folder]
    assert not first.folder.exists()
    assert new_flight(tmp_path, server="s", price_share=1, first_try=0).folder.name == "000003"
