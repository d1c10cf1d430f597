"""Just enough English grammar for narrations: subject, verb with particle, noun phrases, and back to text."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from lemminflect import getInflection


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


ARTICLES = word_set("a an the")
POSSESSIVES = word_set("his her its their my your our")
REFLEXIVES = word_set("him himself herself themselves itself")
PRONOUNS = word_set("it them")
PARTICLES = word_set("up down on off out away back in over apart aside together around open")
MOVABLE = word_set("up down away back out apart aside together")
"""Particles that may stand before or after any object; "on", "off", "in" and "over" are prepositions too."""

PREPOSITIONS = word_set(
    "from into onto in on at to with for under below above over behind beside between across along through "
    "around round near inside outside against toward towards using off"
)

Tag = Literal["VB", "VBZ", "VBG"]
Actor = Literal["wearer", "plain", "generic", "other"]


@dataclass(frozen=True)
class Verb:
    """A verb and its particle or fixed preposition: "pick" and "up", "look" and "at"."""

    lemma: str
    particle: str = ""

    def __str__(self) -> str:
        return f"{self.lemma} {self.particle}".strip()

    @classmethod
    def parse(cls, words: str) -> Verb:
        """`Verb.parse("pick up")`."""
        lemma, _, particle = words.partition(" ")
        return cls(lemma, particle)


@dataclass(frozen=True)
class Helper:
    """A verb before the verb: "tries to open", "continues opening"."""

    lemma: str
    link: Literal["to", "ing"]


@dataclass(frozen=True)
class NounPhrase:
    """Determiner, numbers and adjectives, then the noun ("the red" "mug"). `noun` may be several words."""

    before: tuple[str, ...]
    noun: tuple[str, ...]

    def words(self) -> tuple[str, ...]:
        """The phrase, with "a" or "an" to match the next word."""
        words = [*self.before, *self.noun]
        for place, word in enumerate(words[:-1]):
            if word.lower() in ("a", "an"):
                words[place] = article_for(words[place + 1])
        return tuple(words)


Part = NounPhrase | str
"""A piece of what follows the object: a noun phrase, or words that stay as they are."""


@dataclass(frozen=True)
class Sentence:
    """A parsed narration."""

    subject: str
    """As written, "#C C" for the camera wearer; empty in the plain form ("take mug", "taking mug")."""
    actor: Actor
    tag: Tag
    """Form of the first verb: VBZ "takes", VBG "is taking" (or "taking" without a subject), VB "take"."""
    helper: Helper | None
    verb: Verb
    object: NounPhrase | None
    rest: tuple[Part, ...]
    understood: bool
    """Whether only phrases about known things follow the verb; else all of it is in `rest`."""


def article_for(word: str) -> str:
    """ "a" or "an", by the sound that the word most likely starts with."""
    spoken = re.sub(
        r"^(?:uni|us|ut|uk|eu|one|once)", "y", re.sub(r"^(?:hour|heir|hon[eo])", "o", word.lower())
    )
    return "an" if spoken[:1] in tuple("aeiou") else "a"


@lru_cache(maxsize=100_000)
def inflect(lemma: str, tag: str) -> str:
    """Form of a lemma for a Penn Treebank tag, such as VBZ or NNS; of several words, the last changes."""
    if tag in ("VB", "NN"):
        return lemma
    found = getInflection(lemma, tag)
    return str(found[0]) if found else lemma


def render(sentence: Sentence, *, tag: Tag, particle_last: bool = False) -> str:
    """Back to text: VBZ "#C C picks up the mug", VB "pick up the mug", VBG "#C C is picking up the mug"."""
    verb, target = sentence.verb, sentence.object
    subject = [sentence.subject] if sentence.subject and tag != "VB" else []
    if tag == "VBG" and subject:
        subject.append("is")
    words = target.words() if target else ()
    pronoun = len(words) == 1 and words[0].lower() in PRONOUNS and verb.particle in PARTICLES
    middle = [*words, verb.particle] if words and (particle_last or pronoun) else [verb.particle, *words]
    rest = [word for part in sentence.rest for word in ([part] if isinstance(part, str) else part.words())]
    return " ".join(word for word in [*subject, *_spoken(sentence, tag), *middle, *rest] if word)


def _spoken(sentence: Sentence, tag: Tag) -> list[str]:
    helper, lemma = sentence.helper, sentence.verb.lemma
    if helper is None:
        return [inflect(lemma, tag)]
    main = ["to", lemma] if helper.link == "to" else [inflect(lemma, "VBG")]
    return [inflect(helper.lemma, tag), *main]


def map_nouns(sentence: Sentence, change: Callable[[NounPhrase], NounPhrase]) -> Sentence:
    """The sentence with every noun phrase changed."""
    target = change(sentence.object) if sentence.object else None
    rest = tuple([part if isinstance(part, str) else change(part) for part in sentence.rest])
    return replace(sentence, object=target, rest=rest)
