"""Pictures of the toy kitchen's things: objects, lids, hands, tools, liquids and worktops.

Everything is drawn once per video, several times too large, and scaled down with antialiasing; a frame
is then only pasted together. Lengths are in shares of the frame's short side; a sprite's anchor is the
centre of its square canvas, whose coordinates run from -1 to 1 with y downward.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from avion_core.sources.toy_kitchen.vocabulary import RGB

Colour = tuple[int, int, int]

OVERSAMPLING = 4
OUTLINE = (38, 32, 32)
OUTLINE_WIDTH = 0.022
"""Share of an object's canvas."""
STEEL = (186, 192, 198)
WOOD = (150, 98, 52)
LIQUID: dict[str, Colour] = {"water": (86, 176, 240), "milk": (252, 250, 242)}


def shade(colour: Colour, factor: float) -> Colour:
    """A colour made darker (factor < 1) or lighter."""
    red, green, blue = (max(0, min(255, round(channel * factor))) for channel in colour)
    return red, green, blue


class Pen:
    """Draws on a canvas from -1 to 1; every filled shape gets a dark outline, so it shows on any worktop."""

    def __init__(self, side_px: int, *, unit_px: float | None = None) -> None:
        unit_px = side_px if unit_px is None else unit_px
        self.side = side_px * OVERSAMPLING
        self.image = Image.new("RGBA", (self.side, self.side), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.image)
        self._line = max(2, round(OUTLINE_WIDTH * OVERSAMPLING * unit_px))

    def _at(self, points: Sequence[float]) -> list[float]:
        return [(value + 1) / 2 * (self.side - 1) for value in points]

    def ellipse(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        self._draw.ellipse(self._at((x0, y0, x1, y1)), fill=fill, outline=OUTLINE, width=self._line)

    def ring(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, width: float) -> None:
        """An open ring, such as a mug's handle; `width` in canvas units."""
        thick = round(width * self.side / 2)
        box = self._at((x0, y0, x1, y1))
        self._draw.ellipse(box, outline=OUTLINE, width=thick + 2 * self._line)
        inner = [box[0] + self._line, box[1] + self._line, box[2] - self._line, box[3] - self._line]
        self._draw.ellipse(inner, outline=colour, width=thick)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, radius: float = 0.0) -> None:
        self._draw.rounded_rectangle(
            self._at((x0, y0, x1, y1)),
            radius=radius * self.side / 2,
            fill=fill,
            outline=OUTLINE,
            width=self._line,
        )

    def polygon(self, points: Sequence[float], fill: Colour) -> None:
        corners = self._at(points)
        self._draw.polygon(corners, fill=fill)
        self._draw.line([*corners, *corners[:4]], fill=OUTLINE, width=self._line, joint="curve")

    def stroke(self, points: Sequence[float], colour: Colour, width: float) -> None:
        """A line without outline."""
        self._draw.line(self._at(points), fill=colour, width=round(width * self.side / 2), joint="curve")

    def picture(self, side_px: int) -> Image.Image:
        return self.image.resize((side_px, side_px), Image.Resampling.BOX)


def _mug(pen: Pen, paint: Colour) -> None:
    pen.ring(0.25, -0.4, 0.95, 0.45, paint, 0.16)
    pen.box(-0.6, -0.55, 0.5, 0.75, paint, 0.15)
    pen.ellipse(-0.6, -0.75, 0.5, -0.3, shade(paint, 0.55))


def _bowl(pen: Pen, paint: Colour) -> None:
    pen.polygon((-0.95, -0.1, 0.95, -0.1, 0.75, 0.4, 0.4, 0.75, -0.4, 0.75, -0.75, 0.4), paint)
    pen.ellipse(-0.95, -0.45, 0.95, 0.25, paint)
    pen.ellipse(-0.78, -0.34, 0.78, 0.16, shade(paint, 0.55))


def _plate(pen: Pen, paint: Colour) -> None:
    pen.ellipse(-0.98, -0.6, 0.98, 0.6, paint)
    pen.ellipse(-0.6, -0.36, 0.6, 0.36, shade(paint, 1.25))


