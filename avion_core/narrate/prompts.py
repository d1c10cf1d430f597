"""What a language model is asked: the instruction of the settings, the format, the narrations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from avion_core.plain_text import plain

Message = dict[str, str]
"""One turn of a chat: `role` and `content`."""

UNSET_TEMPERATURE = 0.7
"""Default of earlier versions: their answers stay valid where no temperature is set."""
LONGEST_NARRATION = 1000
"""Characters. What a text model reads of a clip's text (77 tokens) ends long before."""
_MARKS = str.maketrans("<>|[]", "     ")
"""Characters that chat templates make their special tokens of: `<|im_end|>`, `[INST]`, `</s>`."""


def unfit(text: str) -> str | None:
    """Why a narration cannot be sent, in words that can be counted; None if it can."""
    if len(text) > LONGEST_NARRATION:
        return f"longer than {LONGEST_NARRATION:,} characters"
    words = [word for word in asked(text).split() if not word.startswith("#")]
    if not any(character.isalpha() for word in words for character in word):
        return "no words"
    return None


def asked(text: str) -> str:
    """A narration as it is sent: one line of visible characters, without marks of a chat's turns."""
    return plain(plain(text).translate(_MARKS))


def rephrase_messages(texts: Sequence[str], *, instruction: str, count: int) -> list[Message]:
    """The chat that asks for `count` other sentences for each of `texts`.

    They are answered by an object of arrays under the narrations' numbers, as in `reply_schema`: a small
    model that is told one form and bound to another fills it with anything.
    """
    if len(texts) == 1:
        answer = (
            f'Answer with a JSON object and nothing else: under "1", an array of {count} different sentences.'
        )
        question = asked(texts[0])
    else:
        answer = (
            f"You get {len(texts)} numbered descriptions. Answer with a JSON object and nothing else: under "
            f'each number, such as "1", an array of {count} different sentences for that description.'
        )
        question = "\n".join(f"{place}. {asked(text)}" for place, text in enumerate(texts, 1))
    return [
        {"role": "system", "content": f"{instruction.strip()}\n{answer}"},
        {"role": "user", "content": question},
    ]


def reply_schema(narrations: int, *, count: int) -> dict[str, Any]:
    """JSON schema of the reply: under each narration's number an array of `count` sentences.

    Also a single narration has its number, as OpenAI binds replies to objects only.
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
    provider: str,
    model: str,
    temperature: float | None,
    instruction: str,
    count: int,
) -> Iterator[str]:
    """Digests of what decides an answer: batching, limits, prices and the server's address do not.

    They are `files.fingerprint`s of [provider, model, temperature, instruction, count, text]. Without a
    temperature they are those of UNSET_TEMPERATURE.
    """
    temperature = UNSET_TEMPERATURE if temperature is None else temperature
    decided = json.dumps([provider, model, temperature, instruction.strip(), count], separators=(",", ":"))
    shared = hashlib.sha256(decided[:-1].encode())
    for text in texts:
        digest = shared.copy()
        digest.update(f",{json.dumps(text)}]".encode())
        yield digest.hexdigest()[:16]
