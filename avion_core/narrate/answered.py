"""Which narrations a journal answers, which were given up, and which are still open.

Each line records whether the parser at the time found a usable sentence, so that replies need not be read
until a shard's table is made. Then the current parser reads every reply: a better one costs no new request.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avion_core.config import NarrateSettings, OpenAISettings
from avion_core.files import code_fingerprint
from avion_core.narrate.journal import parse_line
from avion_core.narrate.ledger import DEAD, MARK, UNJUDGED, UNUSABLE, USABLE, Ledger, key_numbers
from avion_core.narrate.parse import Parsed, parse_replies
from avion_core.narrate.prompts import answer_keys
from avion_core.narrate.provider import Rephrasing

PARSER_FILES = (
    "narrate/parse.py",
    "narrate/reply_forms.py",
    "narrate/sentences.py",
    "narrate/talk.yaml",
    "plain_text.py",
)
PARSER = code_fingerprint(Path(__file__).parents[1] / name for name in PARSER_FILES)[:8]
"""Digest of the current parser."""
NOTHING = Parsed([], "cannot be read", 0)
"""Result for a reply on which the parser fails."""
TEXTS_AT_ONCE = 65536


def keys_of(texts: pa.Array, settings: NarrateSettings) -> NDArray[np.uint64]:
    """The keys of texts under the settings, as numbers."""
    pieces = [np.empty(0, np.uint64)]
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        piece = texts.slice(start, TEXTS_AT_ONCE).to_pylist()
        pieces.append(key_numbers(list(key_texts(piece, settings))))
    return np.concatenate(pieces)


def key_texts(texts: Sequence[str], settings: NarrateSettings) -> Iterator[str]:
    """The keys of texts under the settings, as in a journal."""
    openai = settings.of(OpenAISettings)
    return answer_keys(
        texts,
        provider=settings.provider,
        model=openai.model,
        temperature=openai.temperature,
        instruction=settings.rephrase.instruction,
        count=settings.rephrase.texts_per_narration,
    )


class Answered:
    """What a journal's files say about some texts. A context manager: it keeps files open."""

    def __init__(self, texts: pa.Array, settings: NarrateSettings) -> None:
        self.texts, self._settings = texts, settings
        keys = keys_of(texts, settings)
        self._order = np.argsort(keys)
        self._sorted = keys[self._order]
        self._paths: list[Path] = []
        self._open: dict[int, int] = {}
        self._marks = np.empty(0, MARK)
        self._texts = np.empty(0, np.int64)
        """Index of each mark's text; marks are sorted by it, a text's oldest first."""
        self._files = np.empty(0, np.int64)
        """Index of each mark's path."""

    def __enter__(self) -> Answered:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def take(self, ledgers: Iterable[tuple[Path, Ledger]]) -> None:
        """Add what these files say about the texts."""
        marks, texts, files = [self._marks], [self._texts], [self._files]
        for path, ledger in ledgers:
            for piece in ledger.marks if len(self._sorted) else ():
                found = np.minimum(np.searchsorted(self._sorted, piece["key"]), len(self._sorted) - 1)
                ours = self._sorted[found] == piece["key"]
                marks.append(piece[ours])
                texts.append(self._order[found[ours]])
                files.append(np.full(len(texts[-1]), len(self._paths)))
            self._paths.append(path)
        self._texts = np.concatenate(texts)
        by_text = np.argsort(self._texts, kind="stable")
        self._texts = self._texts[by_text]
        self._marks, self._files = np.concatenate(marks)[by_text], np.concatenate(files)[by_text]

    def state(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Whether each text has a usable answer, and its number of failed attempts.

        Answers that the current parser has not judged count as usable. Those cut off by a lower token limit
        than the present one do not count as attempts.
        """
        state, limit = self._marks["state"], self._marks["limit"]
        unusable = (state == UNUSABLE) & (self._marks["parser"] == int(PARSER, 16))
        usable = ~unusable & (state != DEAD)
        answered = np.zeros(len(self.texts), np.bool_)
        answered[self._texts[usable]] = True
        openai = self._settings.of(OpenAISettings)
        now = np.where(self._marks["reasons"], openai.longest_reply_tokens, openai.max_tokens_per_reply)
        excused = (limit > 0) & (limit < now)
        attempts = np.bincount(self._texts[unusable & ~excused], minlength=len(self.texts))
        dead = state == DEAD
        np.maximum.at(attempts, self._texts[dead], self._marks["attempts"][dead].astype(attempts.dtype))
        return answered, attempts

    def surely(self) -> NDArray[np.bool_]:
        """Whether the current parser has found a usable answer for each text."""
        known = (self._marks["state"] == USABLE) & (self._marks["parser"] == int(PARSER, 16))
        return np.isin(np.arange(len(self.texts)), self._texts[known])

    def judge(self) -> bool:
        """Parse the answers that the current parser has not judged; returns whether there were any."""
        known = (self._marks["state"] != UNJUDGED) & (self._marks["parser"] == int(PARSER, 16))
        doubtful = np.flatnonzero(~known & (self._marks["state"] != DEAD))
        for place in doubtful.tolist():
            usable = bool(self._parsed(place).sentences)
            self._marks["state"][place] = USABLE if usable else UNUSABLE
            self._marks["parser"][place] = int(PARSER, 16)
        return len(doubtful) > 0

    def rephrasing(self, text: int) -> Rephrasing:
        """The result for a text: its first answer with a usable sentence, or else its last."""
        first, last = np.searchsorted(self._texts, [text, text + 1])
        words, reason, tries, others = self.texts[text].as_py(), "not asked", 0, 0
        for place in range(first, last):
            if self._marks["state"][place] == DEAD:
                reason = str(self._line(place).get("dead"))
            else:
                parsed = self._parsed(place)
                others += parsed.other_subject
                if parsed.sentences:
                    return Rephrasing(words, parsed.sentences, other_subject=others)
                reason = parsed.reason or "no sentence"
            tries += int(self._marks["tries"][place])
        return Rephrasing(words, [], reason, tries, others)

    def _parsed(self, place: int) -> Parsed:
        line, key = self._line(place), f"{self._marks['key'][place]:016x}"
        found = judged(
            line.get("reply"), line.get("texts"), finish=line.get("finish"), settings=self._settings
        )
        own = line["keys"].index(key)
        return found[own] if len(found) == len(line["keys"]) else NOTHING

    def _line(self, place: int) -> dict[str, Any]:
        file, mark = int(self._files[place]), self._marks[place]
        if file not in self._open:
            self._open[file] = os.open(self._paths[file], os.O_RDONLY)
        start = int(mark["start"])
        data = os.pread(self._open[file], int(mark["length"]), start)
        return parse_line(data, self._paths[file], start=start)


def judged(reply: Any, texts: Any, *, finish: Any, settings: NarrateSettings) -> list[Parsed]:
    """Parse a reply for each narration of its request. Never raises, whatever the reply is."""
    try:
        return parse_replies(
            reply,
            texts,
            count=settings.rephrase.texts_per_narration,
            finish=finish,
            instruction=settings.rephrase.instruction,
        )
    except Exception:  # the parser should accept anything, but a paid answer must never stop a run
        return [NOTHING] * (len(texts) if isinstance(texts, list) else 1)