def _pan(pen: Pen, paint: Colour) -> None:
    pen.box(0.3, -0.12, 1.0, 0.14, (50, 46, 46), 0.1)
    pen.ellipse(-0.95, -0.6, 0.5, 0.65, paint)
    pen.ellipse(-0.78, -0.46, 0.33, 0.48, (66, 64, 68))


def _pot(pen: Pen, paint: Colour) -> None:
    pen.box(-0.98, -0.2, -0.6, 0.1, (50, 46, 46), 0.1)
    pen.box(0.6, -0.2, 0.98, 0.1, (50, 46, 46), 0.1)
    pen.box(-0.75, -0.35, 0.75, 0.8, paint, 0.12)
    pen.ellipse(-0.75, -0.6, 0.75, -0.1, (66, 64, 68))


def _bottle(pen: Pen, paint: Colour) -> None:
    pen.polygon((-0.15, -0.6, 0.15, -0.6, 0.15, -0.4, 0.42, -0.05, -0.42, -0.05, -0.15, -0.4), paint)
    pen.box(-0.42, -0.12, 0.42, 0.98, paint, 0.12)
    pen.box(-0.42, 0.25, 0.42, 0.65, (246, 240, 220))


def _jar(pen: Pen, paint: Colour) -> None:
    pen.box(-0.62, -0.4, 0.62, 0.85, (206, 226, 230), 0.22)
    pen.box(-0.56, 0.02, 0.56, 0.79, paint, 0.2)
    pen.ellipse(-0.55, -0.55, 0.55, -0.2, (84, 84, 84))


def _box(pen: Pen, paint: Colour) -> None:
    pen.polygon((-0.85, -0.35, 0.6, -0.35, 0.6, 0.8, -0.85, 0.8), paint)
    pen.polygon((0.6, -0.35, 0.95, -0.6, 0.95, 0.5, 0.6, 0.8), shade(paint, 0.7))
    pen.polygon((-0.85, -0.35, -0.5, -0.6, 0.95, -0.6, 0.6, -0.35), (60, 50, 44))
    pen.stroke((-0.85, 0.22, 0.6, 0.22), (246, 240, 220), 0.2)


def _carrot(pen: Pen, paint: Colour) -> None:
    for end in (-0.45, -0.2, 0.05):
        pen.stroke((0.45, -0.05, 0.95, end), (46, 140, 50), 0.16)
    pen.polygon((-0.98, 0.3, 0.4, -0.32, 0.6, -0.1, 0.55, 0.18, -0.9, 0.4), paint)


def _tomato(pen: Pen, paint: Colour) -> None:
    pen.ellipse(-0.7, -0.6, 0.7, 0.75, paint)
    pen.polygon(
        (0, -0.75, 0.12, -0.5, 0.45, -0.5, 0.12, -0.32, 0, -0.1, -0.12, -0.32, -0.45, -0.5, -0.12, -0.5),
        (40, 120, 44),
    )


def _bread(pen: Pen, paint: Colour) -> None:
    pen.box(-0.98, -0.42, 0.98, 0.5, paint, 0.42)
    for x in (-0.5, 0.0, 0.5):
        pen.stroke((x - 0.1, -0.25, x + 0.1, 0.1), shade(paint, 1.5), 0.13)


def _cheese(pen: Pen, paint: Colour) -> None:
    pen.polygon((-0.9, 0.15, 0.85, -0.55, 0.85, 0.1, -0.9, 0.15), shade(paint, 1.15))
    pen.polygon((-0.9, 0.15, 0.85, 0.1, 0.85, 0.65, -0.9, 0.65), paint)
    for x, y in ((-0.4, 0.36), (0.15, 0.3), (0.5, 0.42)):
        pen.ellipse(x - 0.12, y - 0.1, x + 0.12, y + 0.12, shade(paint, 0.7))


DRAWN: dict[str, Callable[[Pen, Colour], None]] = {
    "mug": _mug,
    "bowl": _bowl,
    "plate": _plate,
    "pan": _pan,
    "pot": _pot,
    "bottle": _bottle,
    "jar": _jar,
    "box": _box,
    "carrot": _carrot,
    "tomato": _tomato,
    "bread": _bread,
    "cheese": _cheese,
}
"""How each object looks, open if it has a lid."""


