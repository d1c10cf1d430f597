"""The estimate grows as the work does, and the limit holds for every order of answers."""

from __future__ import annotations

import pytest

from avion_core.config import OpenAISettings, RephraseSettings
from avion_core.narrate.budget import Budget, Prices, estimate_texts, money, tokens

TEXTS = [f"#C C takes the red mug number {number}" for number in range(100)]
MESSAGES = [{"role": "user", "content": "x" * 35}]


def priced(**openai):
    return estimate_texts(TEXTS, rephrase=RephraseSettings(), openai=OpenAISettings(**openai))


def test_estimate_by_hand():
    rephrase = RephraseSettings(instruction="i" * 100, texts_per_narration=2)
    found = estimate_texts(["t" * 35] * 4, rephrase=rephrase, openai=OpenAISettings())
    # A reply: 2 sentences of 10 * 1.3 + 2 tokens and 2 for the brackets.
    assert (found.texts, found.requests, found.output_tokens) == (4, 4, 4 * (2 * 15 + 2))
    per_request = found.input_tokens / 4
    assert 100 / 3.5 + 10 + 8 < per_request < 100 / 3.5 + 10 + 8 + 30
    assert found.usd == pytest.approx((found.input_tokens * 0.15 + found.output_tokens * 0.60) / 1e6)


def test_batches_share_the_instruction():
    single, batch = priced(), priced(narrations_per_request=10)
    assert batch.requests == 10 and single.requests == 100
    assert batch.input_tokens < single.input_tokens / 3
    assert batch.output_tokens == single.output_tokens


def test_a_free_server_costs_nothing_and_no_work_needs_nothing():
    assert priced(usd_per_million_input_tokens=0, usd_per_million_output_tokens=0).usd == 0
    nothing = estimate_texts([], rephrase=RephraseSettings(), openai=OpenAISettings())
    assert (nothing.requests, nothing.usd) == (0, 0)


def test_what_is_set_aside_and_spent_never_passes_the_limit():
    budget = Budget(limit_usd=1.0, spent_usd=0.3, prices=Prices(0, 1e6), max_reply_tokens=0)
    assert budget.set_aside(0, MESSAGES), "a free request is always possible"
    budget = Budget(limit_usd=1.0, spent_usd=0.35, prices=Prices(0, 1e5), max_reply_tokens=2)
    assert [budget.set_aside(number, MESSAGES) for number in range(5)] == [True] * 3 + [False] * 2
    budget.settle(0, 0.1)
    assert not budget.set_aside(5, MESSAGES), "0.45 spent and 0.4 on its way leave less than 0.2"
    budget.settle(1, 0.0)
    assert budget.set_aside(6, MESSAGES)


def test_a_lost_try_keeps_its_price_set_aside():
    budget = Budget(limit_usd=1.0, spent_usd=0.0, prices=Prices(0, 1e5), max_reply_tokens=2)
    assert budget.set_aside(0, MESSAGES)
    budget.settle(0, 0.1, lost_tries=3)
    assert budget.spent_usd == pytest.approx(0.1)
    assert budget.set_aside(1, MESSAGES) and not budget.set_aside(2, MESSAGES)


def test_tokens_and_money_read_well():
    assert tokens("") == 0 and tokens("abcd") == 2
    assert [money(value) for value in (0, 0.00123, 0.0456, 1.234, 12)] == [
        "0.00",
        "0.0012",
        "0.046",
        "1.23",
        "12.00",
    ]
