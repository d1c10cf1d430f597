"""The key is found in whatever a server says, in any spelling, and ordinary words are left alone."""

from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avion_core.config import RephraserSettings, VisionSettings
from avion_core.narrate.api_key import ApiKey, read_api_key
from avion_core.narrate.exchange import ProviderError

KEY = "sk-proj-Zq8-TopSecret_4711x"
BEARER = f"Bearer {KEY}"
SPELLINGS = {
    "plain": BEARER,
    "upper": KEY.upper(),
    "json": json.dumps({"headers": {"Authorization": BEARER}}),
    "escaped": "".join(f"\\u{ord(letter):04x}" for letter in KEY),
    "quoted": "".join(f"%{ord(letter):02X}" for letter in KEY),
    "quoted where needed": quote(KEY.replace("-", "/"), safe=""),
    "entities": html.escape(KEY.replace("_", "&")),
    "base64 of the key": base64.b64encode(KEY.encode()).decode(),
    "base64 of the header": base64.b64encode(BEARER.encode()).decode(),
    "base64 of basic auth": base64.b64encode(f"user:{KEY}".encode()).decode(),
    "base64 for addresses": base64.urlsafe_b64encode(f"k={KEY}".encode()).decode(),
    "base64 in lines": "\n".join(
        base64.b64encode(BEARER.encode()).decode()[at : at + 9] for at in (0, 9, 18, 27)
    ),
    "hex": KEY.encode().hex(),
    "hex in pairs": KEY.encode().hex(":"),
    "backwards": KEY[::-1],
    "split": " ".join(KEY[at : at + 3] for at in range(0, len(KEY), 3)),
    "a list": repr(list(KEY)),
    "first half": KEY[: len(KEY) // 2],
    "last half": KEY[len(KEY) // 2 :],
    "zero-width": "\u200b".join(KEY),
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_the_key_is_found_in_any_spelling(spelling):
    key = ApiKey(KEY)
    assert key.is_in(f"401: you sent {spelling}, which is wrong")
    assert key.public(f"you sent {spelling}") == "its words repeat the key and are left out"


@given(st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", min_size=20, max_size=160))
def test_any_key_is_found_in_base64_wherever_it_begins(value):
    key = ApiKey(value)
    if sum(letter.isalnum() for letter in value) < 16:
        return
    for before in ("", "a", "ab", "abc"):
        assert key.is_in(base64.b64encode(f"{before}{value}".encode()).decode())


@pytest.mark.parametrize(
    "said", ["The model 'm' does not exist", "Rate limit reached, retry in 20 s", "Bearer"]
)
def test_other_words_are_shown(said):
    assert ApiKey(KEY).public(said) == said


@pytest.mark.parametrize("dummy", ["none", "EMPTY", "x", "-"])
def test_a_placeholder_is_no_secret(dummy):
    assert ApiKey(dummy).public(f"none of x is EMPTY {dummy}") == f"none of x is EMPTY {dummy}"


def test_a_key_that_the_server_has_masked_goes_too():
    assert (
        ApiKey(KEY).public("Incorrect key: sk-pr***711x. See the docs") == "Incorrect key: *** See the docs"
    )


def test_words_come_on_one_short_line_that_fools_no_terminal():
    shown = ApiKey(KEY).public("a\n\x1b[31mred\u202e\r\n" + "long " * 1000)
    assert shown.startswith("a red long") and len(shown) <= 300 and shown.isprintable()


def test_a_key_does_not_show_itself():
    assert KEY not in repr(ApiKey(KEY)) + str(ApiKey(KEY))


def test_the_key_comes_from_the_environment_without_blanks_around_it(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    assert read_api_key(RephraserSettings(base_url="https://api.example/v1")).value == KEY


@pytest.mark.parametrize(
    "odd", ["sk-one\nsk-two", "sk-a b", "sk-\x1b[0m", "sk-schlüssel", "sk-\u201dquoted\u201d", "a\x00"]
)
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(monkeypatch, odd):
    monkeypatch.setattr("os.environ", {"OPENAI_API_KEY": odd})
    with pytest.raises(ValueError, match="copy the key again") as caught:
        read_api_key(RephraserSettings(base_url="https://api.example/v1"))
    assert odd not in str(caught.value) and "sk-" not in str(caught.value)


def test_a_key_in_the_address_is_refused(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ValueError, match="base_url holds the key") as caught:
        read_api_key(RephraserSettings(base_url=f"https://gateway.example/{KEY}/v1"))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (RephraserSettings(), "narrate.provider is 'language_model'.*set narrate.provider to 'lexicon'"),
        (VisionSettings(), "narrator.provider is 'vision'.*set narrator.provider to null"),
    ],
)
def test_without_a_key_the_setting_that_needs_it_is_named(monkeypatch, settings, said):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ProviderError, match=said):
        read_api_key(settings)
