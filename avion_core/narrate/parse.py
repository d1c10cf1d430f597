"""Turns a language model's reply into clean sentences for each narration, or the reason for having none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

from avion_core.narrate.reply_forms import (
    JsonStrings,
    Way,
    answer_of,
    is_aside,
    json_strings,
    listed_lines,
    unwrapped,
)
from avion_core.narrate.sentences import (
    COPY,
    COPY_OF_PROMPT,
    LANGUAGE,
    NO_SENTENCE,
    OPPOSITE,
    OTHER_SUBJECT,
    OTHER_THING,
    REFUSED,
    TOO_LONG,
    Narration,
    distinct,
    refuses,
)
from avion_core.plain_text import plain

CUT_OFF = "cut off by the token limit"
EMPTY = "empty"
NO_NUMBER = "no answer under its number"
ONLY_REASONING = "reasoning without an answer"

LONGEST_REPLY = 200_000
"""Characters of a reply, without its reasoning, that are looked at."""
LONGEST_CANDIDATE = 1000
"""Characters of a string that may be a sentence with marks around it."""
_NUMBER = re.compile(
    r"(?:description|narration|item|input|text|no)?[ _.#]{0,2}([0-9]{1,6})[.):]?", re.IGNORECASE
)
_TELLING = (REFUSED, OTHER_SUBJECT, LANGUAGE, COPY_OF_PROMPT, OPPOSITE, OTHER_THING, TOO_LONG)
"""Reasons that say more than `no sentence`, the one to name first."""


@dataclass(frozen=True)
class Parsed:
    """What one narration gets from a reply."""

    sentences: list[str]
    """Clean sentences in the reply's order."""
    reason: str | None
    """Why there are none, in a few words that can be counted; None where there are some."""
    other_subject: int
    """Sentences left out because they tell of somebody else than the narration does."""


class Subject(Protocol):
    """What sentences are judged by."""

    @property
    def text(self) -> str:
        """The sentence that they must differ from."""
        ...

    def judge(self, candidate: str) -> str | None:
        """Why a candidate is not usable, in words that can be counted; None if it is."""
        ...


def parse_replies(
    reply: str, texts: Sequence[str], *, count: int, finish: str = "stop", instruction: str = ""
) -> list[Parsed]:
    """At most `count` sentences for each narration of a request, in the request's order; never raises.

    `finish` is the server's reason why the reply ended, `instruction` the one that was sent. One narration
    may be answered by JSON or by lines; several by an object of arrays under their numbers, or by one array
    or object per narration.
    """
    answer = answer_of(reply)
    if finish == "content_filter":
        found = [Parsed([], REFUSED, 0)] * len(texts)
    elif not answer:
        found = [Parsed([], ONLY_REASONING if answer is None else EMPTY, 0)] * len(texts)
    elif len(answer) > LONGEST_REPLY:
        found = [Parsed([], TOO_LONG, 0)] * len(texts)
    else:
        narrations = [Narration.read(text, instruction=instruction) for text in texts]
        if len(narrations) == 1:
            found = [parse_one(answer, narrations[0], count=count, cut=finish == "length")]
        else:
            found = _of_several(answer, narrations, count=count)
    cut_off = finish == "length"
    return [replace(parsed, reason=CUT_OFF) if cut_off and parsed.reason else parsed for parsed in found]


def parse_one(answer: str, narration: Subject, *, count: int, cut: bool) -> Parsed:
    """At most `count` sentences of an answer (`answer_of` a reply); `cut` if the token limit ended it."""
    read = json_strings(f"[{answer}]" if answer.startswith(('"', "“")) else answer)
    values = _answers(read)
    # A base model that was not stopped goes on with narrations of its own, and answers them too.
    for _, run in groupby(values, key=lambda value: _run(value[0], read)):
        parsed = _parsed((text for _, text in run), narration, count=count)
        if parsed.sentences:
            return parsed
    if values or answer.startswith(("[", "{")):
        return _parsed((text for _, text in values), narration, count=count)
    return _parsed(listed_lines(answer, cut=cut), narration, count=count)


