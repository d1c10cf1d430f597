"""Just enough English grammar for narrations: subject, verb with particle, noun phrases, and back to text.

Narrations are short and alike ("#C C picks up the red mug from the table", "take mug"), so a look at word
endings and a few closed word classes is enough. What does not fit is left alone: `analyse` returns None,
or a noun phrase keeps its words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from lemminflect import getInflection, getLemma


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _words("a an the")
DETERMINERS = ARTICLES | _words("his her its their my your some this that these those both another")
PARTICLES = _words("up down on off out away back in over apart aside together around")
PREPOSITIONS = _words(
    "from into onto in on at to of with without by for under below above over behind beside between across "
    "along through around near inside outside against toward towards using off out down up while as"
)
CONJUNCTIONS = _words("and then or but")
PRONOUNS = _words("it them him")
ADJECTIVES = _words(
    "red green blue yellow purple white orange brown black grey gray pink silver golden transparent "
    "big small large little tiny long short tall wide thin thick round square flat heavy "
    "wooden metal plastic ceramic steel clean dirty empty full wet dry hot cold warm new old open "
    "closed other second first third last next left right same whole half two three four five several "
    "chopped sliced diced peeled grated cooked raw fresh dark light colourful colorful"
)
GENERIC_SUBJECTS = frozenset(
    ("a person", "the person", "someone", "somebody", "i", "c", "the camera wearer", "camera wearer")
)

Tag = Literal["VB", "VBZ", "VBG"]


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
class NounPhrase:
    """Determiners and adjectives, then the noun ("the red" "mug"). `noun` may be several words."""

    before: tuple[str, ...]
    noun: tuple[str, ...]

    def words(self) -> tuple[str, ...]:
        """The phrase, with "a" or "an" as the next word wants it."""
        words = [*self.before, *self.noun]
        for place, word in enumerate(words[:-1]):
            if word.lower() in ("a", "an"):
                words[place] = article_for(words[place + 1])
        return tuple(words)


Part = NounPhrase | str
"""A piece of what follows the verb: a noun phrase, or one word that joins (preposition, conjunction)."""


@dataclass(frozen=True)
class Sentence:
    """A narration taken apart."""

    subject: str
    """As written, "#C C" for the camera wearer; empty in the plain form ("take mug")."""
    actor: Literal["wearer", "plain", "generic", "other"]
    progressive: bool
    """Whether it says "is taking"."""
    verb: Verb
    object: NounPhrase | None
    rest: tuple[Part, ...]

    def plain(self) -> bool:
        """Whether the sentence loses nothing without its subject."""
        return self.actor != "other"


def article_for(word: str) -> str:
    """ "a" or "an", by the first letter."""
    return "an" if word[:1].lower() in "aeiou" else "a"


@lru_cache(maxsize=100_000)
def verb_lemma(word: str) -> str | None:
    """Base form of a verb form that the dictionary knows, else None."""
    found = getLemma(word.lower(), "VERB", lemmatize_oov=False)
    return found[0] if found else None


@lru_cache(maxsize=100_000)
def noun_lemma(word: str) -> str:
    """Singular of a noun; words that the dictionary does not know follow the rules of "-s"."""
    word = word.lower()
    regular = word.endswith("s") and not word.endswith(("ss", "us", "is"))
    found = getLemma(word, "NOUN", lemmatize_oov=regular)
    return str(found[0]) if found else word


@lru_cache(maxsize=100_000)
def inflect(lemma: str, tag: str) -> str:
    """Form of a lemma for a Penn Treebank tag, such as VBZ or NNS."""
    if tag in ("VB", "NN"):
        return lemma
    found = getInflection(lemma, tag)
    return str(found[0]) if found else lemma


def is_plural(noun: str) -> bool:
    """Whether a noun's form differs from its singular."""
    return noun_lemma(noun) != noun.lower()


def analyse(text: str, *, is_phrasal: Callable[[str], bool]) -> Sentence | None:
    """Take a narration apart; None when no verb is found where one is expected.

    `is_phrasal("pick up")` says which verbs with particle are known: only those are read as one verb
    ("puts on the table" is not "put on"). A verb whose particle makes it an unknown one gets the lemma
    with the particle, so that nothing is looked up for the bare verb.
    """
    words = re.sub(r"[.,;:!?\"]+(?=\s|$)", "", text).split()
    found = _subject(words)
    if found is None:
        return None
    subject, actor, place = found
    progressive = words[place].lower() in ("is", "are") and place + 1 < len(words)
    place += progressive
    lemma = verb_lemma(words[place])
    if lemma is None or lemma == "be" or (progressive and not words[place].lower().endswith("ing")):
        return None
    verb, following = _particle(lemma, words[place + 1 :], is_phrasal)
    parts = _parts(following)
    target = parts[0] if parts and isinstance(parts[0], NounPhrase) else None
    rest = tuple(parts[1:] if target else parts)
    return Sentence(subject, actor, progressive, verb, target, rest)


