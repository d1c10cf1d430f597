"""The estimate grows as the work does, and the limit holds for every order of answers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avion_core.config import RephraserSettings, RephraseSettings
from avion_core.narrate.budget import (
    byte_lengths,
    estimate_texts,
    highest_usd,
    limits,
    money,
    tokens,
    usd_by_text,
)
from avion_core.narrate.exchange import Request
from avion_core.narrate.prices import Prices

TEXTS = [f"#C C takes the red mug number {number}" for number in range(100)]
LENGTHS = byte_lengths(pa.array(TEXTS))


def priced(**model):
    return estimate_texts(LENGTHS, rephrase=RephraseSettings(), model=RephraserSettings(**model))


def test_estimate_by_hand():
    rephrase = RephraseSettings(instruction="i" * 100, texts_per_narration=2)
    found = estimate_texts(np.full(4, 35), rephrase=rephrase, model=RephraserSettings())
    # A reply: 2 sentences of 10 * 1.3 + 2 tokens and 2 for the brackets.
    assert (found.count, found.requests, found.output_tokens) == (4, 4, 4 * (2 * 15 + 2))
    per_request = found.input_tokens / 4
    assert 100 / 3.5 + 10 + 8 < per_request < 100 / 3.5 + 10 + 8 + 30
    assert found.usd == pytest.approx((found.input_tokens * 0.15 + found.output_tokens * 0.60) / 1e6)


def test_a_batch_costs_its_share_of_the_price():
    single, batch = priced(), priced(batch=True, batch_price_share=0.25)
    assert batch.usd == pytest.approx(single.usd / 4) and batch.input_tokens == single.input_tokens
    assert "in batches, at 25% of the price" in str(batch) and "batch" not in str(single)
    by_text = usd_by_text(LENGTHS, rephrase=RephraseSettings(), model=RephraserSettings(batch=True))
    assert by_text.sum() == pytest.approx(priced().usd / 2, rel=0.01)


def test_requests_share_the_instruction():
    single, batch = priced(), priced(narrations_per_request=10)
    assert batch.requests == 10 and single.requests == 100
    assert batch.input_tokens < single.input_tokens / 3
    assert batch.output_tokens == single.output_tokens


def test_a_free_server_costs_nothing_and_no_work_needs_nothing():
    assert priced(usd_per_million_input_tokens=0, usd_per_million_output_tokens=0).usd == 0
    nothing = estimate_texts(
        byte_lengths(pa.array([], pa.string())), rephrase=RephraseSettings(), model=RephraserSettings()
    )
    assert (nothing.requests, nothing.usd) == (0, 0)


def test_the_parts_of_texts_are_the_estimate():
    lengths = LENGTHS
    for size in (1, 10):
        model = RephraserSettings(narrations_per_request=size)
        parts = usd_by_text(lengths, rephrase=RephraseSettings(), model=model)
        assert parts.sum() == pytest.approx(priced(narrations_per_request=size).usd)


def test_no_request_can_cost_more_than_its_highest_price():
    for content in ("plain words", "\u00e4\u4e2d\U0001f600", "", "x" * 1000):
        messages = ({"role": "user", "content": content},)
        highest = highest_usd(Request(0, ("t",), messages), 0, Prices(1e6, 1e6, 0, "as set"))
        assert highest >= len(content.encode())
        bound = Request(0, ("t",), messages, {"type": "object"})
        assert highest_usd(bound, 0, Prices(1e6, 1e6, 0, "as set")) >= highest + 15
    assert highest_usd(Request(0, (), ()), 300, Prices(0, 0, 1e6, "as set")) == 300


def test_parts_of_the_limit_by_hand():
    assert limits(10, wanted=[1, 3], spent=[0, 0]) == [2.5, 7.5]
    assert limits(10, wanted=[1, 3], spent=[2, 7]) == [2.5, 7.5], "shards at work change nothing"
    assert limits(10, wanted=[1, 3], spent=[6, 0]) == [6, 4], "spent for other narrations"
    assert limits(10, wanted=[1, 1, 2], spent=[6, 1.5, 0]) == [6, 1.5, 2.5]
    assert limits(10, wanted=[1, 1], spent=[20, 0]) == [20, 0]
    assert limits(10, wanted=[0, 0], spent=[0, 0]) == [0, 0]
    assert limits(-1, wanted=[1, 1], spent=[0, 0]) == [0, 0]


@given(
    st.floats(0, 100),
    st.lists(st.tuples(st.just(0.0) | st.floats(0.01, 50), st.floats(0, 50)), min_size=1, max_size=6),
    st.lists(st.floats(0, 1), min_size=6, max_size=6),
)
def test_shards_that_keep_to_their_parts_keep_to_the_limit_and_find_the_same_parts(most, shards, shares):
    wanted, spent = map(list, zip(*shards, strict=True))
    parts = limits(most, wanted=wanted, spent=spent)
    assert sum(parts) <= max(most, sum(spent)) + 1e-6
    later = [used + share * (part - used) for used, part, share in zip(spent, parts, shares, strict=False)]
    assert limits(most, wanted=wanted, spent=later) == pytest.approx(parts, abs=1e-6)


def test_tokens_and_money_read_well():
    assert tokens("") == 0 and tokens("abcd") == 2
    assert [money(value) for value in (0, 0.00123, 0.0456, 1.234, 12)] == [
        "0.00",
        "0.0012",
        "0.046",
        "1.23",
        "12.00",
    ]