def _of_several(answer: str, narrations: Sequence[Narration], *, count: int) -> list[Parsed]:
    groups = _by_narration(json_strings(answer), len(narrations))
    missing = Parsed([], REFUSED if not groups and refuses(answer) else NO_NUMBER, 0)
    return [
        _parsed(groups[place], narration, count=count) if place in groups else missing
        for place, narration in enumerate(narrations, 1)
    ]


def _parsed(candidates: Iterable[str], narration: Subject, *, count: int) -> Parsed:
    usable: list[str] = []
    reasons: Counter[str] = Counter()
    for candidate in candidates:
        text = unwrapped(plain(candidate)) if len(candidate) <= LONGEST_CANDIDATE else candidate
        reason = narration.judge(text)
        if reason is None:
            usable.append(text)
        else:
            reasons[reason] += 1
    sentences = distinct(usable, original=narration.text, count=count)
    telling = COPY if usable else next((reason for reason in _TELLING if reason in reasons), NO_SENTENCE)
    return Parsed(sentences, None if sentences else telling, reasons[OTHER_SUBJECT])


def _answers(read: JsonStrings) -> list[tuple[Way, str]]:
    """Strings not labelled as something else. A string that holds JSON or several lines is split."""
    return [
        (path, line)
        for path, text in read.found
        if not any(is_aside(step) for step in path if isinstance(step, str) and not _NUMBER.fullmatch(step))
        for value in _nested(text)
        for line in value.split("\n")
    ]


def _nested(text: str) -> list[str]:
    """The strings inside a string that is itself JSON, else the string."""
    inner = json_strings(text).found if text.startswith(("[", "{")) else []
    return [text for _, text in inner] or [text]


def _by_narration(read: JsonStrings, count: int) -> dict[int, list[str]]:
    """The strings for each of `count` narrations, by number from 1; {} if they cannot be assigned.

    They are assigned by numbers as keys. Without those, by one array, perhaps as the only value of an object,
    or a series of arrays, with as many entries as there are narrations.
    """
    found = _answers(read)
    paths = [path for path, _ in found]
    if not paths:
        return {}
    array = next((way for way in ((), (0,), paths[0][:2]) if _deals(way, read.sizes, paths, count)), None)
    if array is None or _one_number_each(paths, len(array)):
        places = [_number(path) for path in paths]
    else:
        places = [int(path[len(array)]) + 1 for path in paths]
    if 0 in places:  # counted from 0, or odd
        places = [None if place is None or count in places else place + 1 for place in places]
    groups: dict[int, list[str]] = {}
    runs: dict[int, int] = {}
    for place, (path, text) in zip(places, found, strict=True):
        if place is not None and 1 <= place <= count:
            run = _run(path, read)
            if runs.setdefault(place, run) == run:
                groups.setdefault(place, []).append(text)
    return groups


def _run(path: Way, read: JsonStrings) -> int:
    return read.runs[int(path[0])]


def _deals(way: Way, sizes: Mapping[Way, int], paths: Sequence[Way], count: int) -> bool:
    """Whether the array at `way` has one entry per narration and holds all strings."""
    depth = len(way)
    inside = all(path[:depth] == way and isinstance(path[depth], int) for path in paths if len(path) > depth)
    series = depth > 0 or all(len(path) == 2 and isinstance(path[1], int) for path in paths)
    return sizes.get(way) == count and inside and series and all(len(path) > depth for path in paths)


def _one_number_each(paths: Sequence[Way], depth: int) -> bool:
    """Whether each entry of an array has a number of its own: `[{"2": …}, {"1": …}]`."""
    pairs = {(path[depth], _number(path)) for path in paths}
    entries, numbers = ({pair[place] for pair in pairs} for place in (0, 1))
    return None not in numbers and len(pairs) == len(entries) == len(numbers)


def _number(path: Way) -> int | None:
    """A narration's number: the first key that is one."""
    keys = (_NUMBER.fullmatch(step) for step in path if isinstance(step, str))
    return next((int(match[1]) for match in keys if match), None)
