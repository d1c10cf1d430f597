"""Frames of a script: the worktop under a swaying camera, and the sprites of each moment pasted on it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from avion_core.sources.toy_kitchen import sprites
from avion_core.sources.toy_kitchen.actions import (
    CHOREOGRAPHY,
    HAND_SIDE,
    OBJECT_SIDE,
    TOOL_SIDE,
    Placement,
    smooth,
)
from avion_core.sources.toy_kitchen.script import FPS, Action, Script, generator
from avion_core.sources.toy_kitchen.vocabulary import LIDDED

TURN_STEP = 4
"""Degrees between the turned copies of a sprite that are kept."""
STRIP_FRAMES = 3
"""Length of the repeating worktop in frame widths."""
STATION = 1.7
"""Distance of two stations in frame widths."""
BASIN_SIDE = 0.85
MARGIN = 0.06
"""Worktop beyond the frame's upper and lower edge, for the camera to sway over; share of the height."""


@dataclass(frozen=True)
class Cutout:
    """A sprite ready to paste: colours, mask, and where its upper left corner lies from its centre."""

    colours: Image.Image
    mask: Image.Image
    left: int
    top: int


class Painter:
    """Draws the frames of one script. `unit` is the frame's short side in pixels."""

    def __init__(self, script: Script, *, seed: int) -> None:
        self.script = script
        self.width, self.height = script.width, script.height
        self.unit = min(script.width, script.height)
        self._cutouts: dict[tuple[object, ...], Cutout] = {}
        self._margin = math.ceil(self.height * MARGIN)
        strip = sprites.worktop(
            script.style.worktop,
            STRIP_FRAMES * self.width,
            self.height + 2 * self._margin,
            generator(seed, f"worktop {script.name}"),
        )
        self._strip = Image.new("RGB", (strip.width + self.width, strip.height))
        self._strip.paste(strip, (0, 0))
        self._strip.paste(strip.crop((0, 0, self.width, strip.height)), (strip.width, 0))
        self._starts = [action.start_s for action in script.actions]

    def frames(self) -> Iterator[Image.Image]:
        """Every frame in order, RGB, width x height."""
        for number in range(self.script.frames):
            yield self.frame(number)

    def frame(self, number: int) -> Image.Image:
        """One frame, RGB, width x height."""
        time_s = number / FPS
        camera_x, camera_y = self._camera(time_s)
        left = round(camera_x * self.unit) % (self._strip.width - self.width)
        top = self._margin + round(camera_y * self.unit)
        picture = self._strip.crop((left, top, left + self.width, top + self.height))
        for index in self._stations_in_view(time_s):
            action = self.script.actions[index]
            length = action.end_s - action.start_s
            progress = min(1.0, max(0.0, (time_s - action.start_s) / length))
            origin_x = self.width / 2 + (index * self._station - camera_x) * self.unit
            self._paint_station(picture, action, progress, origin_x, self.height / 2 - camera_y * self.unit)
        return picture

    @property
    def _station(self) -> float:
        return STATION * self.width / self.unit

    def _stations_in_view(self, time_s: float) -> list[int]:
        """The station looked at, and while the camera turns also the next."""
        current = max(0, bisect_right(self._starts, time_s) - 1)
        following = current + 1
        if following < len(self._starts) and time_s > self.script.actions[current].end_s:
            return [current, following]
        return [current] if self._starts else []

    def _camera(self, time_s: float) -> tuple[float, float]:
        """Where the camera looks, in units: along the row of stations, plus the sway."""
        stations = self._stations_in_view(time_s)
        along = float(stations[0]) if stations else 0.0
        if len(stations) == 2:
            actions = self.script.actions
            along += smooth(time_s, actions[stations[0]].end_s, actions[stations[1]].start_s)
        waves = [
            size * math.sin(2 * math.pi * hertz * time_s + phase) for hertz, phase, size in self.script.sway
        ]
        half = len(waves) // 2
        return along * self._station + sum(waves[:half]), sum(waves[half:])

    def _paint_station(
        self, picture: Image.Image, action: Action, progress: float, origin_x: float, origin_y: float
    ) -> None:
        for other in action.bystanders:
            key = ("bystander", other.noun, other.colour, other.closed, other.scale)
            self._paste(
                picture, self._cutout(key, 0), origin_x + other.x * self.unit, origin_y + other.y * self.unit
            )
        if action.basin and action.verb != "wash":
            self._paint(
                picture, action, Placement("basin", action.take.x, action.take.y + 0.03), origin_x, origin_y
            )
        for placement in CHOREOGRAPHY[action.verb](action.take, progress):
            self._paint(picture, action, placement, origin_x, origin_y)

    def _paint(
        self, picture: Image.Image, action: Action, placement: Placement, origin_x: float, origin_y: float
    ) -> None:
        x, y = origin_x + placement.x * self.unit, origin_y + placement.y * self.unit
        if -self.unit < x < self.width + self.unit:
            self._paste(picture, self._cutout(self._key(action, placement.sprite), placement.turn), x, y)

    @staticmethod
    def _paste(picture: Image.Image, cutout: Cutout, x: float, y: float) -> None:
        picture.paste(cutout.colours, (round(x) + cutout.left, round(y) + cutout.top), cutout.mask)

    @staticmethod
    def _key(action: Action, sprite: str) -> tuple[object, ...]:
        """Name of a sprite with all that its look depends on."""
        if sprite in ("object", "open", "lid"):
            if sprite == "object" and not (action.closed and action.noun in LIDDED):
                sprite = "open"
            return (sprite, action.noun, action.colour, action.take.scale)
        return (sprite,)

    def _cutout(self, key: tuple[object, ...], turn: float) -> Cutout:
        step = round(turn / TURN_STEP)
        found = self._cutouts.get((*key, step))
        if found is None:
            found = self._cutouts[(*key, step)] = _cut_out(self._draw(key), step * TURN_STEP)
        return found

    def _draw(self, key: tuple[object, ...]) -> Image.Image:
        kind = str(key[0])
        if kind == "bystander":
            _, noun, colour, closed, scale = key
            side = round(OBJECT_SIDE * float(str(scale)) * self.unit)
            return sprites.object_sprite(str(noun), str(colour), side, closed=bool(closed))
        if kind in ("object", "open", "lid"):
            _, noun, colour, scale = key
            side = round(OBJECT_SIDE * float(str(scale)) * self.unit)
            if kind == "lid":
                return sprites.lid_sprite(str(noun), str(colour), side)
            return sprites.object_sprite(str(noun), str(colour), side, closed=kind == "object")
        if kind.startswith(("hand_", "fist_")):
            style = self.script.style
            return sprites.hand_sprite(
                style.skin,
                style.sleeve,
                round(HAND_SIDE * self.unit),
                closed=kind.startswith("fist"),
                left=kind.endswith("left"),
            )
        if kind == "basin":
            return sprites.basin_sprite(round(BASIN_SIDE * self.unit))
        if kind == "cut":
            return sprites.cut_sprite(round(OBJECT_SIDE * self.unit))
        if "_" in kind:
            shape, liquid = kind.split("_")
            share = HAND_SIDE if shape == "tap" else TOOL_SIDE
            return sprites.liquid_sprite(liquid, shape, round(share * self.unit))
        return sprites.tool_sprite(kind, round(TOOL_SIDE * self.unit))


def _cut_out(sprite: Image.Image, degrees: int) -> Cutout:
    turned = sprite.rotate(degrees, resample=Image.Resampling.BILINEAR) if degrees else sprite
    box = turned.getchannel("A").getbbox() or (0, 0, 1, 1)
    cropped = turned.crop(box)
    left, top = box[0] - sprite.width // 2, box[1] - sprite.height // 2
    return Cutout(cropped.convert("RGB"), cropped.getchannel("A"), left, top)
