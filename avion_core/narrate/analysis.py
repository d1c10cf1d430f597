"""Parses narrations: an allow-list of the sentence patterns that can be rewritten safely.

Narrations are short and alike ("#C C picks up the red mug from the table", "take mug", "washing hands"). The
parser accepts one clause with a known action verb. If only phrases about known things follow the verb, the
sentence is understood and its words may change; otherwise only the form of its verb may. For anything that
could be a second clause, a negation, a question or a typo, `analyse` returns None.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from lemminflect import getLemma

from avion_core.narrate.grammar import (
    ARTICLES,
    MOVABLE,
    PARTICLES,
    POSSESSIVES,
    PREPOSITIONS,
    PRONOUNS,
    Actor,
    Helper,
    NounPhrase,
    Part,
    Sentence,
    Tag,
    Verb,
    word_set,
)
from avion_core.narrate.words import Words

LONGEST_WORDS = 30
"""Longer texts are no narrations."""
PLAIN_ADJECTIVES = word_set(
    "red green blue yellow purple white orange brown black grey gray pink silver golden transparent "
    "colourful colorful big small large tiny long short tall wide thin thick round square flat heavy wooden "
    "metal plastic ceramic steel clean dirty empty full wet dry hot cold warm new old open closed chopped "
    "sliced diced peeled grated cooked raw fresh dark light"
)
"""Adjectives without which a thing is still the same thing."""

_DETERMINERS = ARTICLES | POSSESSIVES | word_set("some this that these those both another each every")
_ADJECTIVES = PLAIN_ADJECTIVES | word_set(
    "first second third fourth fifth last next left right same other whole half one two three four five six "
    "seven eight nine ten several many all more"
)
_NO_ADJECTIVES = word_set("few little own much most enough less least only such any couple lot else")
"""Words that the dictionary calls adjectives, and that do not stay true when an article goes or comes."""
_JOINTS = PREPOSITIONS | PARTICLES | {"of", "and"}
_NO_MODIFIERS = _NO_ADJECTIVES | _JOINTS | _DETERMINERS | PRONOUNS
_ELSEWHERE = word_set(
    "or but then while as when because so if after before until than that which who whom whose what where "
    "why how not no never without nor cannot nothing none nobody nowhere neither hardly barely rarely almost "
    "nearly is are was were be been being am has have had does do did let lets"
)
"""Words of other clauses, other tenses and negations."""
_PERSONS = word_set("he she someone somebody")
_ANYONE = frozenset(
    ("a person", "the person", "someone", "somebody", "the camera wearer", "camera wearer", "a camera wearer")
)
_WORD = r"[^\W_]+(?:['’-][^\W_]+)*"
_TEXT = re.compile(rf"(?:# ?)?{_WORD}(?: +{_WORD})*")
"""Words and nothing else, but for the mark of a tag in front."""


def analyse(text: str, words: Words) -> Sentence | None:
    """Parse a narration; None for anything but one plain clause with a known verb."""
    text = re.sub(r"[\s.!]+$", "", text.strip())
    if not text.isprintable() or not _TEXT.fullmatch(text) or re.search("[A-Z]{3}", text):
        return None
    tokens = re.sub("^# ", "#", text).split()
    return _Reader(tokens, words).sentence() if 2 <= len(tokens) <= LONGEST_WORDS else None


class _Reader:
    """Reads a narration's words from left to right."""

    def __init__(self, tokens: Sequence[str], words: Words) -> None:
        self.tokens, self.lower, self.words = tokens, [token.lower() for token in tokens], words
        self.named = self._places_of_names()
        self.place = 0

    def sentence(self) -> Sentence | None:
        """The whole text as a sentence, else None."""
        found = self._subject()
        if found is None:
            return None
        subject, actor = found
        progressive = bool(subject) and self._next() == "is"
        self.place += progressive
        start = self.place
        verbs = self._verbs()
        if verbs is None or self._suspicious():
            return None
        tag, helper, lemma = verbs
        if actor == "wearer" and tag == "VB" and not progressive:
            tag = "VBZ"  # "#C C pick up the cup"
        if tag not in (("VBG",) if progressive else ("VBZ",) if subject else ("VB", "VBG")):
            return None
        tail = self.place
        verb, target, rest = self._phrases(lemma) or (Verb(lemma), None, None)
        understood = rest is not None and not self._idiom(verb, target, told=bool(subject))
        sentence = Sentence(subject, actor, tag, helper, verb, target, rest or (), understood)
        if not subject and self._names_a_thing(sentence, start, tail):
            return None
        if understood:
            return sentence
        whole = tuple(self.tokens[tail:])
        opaque = Sentence(subject, actor, tag, helper, Verb(lemma), None, whole, understood=False)
        return None if "and" in self.lower else opaque

    def _next(self, ahead: int = 0) -> str:
        place = self.place + ahead
        return self.lower[place] if place < len(self.lower) else ""

    def _take(self) -> str:
        self.place += 1
        return self.lower[self.place - 1]

    def _places_of_names(self) -> set[int]:
        """Places of the words in multi-word things ("washing up liquid")."""
        return {
            place
            for start, first in enumerate(self.lower)
            if first in self.words.openers
            for end in (start + 2, start + 3)
            if end <= len(self.lower) and self.words.singular(self.lower[start:end]) in self.words.things
            for place in range(start, end)
        }

    def _subject(self) -> tuple[str, Actor] | None:
        """The subject and who it is; advances past it. None for a subject that is not understood."""
        first, second = self.lower[:2]
        if first in ("#c", "c"):
            self.place = 2 if second == "c" else 1
            return "#C C", "wearer"
        if first in self.words.actions or first in self.words.helpers:
            return "", "plain"
        tagged = first == "#o"
        for place in range(1 + tagged, min(len(self.lower), 8)):
            if self.lower[place] == "is" or self._form(place) == "VBZ":
                self.place = place
                subject, alone = " ".join(self.tokens[:place]), " ".join(self.lower[:place])
                known = alone in _PERSONS or self._is_person(self.tokens[tagged:place])
                return (subject, "generic" if alone in _ANYONE else "other") if known else None
        return None

    def _is_person(self, phrase: Sequence[str]) -> bool:
        """ "A man X", "the young woman", "person B", "C"."""
        if list(phrase) == ["C"]:
            return True
        *before, noun = phrase[:-1] if len(phrase) > 1 and len(phrase[-1]) == 1 else phrase
        known = "people" in self.words.things.get(noun.lower(), ())
        return known and all(word.lower() in _DETERMINERS | _ADJECTIVES or _modifies(word) for word in before)

    def _form(self, place: int) -> Tag | None:
        word = self.lower[place]
        found = self.words.actions.get(word) or self.words.helpers.get(word)
        return found[1] if found else None

    def _verbs(self) -> tuple[Tag, Helper | None, str] | None:
        """Form of the first verb, helper, and the action verb; advances past them."""
        helper = self.words.helpers.get(self._next())
        if helper is None:
            found = self.words.actions.get(self._next())
            self.place += 1
            return (found[1], None, found[0]) if found else None
        lemma, tag = helper
        link: Literal["to", "ing"] = "to" if self._next(1) == "to" else "ing"
        helps, wanted, width = (
            (self.words.before_to, "VB", 3) if link == "to" else (self.words.before_ing, "VBG", 2)
        )
        main = self.words.actions.get(self._next(width - 1))
        self.place += width
        if lemma not in helps or main is None or main[1] != wanted or (link == "ing" and tag == "VBG"):
            return None
        return tag, Helper(lemma, link), main[0]

    def _suspicious(self) -> bool:
        """Whether what follows the verb could contain another verb, a negation or a typo."""
        tail = self.lower[self.place :]
        if tail[:1] == ["of"] or any(one == two for one, two in itertools.pairwise(tail)):
            return True
        return any(
            word in _ELSEWHERE or word.endswith(("n't", "n’t")) or self._is_verb(place)
            for place, word in enumerate(tail, self.place)
        )

    def _is_verb(self, place: int) -> bool:
        """Whether a word after the verb is likely to be another one, and neither a thing nor after "to"."""
        tag = self._form(place)
        if tag is None or self.lower[place] in PREPOSITIONS:
            return False
        before, following = self.lower[place - 1], (*self.lower, "")[place + 1]
        acts = following in _DETERMINERS or following in PRONOUNS
        thing = place in self.named or self.words.kinds(self.lower[place : place + 1])
        if before in _DETERMINERS or (thing and not acts):
            return False
        return tag != "VB" or before == "and" or (acts and before != "to")

    def _names_a_thing(self, sentence: Sentence, start: int, tail: int) -> bool:
        """Whether what looks like an action could be a thing: "cutting board", "walking stick"."""
        if start in self.named:
            return True
        first = (*self.lower, "")[tail]
        joined = not first or first in _JOINTS | _DETERMINERS | PRONOUNS
        if sentence.tag != "VBG" or sentence.helper or joined:
            return False
        kinds = self.words.kinds(sentence.object.noun) if sentence.object else frozenset()
        certain = kinds & {"food", "plants", "ingredients", "body"}
        return not kinds or (sentence.verb.lemma in self.words.naming and not certain)

    def _idiom(self, verb: Verb, target: NounPhrase | None, *, told: bool) -> bool:
        """Whether verb and object mean something together: "takes a shower", "takes cover", "pulls a face".

        `told`: the sentence has a subject, so that a thing to hold would have an article.
        """
        if target is None or target.noun[0] in PRONOUNS:
            return False
        kinds = self.words.kinds(target.noun)
        if "body" in kinds and {"a", "an"} & set(target.before):
            return True
        bare = told and not target.before and len(target.noun) == 1 and not self.words.is_plural(target.noun)
        return str(verb) in self.words.light and (bare or not kinds & {"held", "stuff"})

    def _phrases(self, lemma: str) -> tuple[Verb, NounPhrase | None, tuple[Part, ...]] | None:
        """The verb with its particle, object, and what follows; None if not understood."""
        verb, parts = Verb(lemma), list[Part]()
        if f"{lemma} {self._next()}" in self.words.phrasal:
            verb = Verb(lemma, self._take())
        if self._next() and self._next() not in PREPOSITIONS and not self._things(parts):
            return None
        if not verb.particle and parts and self._loose_particle(lemma):
            verb = Verb(lemma, self._take())
        target = parts.pop(0) if parts else None
        while self._next() in PREPOSITIONS or (self._next(), self._next(1)) == ("out", "of"):
            parts.append(f"{self._take()} {self._take()}" if self._next() == "out" else self._take())
            if not self._things(parts, spots=True):
                return None
        if self._next():
            return None
        return verb, target if isinstance(target, NounPhrase) else None, tuple(parts)

    def _loose_particle(self, lemma: str) -> bool:
        """ "picks the cup up", "puts it down on the table"."""
        known = f"{lemma} {self._next()}" in self.words.phrasal
        ends = not self._next(1) or self._next(1) in PREPOSITIONS
        return known and ends and self._next() in MOVABLE | {"on", "off", "over"}

    def _things(self, parts: list[Part], *, spots: bool = False) -> bool:
        """Add a noun phrase, or several joined by "of" and "and"; whether all are about known things."""
        while True:
            start = self.place
            while self._next() and (self.place in self.named or self._next() not in _JOINTS):
                self.place += 1
            phrase = self._noun_phrase(self.tokens[start : self.place], spots=spots)
            if phrase is None:
                return False
            parts.append(phrase)
            if self._next() not in ("of", "and"):
                return True
            if isinstance(phrase, str):
                return False
            parts.append(self._take())

    def _noun_phrase(self, phrase: Sequence[str], *, spots: bool) -> Part | None:
        if not phrase:
            return None
        if len(phrase) == 1 and phrase[0].lower() in PRONOUNS:
            return NounPhrase((), (phrase[0].lower(),))
        start = int(phrase[0].lower() in _DETERMINERS and len(phrase) > 1)
        if self._is_person(phrase[start:]):
            return NounPhrase(tuple(phrase[:start]), tuple(phrase[start:]))
        if spots and "spots" in self.words.things.get(phrase[-1].lower(), ()):
            return " ".join(phrase)
        while start < len(phrase) - 1 and " ".join(phrase[start:]).lower() not in self.words.things:
            if phrase[start].lower() not in _ADJECTIVES and not phrase[start].isdecimal():
                break
            start += 1
        noun = phrase[start:]
        named = next(
            (at for at in range(len(noun)) if self.words.singular(noun[at:]) in self.words.things), None
        )
        if named is None or "spots" in self.words.kinds(noun):
            return None
        fits = all(self.words.kinds([word]) or _modifies(word) for word in noun[:named])
        return NounPhrase(tuple(phrase[:start]), tuple(noun)) if fits else None


@lru_cache(maxsize=100_000)
def _modifies(word: str) -> bool:
    """Whether the dictionary knows a word as a noun or an adjective that may stand before a noun."""
    word = word.lower().split("-")[-1]
    if word in _NO_MODIFIERS or word.endswith(("ly", "ing")) or len(word) < 2:
        return False
    return any(getLemma(word, kind, lemmatize_oov=False) for kind in ("NOUN", "ADJ"))
