"""What a model is asked, and when two requests count as the same."""

from __future__ import annotations

import pytest

from avion_core.narrate.prompts import answer_key, rephrase_messages

SAME = {"provider": "openai", "model": "m", "temperature": 0.7, "instruction": "Rewrite.", "count": 3}


def test_one_narration_is_the_question_and_several_are_numbered():
    system, user = rephrase_messages(["#C C opens the jar"], instruction="Rewrite. ", count=3)
    assert user == {"role": "user", "content": "#C C opens the jar"}
    assert system["content"].startswith("Rewrite.\n") and "array of 3" in system["content"]
    _, user = rephrase_messages(["open jar", "close jar"], instruction="Rewrite.", count=3)
    assert user["content"] == "1. open jar\n2. close jar"


@pytest.mark.parametrize(
    "change", [{"model": "n"}, {"temperature": 0.1}, {"instruction": "Say it anew."}, {"count": 4}]
)
def test_what_decides_the_answer_is_in_the_key(change):
    assert answer_key("a", **SAME) != answer_key("a", **{**SAME, **change})
    assert answer_key("a", **SAME) != answer_key("b", **SAME)
    assert answer_key("a", **SAME) == answer_key("a", **{**SAME, "instruction": " Rewrite.\n"})
