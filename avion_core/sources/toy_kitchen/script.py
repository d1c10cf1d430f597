"""Who does what, when and where in a toy kitchen video: decided before a single pixel is drawn.

A video is a row of stations along a worktop. At each the camera wearer does one thing, then looks on to
the next. Everything follows from a generator seeded with (seed, name of the video), so videos can be
made in any order, and the same seed gives the same script.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avion_core.sources.toy_kitchen.actions import Take
from avion_core.sources.toy_kitchen.sprites import WORKTOPS, Colour
from avion_core.sources.toy_kitchen.vocabulary import COLOURS, GOES_WITH, LIQUIDS, OBJECTS, VERBS

FPS = 30

SKINS: tuple[Colour, ...] = ((236, 190, 160), (206, 150, 112), (150, 100, 70), (112, 74, 54))
SLEEVES: tuple[Colour, ...] = ((60, 70, 110), (150, 60, 70), (80, 110, 80), (90, 90, 96), (196, 180, 150))


@dataclass(frozen=True)
class Style:
    """What stays the same over one person's videos."""

    worktop: str
    skin: Colour
    sleeve: Colour


@dataclass(frozen=True)
class Bystander:
    """An object that nothing is done to."""

    noun: str
    colour: str
    closed: bool
    x: float
    y: float
    scale: float


@dataclass(frozen=True)
class Action:
    """One thing done at one station."""

    verb: str
    noun: str
    colour: str
    start_s: float
    end_s: float
    take: Take
    closed: bool
    """Whether the object has its lid on, where the verb leaves that open."""
    basin: bool
    bystanders: tuple[Bystander, ...]

    @property
    def middle_s(self) -> float:
        """The moment an annotator would mark."""
        return (self.start_s + self.end_s) / 2

    @property
    def nouns(self) -> tuple[str, ...]:
        """What the sentence is about, the direct object first."""
        return (self.take.liquid, self.noun) if self.verb == "pour" else (self.noun,)


@dataclass(frozen=True)
class Script:
    """One video before it is rendered."""

    name: str
    """Path of the video within its data set, without suffix; seeds everything."""
    width: int
    height: int
    frames: int
    style: Style
    actions: tuple[Action, ...]
    sway: tuple[tuple[float, float, float], ...]
    """Camera sway: (hertz, phase, amplitude) of the waves in x, then of as many in y."""

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.frames / FPS


def generator(seed: int, name: str) -> np.random.Generator:
    """The generator of everything that concerns one name."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def frame_size(short_side_px: int, index: int) -> tuple[int, int]:
    """Width and height of the `index`-th video of a set: several sizes, every sixth one odd."""
    if index % 6 == 4:
        return (short_side_px * 4 // 3 - 1) | 1, short_side_px + 1
    if index % 3 == 1:
        short_side_px = round(short_side_px * 10 / 9 / 2) * 2
        return round(short_side_px * 1.35 / 2) * 2, short_side_px
    return round(short_side_px * 4 / 3 / 2) * 2, short_side_px


def person_style(seed: int, person: str) -> Style:
    """Worktop, skin and sleeves of a person."""
    rng = generator(seed, f"person {person}")
    return Style(
        worktop=str(rng.choice(list(WORKTOPS))),
        skin=SKINS[rng.integers(len(SKINS))],
        sleeve=SLEEVES[rng.integers(len(SLEEVES))],
    )


def write_script(
    name: str,
    *,
    seed: int,
    size: tuple[int, int],
    duration_s: float,
    style: Style,
    verbs: Sequence[str] = tuple(VERBS),
) -> Script:
    """The script of one video.

    Every verb of `verbs` comes about equally often, and so does every noun, as far as they go together.
    """
    rng = generator(seed, name)
    tempo = rng.uniform(0.85, 1.25)
    actions: list[Action] = []
    used: Counter[str] = Counter()
    deck: list[str] = []
    now = rng.uniform(0.1, 0.4)
    while True:
        length = tempo * rng.uniform(1.45, 1.9)
        if now + length > duration_s - 0.05:
            break
        if not deck:
            deck = [str(verb) for verb in rng.permutation(list(verbs))]
        actions.append(_action(deck.pop(), now, now + length, used=used, rng=rng))
        now += length + tempo * rng.uniform(0.3, 0.45)
    sway = [(rng.uniform(0.15, 0.8), rng.uniform(0, 2 * np.pi), rng.uniform(0.004, 0.014)) for _ in range(6)]
    return Script(name, *size, round(duration_s * FPS), style, tuple(actions), tuple(sway))


def _action(
    verb: str, start_s: float, end_s: float, *, used: Counter[str], rng: np.random.Generator
) -> Action:
    choices = GOES_WITH[verb]
    fewest = min(used[noun] for noun in choices)
    noun = str(rng.choice([choice for choice in choices if used[choice] == fewest]))
    used[noun] += 1
    take = Take(
        noun=noun,
        x=rng.uniform(-0.06, 0.06),
        y=rng.uniform(-0.02, 0.1),
        side=int(rng.choice([1, 1, -1])),
        scale=float(rng.choice([0.92, 1.0, 1.1])),
        liquid=str(rng.choice(LIQUIDS)),
        repeats=rng.uniform(2.5, 3.5),
    )
    return Action(
        verb=verb,
        noun=noun,
        colour=str(rng.choice(COLOURS[noun])),
        start_s=round(start_s, 3),
        end_s=round(end_s, 3),
        take=take,
        closed=bool(rng.random() < 0.6),
        basin=bool(rng.random() < 0.15),
        bystanders=_bystanders(noun, rng),
    )


def _bystanders(noun: str, rng: np.random.Generator) -> tuple[Bystander, ...]:
    places = [(-0.65, -0.22), (0.65, -0.22), (-0.66, 0.2), (0.66, 0.2)]
    count = int(rng.integers(1, 4))
    others = [other for other in OBJECTS if other != noun]
    return tuple(
        Bystander(
            noun=(chosen := str(rng.choice(others))),
            colour=str(rng.choice(COLOURS[chosen])),
            closed=bool(rng.random() < 0.7),
            x=places[place][0] + rng.uniform(-0.05, 0.05),
            y=places[place][1] + rng.uniform(-0.05, 0.05),
            scale=float(rng.choice([0.55, 0.65])),
        )
        for place in rng.permutation(len(places))[:count]
    )
