"""Others' texts on one line without what cannot be seen."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avion_core.plain_text import plain


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("#C C takes\nthe cup\r\n", "#C C takes the cup"),
        ("mug\u2028on\u2029the\u0085shelf\v\f", "mug on the shelf"),
        ("\x1b[31mred\x1b[0m cup\x1b]0;title\x07\x1b[2J", "red cup"),
        ("\x1b]8;;http://x.example\x1b\\a link\x1b]8;;\x1b\\", "a link"),
        ("the cup\u202e", "the cup"),
        ("\u2066\u200btake\u200d \ufeffcup\u00ad", "take cup"),
        ("\x00takes\ud83d it", "takes it"),
        ("拿起红色的杯子 crème brûlée कप उठाओ 😀", "拿起红色的杯子 crème brûlée कप उठाओ 😀"),
        ("\u202e", ""),
    ],
)
def test_what_cannot_be_seen_goes(text, wanted):
    assert plain(text) == wanted


@given(st.text(st.characters()))
def test_any_text_becomes_one_line_of_visible_characters(text):
    result = plain(text)
    assert all(one == " " or unicodedata.category(one)[0] not in "CZ" for one in result)
    assert plain(result) == result
    result.encode()