def _subject(words: list[str]) -> tuple[str, Literal["wearer", "plain", "generic", "other"], int] | None:
    """Subject, who it is, and the place of the first word after it."""
    lower = [word.lower() for word in words]
    if len(words) < 2:
        return None
    if lower[0] == "#c":
        place = 2 if lower[1] == "c" else 1
        return ("#C C", "wearer", place) if place < len(words) else None
    if lower[0] == "c" and _third_person(lower[1]):
        return "#C C", "wearer", 1
    if not lower[0].startswith("#") and verb_lemma(lower[0]) == lower[0] and lower[0] not in DETERMINERS:
        return "", "plain", 0
    for place in range(1, min(len(words), 7)):
        if lower[place] in ("is", "are") or _third_person(lower[place]):
            subject = " ".join(words[:place])
            generic = subject.lower() in GENERIC_SUBJECTS
            return subject, "generic" if generic else "other", place
    return None


def _third_person(word: str) -> bool:
    lemma = verb_lemma(word)
    return lemma is not None and word.endswith("s") and lemma != word and inflect(lemma, "VBZ") == word


def _particle(lemma: str, words: list[str], is_phrasal: Callable[[str], bool]) -> tuple[Verb, list[str]]:
    """Join a verb with its particle, next to it ("picks up the cup") or later ("picks the cup up")."""
    lower = [word.lower() for word in words]
    for place, word in enumerate(lower):
        after = lower[place + 1] if place + 1 < len(lower) else ""
        if place == 0 and (word in PARTICLES or word in PREPOSITIONS):
            joined = f"{lemma} {word}"
            if is_phrasal(joined):
                return Verb(lemma, word), words[1:]
            return Verb(joined), words[1:]
        if word in CONJUNCTIONS:
            break
        loose = word in PARTICLES and after != "of" and (not after or after in PREPOSITIONS | CONJUNCTIONS)
        if place and (loose or word in ("up", "down", "away", "back", "apart", "aside", "together")):
            rest = [*words[:place], *words[place + 1 :]]
            known = is_phrasal(f"{lemma} {word}")
            return (Verb(lemma, word), rest) if known else (Verb(f"{lemma}*"), words)
    return Verb(lemma), words


def _parts(words: list[str]) -> list[Part]:
    parts: list[Part] = []
    run: list[str] = []
    for word in [*words, ""]:
        joins = word.lower() in PREPOSITIONS | CONJUNCTIONS or word.startswith("#")
        if (joins or not word) and run:
            parts.append(_noun_phrase(run))
            run = []
        if joins:
            parts.append(word)
        elif word:
            run.append(word)
    return parts


def _noun_phrase(words: list[str]) -> NounPhrase:
    place = 0
    while place < len(words) - 1 and words[place].lower() in DETERMINERS | ADJECTIVES:
        place += 1
    return NounPhrase(tuple(words[:place]), tuple(words[place:]))


def render(sentence: Sentence, *, tag: Tag, particle_last: bool = False) -> str:
    """Back to text: VBZ "#C C picks up the mug", VB "pick up the mug", VBG "#C C is picking up the mug"."""
    verb, target = sentence.verb, sentence.object
    starred = verb.lemma.endswith("*")
    lemma, _, stuck = verb.lemma.rstrip("*").partition(" ")
    particle = "" if starred else (verb.particle or stuck)
    subject = [] if tag == "VB" or not sentence.subject else [sentence.subject]
    if tag == "VBG" and subject:
        subject.append("is")
    words = target.words() if target else ()
    pronoun = len(words) == 1 and words[0].lower() in PRONOUNS
    middle = [*words, particle] if words and (particle_last or pronoun) else [particle, *words]
    rest: list[str] = []
    for part in sentence.rest:
        rest += [part] if isinstance(part, str) else part.words()
    return " ".join(word for word in [*subject, inflect(lemma, tag), *middle, *rest] if word)


def map_nouns(sentence: Sentence, change: Callable[[NounPhrase], NounPhrase]) -> Sentence:
    """The sentence with every noun phrase changed."""
    target = change(sentence.object) if sentence.object else None
    rest = tuple(part if isinstance(part, str) else change(part) for part in sentence.rest)
    return replace(sentence, object=target, rest=rest)


def has_second_verb(sentence: Sentence) -> bool:
    """Whether a conjunction seems to start another action ("… and opens the drawer")."""
    before = ""
    for part in (sentence.object, *sentence.rest):
        if isinstance(part, NounPhrase):
            words = part.words()
            if before in CONJUNCTIONS | {"while", "as"} and _third_person(words[0].lower()):
                return True
            if any(_third_person(word.lower()) and inner for inner, word in enumerate(words[:-1])):
                return True
        before = part.lower() if isinstance(part, str) else ""
    return False
