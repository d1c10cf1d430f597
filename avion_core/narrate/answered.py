"""Which questions a journal answers, which were given up, and which are still open.

Each line records whether the parser at the time found a usable sentence, so that replies need not be read
until a shard's table is made. Then the current parser reads every reply: a better one costs no new request.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avion_core.narrate.journal import parse_line
from avion_core.narrate.ledger import DEAD, MARK, UNJUDGED, UNUSABLE, USABLE, Ledger
from avion_core.narrate.parse import Parsed
from avion_core.narrate.provider import Rephrasing
from avion_core.narrate.questions import CANNOT_BE_READ, Questions


class Answered:
    """What a journal's files say about some questions. A context manager: it keeps files open."""

    def __init__(self, questions: Questions) -> None:
        self.questions = questions
        self._order = np.argsort(questions.keys)
        self._sorted = questions.keys[self._order]
        self._paths: list[Path] = []
        self._open: dict[int, int] = {}
        self._marks = np.empty(0, MARK)
        self._places = np.empty(0, np.int64)
        """Index of each mark's question; marks are sorted by it, a question's oldest first."""
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
        """Add what these files say about the questions."""
        marks, places, files = [self._marks], [self._places], [self._files]
        for path, ledger in ledgers:
            for piece in ledger.marks if len(self._sorted) else ():
                found = np.minimum(np.searchsorted(self._sorted, piece["key"]), len(self._sorted) - 1)
                ours = self._sorted[found] == piece["key"]
                marks.append(piece[ours])
                places.append(self._order[found[ours]])
                files.append(np.full(len(places[-1]), len(self._paths)))
            self._paths.append(path)
        self._places = np.concatenate(places)
        by_place = np.argsort(self._places, kind="stable")
        self._places = self._places[by_place]
        self._marks, self._files = np.concatenate(marks)[by_place], np.concatenate(files)[by_place]

    def state(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Whether each question has a usable answer, and its number of failed attempts.

        Answers that the current parser has not judged count as usable. Those cut off by a lower token limit
        than the present one do not count as attempts.
        """
        state, limit = self._marks["state"], self._marks["limit"]
        unusable = (state == UNUSABLE) & (self._marks["parser"] == int(self.questions.parser, 16))
        usable = ~unusable & (state != DEAD)
        answered = np.zeros(len(self.questions), np.bool_)
        answered[self._places[usable]] = True
        server = self.questions.server
        now = np.where(self._marks["reasons"], server.longest_reply_tokens, server.max_tokens_per_reply)
        excused = (limit > 0) & (limit < now)
        attempts = np.bincount(self._places[unusable & ~excused], minlength=len(self.questions))
        dead = state == DEAD
        np.maximum.at(attempts, self._places[dead], self._marks["attempts"][dead].astype(attempts.dtype))
        return answered, attempts

    def surely(self) -> NDArray[np.bool_]:
        """Whether the current parser has found a usable answer for each question."""
        known = (self._marks["state"] == USABLE) & (self._marks["parser"] == int(self.questions.parser, 16))
        return np.isin(np.arange(len(self.questions)), self._places[known])

    def judge(self) -> bool:
        """Parse the answers that the current parser has not judged; returns whether there were any."""
        known = (self._marks["state"] != UNJUDGED) & (self._marks["parser"] == int(self.questions.parser, 16))
        doubtful = np.flatnonzero(~known & (self._marks["state"] != DEAD))
        for place in doubtful.tolist():
            usable = bool(self._parsed(place).sentences)
            self._marks["state"][place] = USABLE if usable else UNUSABLE
            self._marks["parser"][place] = int(self.questions.parser, 16)
        return len(doubtful) > 0

    def rephrasing(self, question: int) -> Rephrasing:
        """The result for a question: its first answer with a usable sentence, or else its last."""
        first, last = np.searchsorted(self._places, [question, question + 1])
        name, reason, tries, others = self.questions.name(question), "not asked", 0, 0
        for place in range(first, last):
            if self._marks["state"][place] == DEAD:
                reason = str(self._line(place).get("dead"))
            else:
                parsed = self._parsed(place)
                others += parsed.other_subject
                if parsed.sentences:
                    return Rephrasing(name, parsed.sentences, other_subject=others)
                reason = parsed.reason or "no sentence"
            tries += int(self._marks["tries"][place])
        return Rephrasing(name, [], reason, tries, others)

    def _parsed(self, place: int) -> Parsed:
        line, key = self._line(place), f"{self._marks['key'][place]:016x}"
        found = self.questions.judged(line.get("reply"), line.get("texts"), finish=line.get("finish"))
        own = line["keys"].index(key)
        return found[own] if len(found) == len(line["keys"]) else CANNOT_BE_READ

    def _line(self, place: int) -> dict[str, Any]:
        file, mark = int(self._files[place]), self._marks[place]
        if file not in self._open:
            self._open[file] = os.open(self._paths[file], os.O_RDONLY)
        start = int(mark["start"])
        data = os.pread(self._open[file], int(mark["length"]), start)
        return parse_line(data, self._paths[file], start=start)
