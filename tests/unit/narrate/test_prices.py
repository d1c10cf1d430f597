"""A model's price is the settings', else the list's with its date; no price is silently zero or wrong."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest
import yaml

from avion_core.config import NarrateSettings, RephraserSettings, VisionSettings
from avion_core.narrate.chat_reply import read_reply
from avion_core.narrate.prices import TABLE, PriceError, Prices
from avion_core.narrate.provider import provider_of

SET = {"usd_per_million_input_tokens": 3.0, "usd_per_million_output_tokens": 5.0}


def prices(share: float = 1.0, **model: Any) -> Prices:
    return Prices.of(RephraserSettings(**model), share)


def test_list_prices_have_a_date_and_a_source() -> None:
    found = prices()
    assert (found.input, found.cached_input, found.output) == (0.15, 0.075, 0.6)
    assert str(found).endswith("list price of 2025-09-01") and "check it at https://" in found.described
    assert prices(model="gpt-4o-mini-2024-07-18") == found, "a version costs what the model does"
    assert Prices.of(VisionSettings()).input == 0.4, "the default models are listed"
    for entry in yaml.safe_load(TABLE.read_text()):
        assert isinstance(entry["date"], date) and entry["source"].startswith("https://")
        assert all(
            0 < own["cached_input"] <= own["input"] < own["output"] for own in entry["models"].values()
        )


def test_settings_come_before_the_list() -> None:
    found = prices(**SET)
    assert (found.input, found.cached_input, found.output) == (3.0, 3.0, 5.0) and "as set" in str(found)
    assert prices(**SET, usd_per_million_cached_input_tokens=1.0).cached_input == 1.0
    assert prices(usd_per_million_cached_input_tokens=0.01).cached_input == 0.01
    free = prices(model="mine", usd_per_million_input_tokens=0, usd_per_million_output_tokens=0)
    assert free.usd(1e6, 1e6) == 0, "as set, not by accident"


@pytest.mark.parametrize(
    "model",
    [
        {"model": "mine"},
        {"model": "gpt-4o-mini-audio"},
        {"model": "mine", "usd_per_million_input_tokens": 1.0},
        {"usd_per_million_output_tokens": 1.0},
    ],
)
def test_an_unknown_price_is_refused_before_anything_is_sent(model: dict[str, Any]) -> None:
    settings = NarrateSettings.model_validate({"provider": "language_model", "language_model": model})
    with pytest.raises(PriceError, match=r"narrate.language_model: the price of .* set usd_per"):
        provider_of(settings).check()


def test_cached_tokens_and_batches_by_hand() -> None:
    found = prices(**SET, usd_per_million_cached_input_tokens=1.0)
    assert found.usd(100, 10) == pytest.approx(350e-6)
    assert found.usd(100, 10, cached_tokens=40) == pytest.approx((60 * 3 + 40 * 1 + 10 * 5) / 1e6)
    half = prices(0.5, **SET, usd_per_million_cached_input_tokens=1.0)
    assert half.usd(100, 10, cached_tokens=40) == pytest.approx(175e-6), "one discount, not two"


@pytest.mark.parametrize(
    ("details", "cached"),
    [
        ({"cached_tokens": 64}, 64),
        ({"cached_tokens": 101}, 0),
        ({"cached_tokens": -1}, 0),
        ({"cached_tokens": True}, 0),
        ({"cached_tokens": "64"}, 0),
        (None, 0),
        ([], 0),
    ],
)
def test_cached_tokens_are_believed_only_within_the_input(details: object, cached: int) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": details}
    body = json.dumps({"choices": [{"message": {"content": "x"}}], "usage": usage})
    found = read_reply(body.encode(), sent_bytes=400, token_limit=20).usage
    assert found is not None and (found.input_tokens, found.cached_tokens) == (100, cached)
