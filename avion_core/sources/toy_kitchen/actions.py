"""How each verb unfolds in time: where object, lid, hands and tools are at every moment of an action.

Pure geometry. An action is a function of its progress from 0 to 1 and of its `Take`, the particulars of
this one performance. `put` is `take` backwards and `close` is `open` backwards, so no single frame tells
them apart; what comes before what does. Lengths are in shares of the frame's short side, y downward.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from avion_core.sources.toy_kitchen.sprites import LID_CENTRE

OBJECT_SIDE = 0.56
"""Side of an object's canvas."""
HAND_SIDE = 1.9
"""Side of a hand's canvas: mostly forearm, long enough to leave the frame."""
TOOL_SIDE = 0.8
"""Side of a tool's or stream's canvas."""


@dataclass(frozen=True)
class Placement:
    """One sprite in a frame: what, where its centre is, and its turn in degrees (anticlockwise)."""

    sprite: str
    x: float
    y: float
    turn: float = 0.0


@dataclass(frozen=True)
class Take:
    """The particulars of one performance."""

    noun: str
    """Object acted on."""
    x: float
    y: float
    """Where it stands."""
    side: int
    """1 if the right hand acts, -1 for the left."""
    scale: float = 1.0
    """Size of the object relative to OBJECT_SIDE."""
    liquid: str = "water"
    """What is poured."""
    repeats: float = 3.0
    """Strokes, circles or swings."""

    def on_object(self, x: float, y: float) -> tuple[float, float]:
        """A point given in the object's canvas units, in the frame."""
        half = OBJECT_SIDE * self.scale / 2
        return self.x + x * half, self.y + y * half


def smooth(progress: float, start: float, end: float) -> float:
    """0 before `start`, 1 after `end`, with a soft step between."""
    u = min(1.0, max(0.0, (progress - start) / (end - start)))
    return u * u * (3 - 2 * u)


def _hand(take: Take, x: float, y: float, *, closed: bool, side: int | None = None) -> Placement:
    """A hand gripping at (x, y), its forearm leaning out to its side."""
    side = side or take.side
    name = ("fist" if closed else "hand") + ("_right" if side > 0 else "_left")
    return Placement(name, x, y, turn=22.0 * side)


def _take(take: Take, progress: float) -> list[Placement]:
    reach, leave = 1 - smooth(progress, 0.0, 0.38), smooth(progress, 0.46, 1.0)
    away = max(reach, leave)
    grip_x, grip_y = take.on_object(0.35 * take.side, 0.45)
    hand_x, hand_y = grip_x + 0.3 * take.side * away, grip_y + 0.75 * away
    shift_x, shift_y = (hand_x - grip_x, hand_y - grip_y) if leave > 0 else (0.0, 0.0)
    body = Placement("object", take.x + shift_x, take.y + shift_y)
    return [body, _hand(take, hand_x, hand_y, closed=leave > 0)]


def _put(take: Take, progress: float) -> list[Placement]:
    return _take(take, 1 - progress)


def _open(take: Take, progress: float) -> list[Placement]:
    reach, lift = 1 - smooth(progress, 0.0, 0.32), smooth(progress, 0.4, 0.85)
    shift_x, shift_y = 0.3 * take.side * lift, -0.26 * math.sin(lift * math.pi * 0.62)
    grip_x, grip_y = take.on_object(*LID_CENTRE[take.noun])
    hand_x = grip_x + shift_x + 0.45 * take.side * reach
    hand_y = grip_y + shift_y + 0.6 * reach
    lid = Placement("lid", take.x + shift_x, take.y + shift_y, turn=-25 * take.side * lift)
    return [Placement("open", take.x, take.y), lid, _hand(take, hand_x, hand_y, closed=reach < 0.05)]


def _close(take: Take, progress: float) -> list[Placement]:
    return _open(take, 1 - progress)


def _cut(take: Take, progress: float) -> list[Placement]:
    enter = max(1 - smooth(progress, 0, 0.12), smooth(progress, 0.9, 1))
    along = 0.6 - 1.2 * smooth(progress, 0.1, 0.92)
    stroke = abs(math.sin(math.pi * take.repeats * 1.5 * progress))
    tip_x, tip_y = take.on_object(along, 0.15)
    tip_x, tip_y = tip_x + 0.5 * enter, tip_y - 0.16 * stroke - 0.1 * enter
    marks = [
        Placement("cut", *take.on_object(0.5 - 0.25 * index, 0.05))
        for index in range(5)
        if 0.5 - 0.25 * index > along
    ]
    hold_x, hold_y = take.on_object(-0.75, 0.4)
    holding = _hand(take, hold_x, hold_y, closed=True, side=-1)
    knife = Placement("knife", tip_x, tip_y)
    return [
        Placement("object", take.x, take.y),
        *marks,
        holding,
        knife,
        _hand(take, tip_x + 0.29, tip_y - 0.15, closed=True, side=1),
    ]


