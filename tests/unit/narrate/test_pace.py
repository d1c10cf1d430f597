"""Requests within limits per minute."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avion_core.narrate.pace import LONGEST_HOLD_SECONDS, Pace, duration_seconds


@given(
    st.floats(1, 1000),
    st.floats(100, 100_000),
    st.integers(1, 8),
    st.lists(st.tuples(st.floats(0, 20), st.integers(0, 5000)), max_size=60),
)
def test_every_minute_of_all_shards_has_at_most_the_limits(requests, tokens, shards, asked):
    """Beside the last request of a minute, which may begin within the limit and go beyond it."""
    pace = Pace(requests_per_minute=requests, tokens_per_minute=tokens, shards=shards)
    now, sent = 0.0, []
    for wait, amount in asked:
        now = max(now + wait, sent[-1][0] if sent else 0.0)
        start = pace.admit(now, amount)
        assert start >= now
        sent.append((start, amount))
    for begin, _ in sent:
        minute = [amount for start, amount in sent if begin <= start < begin + 59.999]
        assert (len(minute) - 1) * shards <= requests
        assert sum(minute[:-1]) * shards <= tokens + 1e-6 * tokens


def test_requests_without_limits_start_at_once():
    pace = Pace(requests_per_minute=None, tokens_per_minute=None)
    assert [pace.admit(5.0, 10**6) for _ in range(3)] == [5.0] * 3


def test_a_request_that_used_fewer_tokens_lets_the_next_start_earlier():
    pace = Pace(requests_per_minute=None, tokens_per_minute=600)
    assert pace.admit(0.0, 100) == 0.0
    pace.settle(expected=100, used=40)
    assert pace.admit(0.0, 100) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("headers", "start"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 10.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s"}, 100.0),
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "1m30s"}, 10.0),
        ({"x-ratelimit-remaining-tokens": "99", "x-ratelimit-reset-tokens": "250ms"}, 10.25),
        ({"x-ratelimit-remaining-tokens": "100", "x-ratelimit-reset-tokens": "250ms"}, 10.0),
        ({"x-ratelimit-remaining-tokens": "-3", "x-ratelimit-reset-tokens": "2"}, 10.0),
        ({"x-ratelimit-remaining-tokens": "0"}, 10.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "soon"}, 10.0),
    ],
)
def test_a_server_without_room_holds_the_next_request_until_its_reset(headers, start):
    assert LONGEST_HOLD_SECONDS == 300
    pace = Pace(requests_per_minute=None, tokens_per_minute=None)
    pace.hear(headers, 10.0, tokens=100)
    assert pace.admit(10.0, 100) == start


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("6m0s", 360), ("20ms", 0.02), ("1h2m3.5s", 3723.5), ("7", 7), ("1.5", 1.5), (" 2s ", 2)]
    + [(odd, 0) for odd in ("", "s", "1x", "1s later", "-1s", "nan", "²s")],
)
def test_durations_of_headers(text, seconds):
    assert duration_seconds(text) == pytest.approx(seconds)