def _lid_pan(pen: Pen, paint: Colour) -> None:
    pen.ellipse(-0.88, -0.55, 0.43, 0.58, shade(paint, 0.85))
    pen.ellipse(-0.35, -0.12, -0.1, 0.12, OUTLINE)


def _lid_pot(pen: Pen, paint: Colour) -> None:
    pen.ellipse(-0.8, -0.65, 0.8, -0.08, shade(paint, 0.85))
    pen.box(-0.15, -0.72, 0.15, -0.5, OUTLINE, 0.08)


def _lid_bottle(pen: Pen, paint: Colour) -> None:
    pen.box(-0.24, -0.98, 0.24, -0.52, shade(paint, 0.6), 0.06)


def _lid_jar(pen: Pen, paint: Colour) -> None:
    pen.box(-0.66, -0.75, 0.66, -0.25, shade(paint, 0.75), 0.1)


def _lid_box(pen: Pen, paint: Colour) -> None:
    pen.polygon((-0.85, -0.35, -0.5, -0.62, 0.95, -0.62, 0.6, -0.35), shade(paint, 1.15))
    pen.box(-0.88, -0.42, 0.62, -0.2, shade(paint, 1.1))


LIDS: dict[str, Callable[[Pen, Colour], None]] = {
    "pan": _lid_pan,
    "pot": _lid_pot,
    "bottle": _lid_bottle,
    "jar": _lid_jar,
    "box": _lid_box,
}
"""Lids, on the same canvas as their object, where they lie when it is closed."""

LID_CENTRE: dict[str, tuple[float, float]] = {
    "pan": (-0.22, 0.0),
    "pot": (0.0, -0.55),
    "bottle": (0.0, -0.75),
    "jar": (0.0, -0.5),
    "box": (0.0, -0.45),
}
"""Where a hand grips each lid, in canvas units."""


@functools.lru_cache(maxsize=512)
def object_sprite(noun: str, colour: str, side_px: int, *, closed: bool) -> Image.Image:
    """An object, with its lid on if `closed` (and if it has one)."""
    pen = Pen(side_px)
    DRAWN[noun](pen, RGB[colour])
    if closed and noun in LIDS:
        LIDS[noun](pen, RGB[colour])
    return pen.picture(side_px)


@functools.lru_cache(maxsize=128)
def lid_sprite(noun: str, colour: str, side_px: int) -> Image.Image:
    """A lid alone."""
    pen = Pen(side_px)
    LIDS[noun](pen, RGB[colour])
    return pen.picture(side_px)


@functools.lru_cache(maxsize=64)
def hand_sprite(skin: Colour, sleeve: Colour, side_px: int, *, closed: bool, left: bool) -> Image.Image:
    """A hand that reaches up from below; the grip is at the canvas centre, the forearm ends at its edge."""
    pen = Pen(side_px, unit_px=side_px / 5)
    reach = -0.03 if closed else -0.12
    pen.polygon((-0.06, 0.09, 0.06, 0.09, 0.11, 1.0, -0.11, 1.0), skin)
    pen.polygon((-0.09, 0.32, 0.09, 0.32, 0.15, 1.0, -0.15, 1.0), sleeve)
    pen.box(-0.085, -0.02, 0.085, 0.155, skin, 0.06)
    for index in range(4):
        x = -0.085 + index * 0.0425
        pen.box(x, reach, x + 0.0425, 0.06, skin, 0.02)
    pen.polygon((0.07, 0.13, 0.12, 0.01, 0.085, reach / 2 - 0.01, 0.05, 0.05), shade(skin, 0.93))
    picture = pen.picture(side_px)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if left else picture


@functools.lru_cache(maxsize=64)
def tool_sprite(name: str, side_px: int) -> Image.Image:
    """A knife, a spoon or a jug; its tip (for the jug: its spout) is at the canvas centre."""
    pen = Pen(side_px)
    if name == "knife":
        pen.polygon((-0.04, 0.04, 0.5, -0.4, 0.62, -0.1, 0.1, 0.16), STEEL)
        pen.polygon((0.55, -0.32, 0.9, -0.5, 0.97, -0.34, 0.62, -0.14), (40, 36, 36))
    elif name == "spoon":
        pen.stroke((0.05, -0.05, 0.6, -0.85), OUTLINE, 0.16)
        pen.stroke((0.05, -0.05, 0.6, -0.85), WOOD, 0.1)
        pen.ellipse(-0.16, -0.14, 0.16, 0.18, WOOD)
    else:
        pen.ring(0.6, 0.05, 0.98, 0.65, STEEL, 0.08)
        pen.polygon((0, 0, 0.15, -0.04, 0.78, -0.04, 0.78, 0.75, 0.15, 0.75, 0.12, 0.15), STEEL)
    return pen.picture(side_px)