def _pour(take: Take, progress: float) -> list[Placement]:
    enter = max(1 - smooth(progress, 0, 0.22), smooth(progress, 0.86, 1.0))
    tilt = smooth(progress, 0.12, 0.3) * (1 - smooth(progress, 0.78, 0.9))
    top_x, top_y = take.on_object(-0.22 if take.noun == "pan" else 0.0, -0.3 if take.noun != "pan" else 0.0)
    bob = 0.02 * math.sin(2 * math.pi * take.repeats * progress)
    spout_x, spout_y = top_x + 0.55 * enter + bob, top_y - 0.2 - 0.1 * enter + bob
    placements = [Placement("open", take.x, take.y)]
    if progress > 0.45:
        placements.append(Placement(f"fill_{take.liquid}", top_x, top_y))
    if tilt > 0.8:
        placements.append(Placement(f"stream_{take.liquid}", spout_x, spout_y))
    placements.append(Placement("jug", spout_x, spout_y, turn=75 * tilt - 10))
    lift = math.radians(75 * tilt - 10)
    grip_x, grip_y = (
        0.3 * math.cos(lift) + 0.13 * math.sin(lift),
        0.13 * math.cos(lift) - 0.3 * math.sin(lift),
    )
    return [*placements, _hand(take, spout_x + grip_x, spout_y + grip_y, closed=True, side=1)]


def _stir(take: Take, progress: float) -> list[Placement]:
    enter = max(1 - smooth(progress, 0, 0.12), smooth(progress, 0.9, 1))
    angle = 2 * math.pi * take.repeats * progress
    top_x, top_y = take.on_object(-0.22 if take.noun == "pan" else 0.0, -0.2 if take.noun != "pan" else 0.0)
    tip_x = top_x + 0.15 * math.cos(angle) + 0.3 * enter
    tip_y = top_y + 0.07 * math.sin(angle) - 0.2 * enter
    spoon = Placement("spoon", tip_x, tip_y, turn=8 * math.cos(angle))
    return [
        Placement("open", take.x, take.y),
        spoon,
        _hand(take, tip_x + 0.19, tip_y - 0.26, closed=True, side=1),
    ]


def _wash(take: Take, progress: float) -> list[Placement]:
    swing = math.sin(2 * math.pi * take.repeats * progress)
    running = 0.06 < progress < 0.94
    left_x, left_y = take.on_object(-0.85 + 0.25 * swing, 0.6)
    right_x, right_y = take.on_object(0.7 + 0.3 * swing, 0.45 - 0.3 * swing)
    body_x = take.x + 0.03 * swing
    placements = [
        Placement("basin", take.x, take.y + 0.03),
        Placement("open", body_x, take.y, turn=6 * swing),
    ]
    if running:
        placements.append(Placement("tap_water", take.x, take.y - 0.02))
        placements.append(Placement("splash_water", take.x, take.y, turn=90.0 * (int(progress * 24) % 2)))
    hands = [
        _hand(take, left_x, left_y, closed=True, side=-1),
        _hand(take, right_x, right_y, closed=False, side=1),
    ]
    return placements + hands


def _shake(take: Take, progress: float) -> list[Placement]:
    held = smooth(progress, 0.0, 0.2) * (1 - smooth(progress, 0.85, 1.0))
    swing = math.sin(2 * math.pi * take.repeats * 1.3 * progress) * held
    x, y = take.x + 0.06 * swing, take.y - 0.1 * held + 0.15 * swing
    half = OBJECT_SIDE * take.scale / 2
    away = 1 - held
    hand = _hand(take, x + (0.3 * half + 0.3 * away) * take.side, y + 0.35 * half + 0.4 * away, closed=True)
    return [Placement("object", x, y, turn=36 * swing), hand]


def _move(take: Take, progress: float) -> list[Placement]:
    reach = max(1 - smooth(progress, 0, 0.12), smooth(progress, 0.9, 1))
    shift = 0.34 * take.side * (1 - 2 * smooth(progress, 0.1, 0.9))
    half = OBJECT_SIDE * take.scale / 2
    hands = [
        _hand(
            take,
            take.x + shift + side * (0.8 * half + 0.2 * reach),
            take.y + 0.3 * half + 0.5 * reach,
            closed=False,
            side=side,
        )
        for side in (-1, 1)
    ]
    return [Placement("object", take.x + shift, take.y), *hands]


CHOREOGRAPHY: dict[str, Callable[[Take, float], list[Placement]]] = {
    "take": _take,
    "put": _put,
    "open": _open,
    "close": _close,
    "cut": _cut,
    "pour": _pour,
    "stir": _stir,
    "wash": _wash,
    "shake": _shake,
    "move": _move,
}
"""What is in the picture, back to front, at each progress of each verb."""
