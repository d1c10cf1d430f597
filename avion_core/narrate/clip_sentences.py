"""Turns a model's replies about a clip into clean sentences, or the reason for having none.

The forms of replies are those of rephrasings (`parse`). There is no narration to compare a sentence with, so
it is judged by itself: a refusal, talk about the images, several sentences, no verb.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lemminflect import getAllLemmas

from avion_core.files import code_fingerprint
from avion_core.narrate.parse import CUT_OFF, EMPTY, LONGEST_REPLY, ONLY_REASONING, Parsed, parse_one
from avion_core.narrate.rephrase_questions import PARSER_FILES
from avion_core.narrate.reply_forms import answer_of
from avion_core.narrate.sentences import (
    LONGEST_CHARACTERS,
    LONGEST_WORDS,
    NO_SENTENCE,
    REFUSED,
    TOO_LONG,
    clean,
    distinct,
    refuses,
)

WEARER = "#C C"
"""The subject of a narration of the camera wearer; other words for it are replaced."""
CLIP_PARSER = code_fingerprint(
    [*(Path(__file__).parents[1] / name for name in PARSER_FILES), Path(__file__)]
)[:8]
"""Digest of this parser."""
_SEVERAL = re.compile(r"[.!?…]\s+\S|[?\n;]")
_IMAGES = re.compile(
    r"\W*(?:(?:in|from|across|throughout|based on)\s+)?"
    r"(?:(?:the|this|these|all|each|first|second|third|fourth|last|next|given|provided)\s+){1,3}"
    r"(?:image|frame|picture|photo|video|clip|scene|sequence|contact sheet)",
    re.IGNORECASE,
)


class ClipSubject:
    """Judges sentences about a clip."""

    text = WEARER

    def judge(self, candidate: str) -> str | None:
        """Why a candidate is not one plain sentence about an action; None if it is."""
        words = clean(candidate, wearer=True).split()
        if refuses(candidate):
            return REFUSED
        if len(candidate) > LONGEST_CHARACTERS or len(words) > LONGEST_WORDS:
            return TOO_LONG
        plain = not (_IMAGES.match(candidate) or _SEVERAL.search(candidate.strip()))
        return None if plain and _acts(words) else NO_SENTENCE


def parse_clip_replies(replies: Sequence[str], *, count: int, finish: str) -> Parsed:
    """At most `count` distinct sentences of one or more replies about a clip, in order.

    `finish` is the server's reason why the first reply ended.
    """
    found = [_parse(reply, count=count, finish=finish) for reply in replies]
    texts = (text for parsed in found for text in parsed.sentences)
    sentences = distinct(texts, original=WEARER, count=count)
    reason = next((parsed.reason for parsed in found if parsed.reason), NO_SENTENCE)
    return Parsed(sentences, None if sentences else reason, 0)


def _parse(reply: str, *, count: int, finish: str) -> Parsed:
    answer = answer_of(reply)
    if finish == "content_filter":
        return Parsed([], REFUSED, 0)
    if not answer:
        return Parsed([], CUT_OFF if finish == "length" else ONLY_REASONING if answer is None else EMPTY, 0)
    if len(answer) > LONGEST_REPLY:
        return Parsed([], TOO_LONG, 0)
    parsed = parse_one(answer, ClipSubject(), count=count, cut=finish == "length")
    return Parsed([], CUT_OFF, 0) if finish == "length" and parsed.reason else parsed


def _acts(words: Sequence[str]) -> bool:
    """Whether there is a verb in a form that narrations have: "picks", "is picking", first "pick"."""
    told = [word.casefold() for word in words if word.isalpha() and word != "C"]
    verbs = [bool(getAllLemmas(word, "VERB").get("VERB")) for word in told]
    formed = [word.endswith(("s", "ing")) for word in told]
    return any(verbs[:1]) or any(verb and form for verb, form in zip(verbs, formed, strict=True))
