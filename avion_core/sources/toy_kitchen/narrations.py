"""Sentences about actions, as the annotators of two data sets would write them.

EPIC-KITCHENS-100: imperative and terse, "take mug", now and then a colour or a second noun.
Ego4D: third person with tags, "#C C takes the red mug from the counter", by two annotators with their
own words, slips and gaps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from avion_core.sources.toy_kitchen.script import Action, Script
from avion_core.sources.toy_kitchen.vocabulary import COLOURS, GOES_WITH, NOUNS, VERBS


@dataclass(frozen=True)
class EpicNarration:
    """One annotation in the terms of EPIC-KITCHENS-100."""

    text: str
    verb: str
    """The word of the verb class, "put-down"."""
    verb_class: str
    nouns: tuple[str, ...]
    """Words of the nouns, the direct object first."""
    noun_classes: tuple[str, ...]


@dataclass(frozen=True)
class PointNarration:
    """One narration in the terms of Ego4D."""

    time_s: float
    text: str


EPIC_SECOND_NOUN: dict[str, tuple[str, str]] = {
    "put": ("on", "counter"),
    "wash": ("with", "water"),
    "cut": ("with", "knife"),
    "stir": ("with", "spoon"),
    "take": ("from", "counter"),
}
"""What a verb's sentence may add: preposition and noun."""

EGO4D_WORDS: dict[str, tuple[tuple[str, str], ...]] = {
    "take": (("takes", "take"), ("picks up", "pick up"), ("picks", "pick"), ("grabs", "grab")),
    "put": (("puts", "put"), ("places", "place"), ("puts down", "put down"), ("drops", "drop")),
    "open": (("opens", "open"), ("uncovers", "uncover")),
    "close": (("closes", "close"), ("covers", "cover")),
    "wash": (("washes", "wash"), ("rinses", "rinse")),
    "cut": (("cuts", "cut"), ("slices", "slice"), ("chops", "chop")),
    "pour": (("pours", "pour"),),
    "stir": (("stirs", "stir"), ("mixes", "mix")),
    "shake": (("shakes", "shake"), ("jiggles", "jiggle")),
    "move": (("moves", "move"), ("pushes", "push"), ("slides", "slide")),
}
"""Ways to say a verb: third person and infinitive, the usual one first."""

EGO4D_ENDINGS: dict[str, tuple[str, ...]] = {
    "take": ("from the counter", "with his right hand", "from the table"),
    "put": ("on the counter", "on the table", "down on the counter"),
    "open": ("with his hand",),
    "close": ("with his hand", "with the lid"),
    "wash": ("in the sink", "with water", "under the tap"),
    "cut": ("with the knife", "with a knife", "into pieces"),
    "stir": ("with the spoon", "with a spoon"),
    "shake": ("with his hand",),
    "move": ("on the counter", "to the side"),
}

OTHERS = ("#O A man X walks around", "#O A woman Y looks at C", "#O A person X talks to C")


def epic_narration(action: Action, rng: np.random.Generator) -> EpicNarration:
    """One annotator's sentence for an action, mostly the same for the same action."""
    words = VERBS[action.verb]
    verb = words[0] if rng.random() < 0.82 else str(rng.choice(words))
    noun = _noun_word(action.noun, rng, usual=0.9)
    colour = f"{action.colour} " if rng.random() < 0.12 else ""
    if action.verb == "pour":
        liquid = action.take.liquid
        text = f"pour {liquid} into {colour}{noun}"
        return EpicNarration(text, "pour-into", "pour", (liquid, noun), (liquid, action.noun))
    text = f"{verb.replace('-', ' ')} {colour}{noun}"
    if action.verb in EPIC_SECOND_NOUN and rng.random() < 0.12:
        link, second = EPIC_SECOND_NOUN[action.verb]
        verb_word = f"{verb}-{link}"
        nouns, classes = (noun, second), (action.noun, second)
        return EpicNarration(f"{text} {link} {second}", verb_word, action.verb, nouns, classes)
    return EpicNarration(text, verb, action.verb, (noun,), (action.noun,))


def _noun_word(noun: str, rng: np.random.Generator, *, usual: float) -> str:
    words = NOUNS[noun]
    return words[0] if rng.random() < usual else str(rng.choice(words))


def ego4d_narration(action: Action, rng: np.random.Generator, *, usual: float = 0.6) -> str:
    """One annotator's sentence; `usual` is the share of verbs said in the usual way."""
    words = EGO4D_WORDS[action.verb]
    third, infinitive = words[0] if rng.random() < usual else words[rng.integers(len(words))]
    noun = _noun_word(action.noun, rng, usual=0.85)
    colour = f"{action.colour} " if rng.random() < 0.45 else ""
    article = str(rng.choice(["the", "the", "the", "a"]))
    phrase = f"{article} {colour}{noun}"
    if action.verb == "pour":
        phrase = f"{action.take.liquid} into {phrase}"
    elif rng.random() < 0.35:
        phrase += f" {rng.choice(EGO4D_ENDINGS[action.verb])}"
    if rng.random() < 0.35:
        start = rng.choice(["starts to", "begins to", "continues to", "tries to"])
        return f"#C C {start} {infinitive} {phrase}"
    return f"#C C {third} {phrase}"


def ego4d_pass(script: Script, rng: np.random.Generator, *, usual: float) -> list[PointNarration]:
    """All that one annotator writes about a video, in the order of time.

    He misses an action here and there, is some tenths of a second off, now and then mistakes one object
    or colour for another, writes #unsure, or narrates other people and nothing in particular.
    """
    narrations = []
    for action in script.actions:
        chance = rng.random()
        if chance < 0.06:
            continue
        time_s = action.middle_s + rng.normal(0, 0.1)
        text = ego4d_narration(_mistaken(action, rng) if chance < 0.10 else action, rng, usual=usual)
        if 0.10 <= chance < 0.13:
            text = f"#C C {EGO4D_WORDS[action.verb][0][0]} the #unsure"
        narrations.append((time_s, text))
    asides = [*OTHERS, "#C C looks around"]
    count = int(rng.integers(0, 3))
    narrations += [(rng.uniform(0, script.duration_s), str(rng.choice(asides))) for _ in range(count)]
    last = script.duration_s - 0.01
    return [
        PointNarration(round(min(max(time_s, 0.0), last), 5), text) for time_s, text in sorted(narrations)
    ]


def _mistaken(action: Action, rng: np.random.Generator) -> Action:
    """The same action with another object in place of the right one."""
    noun = str(rng.choice(GOES_WITH[action.verb]))
    return replace(action, noun=noun, colour=str(rng.choice(COLOURS[noun])))
