"""From a language model's reply to clean sentences, whatever form it chose to answer in.

Asked for a JSON array, models also send numbered lists, code fences, a line of talk before the list, an
array cut off by the token limit, or reasoning in front. The cleaning follows LaViLa: punctuation stripped,
duplicates and copies of the original removed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

LONGEST_WORDS = 77
"""LaViLa's limit, in tokens there; sentences beyond it are talk, not narration."""

_REASONING = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_TURN = re.compile(r"<\|[^|>\n]*\|>|<end_of_turn>|</s>")
"""Marks of a chat's turns, which base models write out, and then both sides' turns."""
_FENCE = re.compile(r"^\s*```[\w-]*\s*$", re.MULTILINE)
_ITEM = re.compile(r"^\s*(?:\(?\d{1,3}[.):]|[-*•–—])\s+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_TALK = re.compile(
    r"^(?:sure|certainly|of course|okay|here (?:are|is)|i(?:'|\u2019)?m sorry|i am sorry|sorry|"
    r"i can(?:'|\u2019)?t|i cannot|as an ai|rephras|note that)\b",
    re.IGNORECASE,
)
_WEARER = re.compile(r"^(?:#\s*c\s+c|#\s*c|c\s+c|c|the camera wearer|camera wearer)\s+(?=\S)", re.IGNORECASE)


@dataclass(frozen=True)
class Parsed:
    """What one narration gets from a reply."""

    sentences: list[str]
    """Clean sentences in the reply's order."""
    reason: str | None
    """Why there are none, in a few words that can be counted; None where there are some."""
    other_subject: int
    """Sentences left out because they tell of somebody else than the narration does."""


def parse_replies(
    reply: str, texts: Sequence[str], *, count: int, finish: str = "stop", instruction: str = ""
) -> list[Parsed]:
    """At most `count` sentences for each narration of a request, in the request's order; never raises.

    `finish` is the server's word for why the reply ended, `instruction` the one that was sent.
    """
    if len(texts) == 1:
        found = [distinct(_sentences(reply), original=texts[0], count=count)]
    else:
        found = _of_several(reply, texts, count=count)
    return [Parsed(sentences, None if sentences else "no sentence", 0) for sentences in found]


def _of_several(reply: str, originals: Sequence[str], *, count: int) -> list[list[str]]:
    """Cleaned sentences for each of several narrations that one request held.

    Understands an object `{"1": [...], "2": [...]}` (also when it is cut off), an array of arrays and an
    array of objects in the narrations' order. A narration without an answer gets [].
    """
    value = _json(_strip(reply))
    if isinstance(value, dict) and len(value) == 1 and not next(iter(value)).strip().isdigit():
        value = next(iter(value.values()))  # {"answers": {...}}
    groups: dict[int, list[str]] = {}
    if isinstance(value, dict):
        groups = {int(key): _strings(item) for key, item in value.items() if key.strip().isdigit()}
    elif isinstance(value, list) and len(value) == len(originals):
        groups = {place: _strings(item) for place, item in enumerate(value, 1)}
    else:
        for key, items in re.findall(r'"(\d+)"\s*:\s*(\[[^\]]*\])', reply):
            groups[int(key)] = [_unescape(item) for item in _QUOTED.findall(items)]
    return [
        distinct(groups.get(place, []), original=original, count=count)
        for place, original in enumerate(originals, 1)
    ]


def distinct(sentences: Iterable[str], *, original: str, count: int) -> list[str]:
    """The first `count` cleaned sentences that differ from each other and from the original."""
    wearer = bool(re.match(r"#c\b|C\s", original.strip().replace("# ", "#"), re.IGNORECASE))
    seen = {_compared(clean(original, wearer=wearer))}
    kept: list[str] = []
    for sentence in sentences:
        if len(kept) == count:
            break
        text = clean(sentence, wearer=wearer)
        usable = re.search(r"[^\W\d_]{2}", text) and len(text.split()) <= LONGEST_WORDS
        if usable and _compared(text) not in seen:
            seen.add(_compared(text))
            kept.append(text)
    return kept


def clean(sentence: str, *, wearer: bool) -> str:
    """One sentence without punctuation and doubled spaces; "#" stays, and so do "'" and "-" within words.

    With `wearer`, a subject that means the camera wearer ("C", "#c c", "The camera wearer") becomes "#C C".
    """
    text = re.sub(r"(?<=\d)[.,](?=\d)", "\0", sentence)
    text = re.sub(r"[.,;:!?\"“”„()\[\]{}*_`|<>]", " ", text).replace("\0", ".")
    text = re.sub(r"(?<!\w)['‘’-]+|['‘’-]+(?!\w)", " ", text).replace("’", "'")
    text = " ".join(text.split())
    return _WEARER.sub("#C C ", text) if wearer else text


def _compared(text: str) -> str:
    return text.casefold()


def _sentences(reply: str) -> list[str]:
    text = _strip(reply)
    value = _json(text)
    if value is not None:
        return _strings(value)
    if text.startswith(("[", "{")):
        return [_unescape(item) for item in _QUOTED.findall(text) if len(item.split()) > 1]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    listed = [_ITEM.sub("", line) for line in lines if _ITEM.match(line)]
    chosen = listed if listed else [line for line in lines if not line.endswith(":")]
    return [line.strip("'\"“”‘’, ") for line in chosen if not _TALK.match(line)]


def _strip(reply: str) -> str:
    turns = (turn for turn in _TURN.split(_REASONING.sub("", reply)) if turn.strip())
    return _FENCE.sub("", next(turns, "")).strip()


def _json(text: str) -> Any:
    """The first JSON array or object in a text, else None."""
    for start in (match.start() for match in re.finditer(r"[\[{]", text)):
        try:
            value, _ = json.JSONDecoder().raw_decode(text, start)
        except json.JSONDecodeError:
            if start == 0:
                return None
            continue
        if _strings(value):
            return value
    return None


def _strings(value: Any) -> list[str]:
    """Sentences inside a JSON value: strings, and strings in its arrays and objects."""
    if isinstance(value, str):
        return [value] if not _TALK.match(value.strip()) else []
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return []


def _unescape(quoted: str) -> str:
    try:
        return str(json.loads(f'"{quoted}"'))
    except json.JSONDecodeError:
        return quoted
