"""Prompts for a language model: the instruction from the settings, the reply format, the narrations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from avion_core.plain_text import plain

Message = dict[str, Any]
"""One turn of a chat: `role` and `content`, a text or a list of parts."""

UNSET_TEMPERATURE = 0.7
"""Default of earlier versions, whose answers stay valid when no temperature is set."""
LONGEST_NARRATION = 1000
"""In characters; far more than the 77 tokens that a text tower reads."""
_MARKS = str.maketrans("<>|[]", "     ")
"""Characters in the special tokens of chat templates: `<|im_end|>`, `[INST]`, `</s>`."""


def text_of(message: Message) -> str:
    """The text of a message, without its images."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def unfit(text: str) -> str | None:
    """Why a narration cannot be sent, in words that can be counted; None if it can."""
    if len(text) > LONGEST_NARRATION:
        return f"longer than {LONGEST_NARRATION:,} characters"
    words = [word for word in as_sent(text).split() if not word.startswith("#")]
    if not any(character.isalpha() for word in words for character in word):
        return "no words"
    return None


def as_sent(text: str) -> str:
    """A narration as it is sent: one line of visible characters, without special tokens."""
    return plain(plain(text).translate(_MARKS))


def rephrase_messages(texts: Sequence[str], *, instruction: str, count: int) -> list[Message]:
    """The chat that asks for `count` new sentences for each of `texts`.

    The instruction describes the object of `reply_schema`: a small model that is told one format and bound to
    another fills it with nonsense.
    """
    if len(texts) == 1:
        answer = (
            f'Answer with a JSON object and nothing else: under "1", an array of {count} different sentences.'
        )
        question = as_sent(texts[0])
    else:
        answer = (
            f"You get {len(texts)} numbered descriptions. Answer with a JSON object and nothing else: under "
            f'each number, such as "1", an array of {count} different sentences for that description.'
        )
        question = "\n".join(f"{place}. {as_sent(text)}" for place, text in enumerate(texts, 1))
    return [
        {"role": "system", "content": f"{instruction.strip()}\n{answer}"},
        {"role": "user", "content": question},
    ]


def reply_schema(narrations: int, *, count: int) -> dict[str, Any]:
    """JSON schema of the reply: an object with an array of `count` sentences under each narration's number.

    A single narration is numbered too, because OpenAI only supports objects.
    """
    sentences = {"type": "array", "items": {"type": "string"}, "minItems": count, "maxItems": count}
    numbers = [str(place) for place in range(1, narrations + 1)]
    return {
        "type": "object",
        "properties": dict.fromkeys(numbers, sentences),
        "required": numbers,
        "additionalProperties": False,
    }


def answer_keys(
    texts: Iterable[str],
    *,
    client: str,
    model: str,
    temperature: float | None,
    instruction: str,
    count: int,
) -> Iterator[str]:
    """Digests of what affects an answer; batching, limits, prices and the server's address do not.

    Each is the `files.fingerprint` of [client, model, temperature, instruction, count, text]. An unset
    temperature counts as UNSET_TEMPERATURE.
    """
    temperature = UNSET_TEMPERATURE if temperature is None else temperature
    decided = json.dumps([client, model, temperature, instruction.strip(), count], separators=(",", ":"))
    shared = hashlib.sha256(decided[:-1].encode())
    for text in texts:
        digest = shared.copy()
        digest.update(f",{json.dumps(text)}]".encode())
        yield digest.hexdigest()[:16]