@functools.lru_cache(maxsize=64)
def liquid_sprite(name: str, kind: str, side_px: int) -> Image.Image:
    """A `stream` as broad as poured liquid, a `tap` stream, a `splash`, or the `fill` of a container."""
    pen = Pen(side_px)
    paint = LIQUID[name]
    if kind == "stream":
        pen.box(-0.09, 0.0, 0.09, 0.6, paint, 0.05)
    elif kind == "tap":
        pen.box(-0.09, -1.0, 0.09, 0.0, paint)
        pen.stroke((-0.03, -1.0, -0.03, 0.0), shade(paint, 1.3), 0.04)
    elif kind == "fill":
        pen.ellipse(-0.36, -0.16, 0.36, 0.16, paint)
    else:
        for x, y in ((-0.5, -0.1), (-0.28, -0.35), (0.26, -0.36), (0.5, -0.08), (-0.4, 0.2), (0.42, 0.22)):
            pen.ellipse(x - 0.1, y - 0.1, x + 0.1, y + 0.1, paint)
    picture = pen.picture(side_px)
    if name == "water":
        picture.putalpha(picture.getchannel("A").point(lambda value: value * 205 // 255))
    return picture


@functools.lru_cache(maxsize=16)
def cut_sprite(side_px: int) -> Image.Image:
    """The gap that a knife leaves."""
    pen = Pen(side_px)
    pen.stroke((0.06, -0.5, -0.06, 0.55), OUTLINE, 0.1)
    return pen.picture(side_px)


@functools.lru_cache(maxsize=16)
def basin_sprite(side_px: int) -> Image.Image:
    """A sink let into the worktop."""
    pen = Pen(side_px)
    pen.box(-0.9, -0.75, 0.9, 0.75, (128, 138, 146), 0.2)
    pen.box(-0.8, -0.65, 0.8, 0.65, (96, 106, 114), 0.18)
    return pen.picture(side_px)


WORKTOPS: dict[str, Colour] = {
    "oak": (188, 148, 100),
    "walnut": (112, 78, 54),
    "granite": (122, 124, 130),
    "slate": (74, 82, 90),
    "marble": (214, 210, 204),
    "tiles": (176, 194, 190),
}
"""Base colours of the worktops."""


def worktop(name: str, width_px: int, height_px: int, rng: np.random.Generator) -> Image.Image:
    """A textured strip that repeats without a seam to the right; rows near its top are the wall."""
    base = np.asarray(WORKTOPS[name], dtype=np.float32)
    grain = rng.normal(0, 1, (height_px, width_px // 4)).astype(np.float32)
    if name in ("oak", "walnut"):
        lines = np.cumsum(rng.normal(0, 1, height_px)).astype(np.float32)
        lines = (lines - lines.mean()) / (np.abs(lines).max() + 1e-6) * 22
        texture = np.repeat(grain * 3, 4, axis=1)[:, :width_px] + lines[:, None]
    elif name == "tiles":
        texture = np.repeat(grain * 2, 4, axis=1)[:, :width_px]
        step = max(8, height_px // 4)
        texture[::step] -= 40
        texture[:, ::step] -= 40
    else:
        coarse = Image.fromarray(grain).resize((width_px, height_px), Image.Resampling.BICUBIC)
        texture = np.asarray(coarse) * 9
    texture = np.pad(texture, ((0, 0), (0, width_px - texture.shape[1])), mode="wrap")
    strip = base + texture[..., None]
    wall = round(height_px * 0.14)
    strip[:wall] = strip[:wall] * 0.35 + np.asarray([150, 150, 156], dtype=np.float32)
    strip[wall : wall + max(2, height_px // 60)] *= 0.5
    picture = Image.fromarray(np.clip(strip, 0, 255).astype(np.uint8))
    return picture.filter(ImageFilter.GaussianBlur(0.7))
