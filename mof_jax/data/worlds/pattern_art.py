"""How the nine patterns are drawn: one function a pattern, which paints the same scene for either of two facts.

Everything that is not the fact (places, sizes, colours, who drew what) comes from the scene's own stream of draws, in an
order that does not depend on the fact: two pictures of a scene differ in the fact alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import colorsys
import dataclasses
import functools

from PIL import Image, ImageDraw, ImageFont

from mof_jax.data.keyed import Draws
from mof_jax.data.worlds.scenes import sprite

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (208, 48, 48), "yellow": (238, 208, 60), "green": (62, 150, 76), "blue": (58, 104, 206), "purple": (136, 74, 178),
    "white": (246, 246, 246),
}
SIDES = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}
NUMBERS = ("two", "three", "four", "five")
_EDGE: Colour = (40, 40, 40)
_OVER = 3  # supersampling: edges are as soft as the sprites'


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """How hard the pictures are to read.

    Attributes:
      size: of the thing that carries the fact, as a share of the picture's side (low, high).
      jitter: shift of everything at random, likewise.
      clutter: specks that mean nothing, at most.
      hue: how far a named ground strays from its colour, in turns of the colour circle.
    """

    size: tuple[float, float] = (0.46, 0.6)
    jitter: float = 0.06
    clutter: int = 4
    hue: float = 0.03

    def __post_init__(self):
        if not 0 < self.size[0] <= self.size[1] <= 1:
            raise ValueError(f"size {self.size}: two shares of the picture's side, the lower one first")
        if self.clutter < 0 or self.jitter < 0 or self.hue < 0:
            raise ValueError("jitter, clutter and hue must not be negative")


@dataclasses.dataclass(frozen=True)
class Brush:
    """A canvas, the draws that decide what does not matter, and whose sprites are used."""

    canvas: Image.Image
    draws: Draws
    artist: Callable[[str], str]
    difficulty: Difficulty

    @property
    def pixels(self) -> int:
        return self.canvas.width

    def size(self) -> float:
        return self.draws.uniform(*self.difficulty.size)

    def near(self, x: float, y: float) -> tuple[float, float]:
        """A place not far from (x, y)."""
        j = self.difficulty.jitter
        return x + self.draws.uniform(-j, j), y + self.draws.uniform(-j, j)

    def colour(self, *, light: bool | None = None) -> Colour:
        """Some colour; a light or a dark one if asked for."""
        value = self.draws.uniform(0.82, 1.0) if light else self.draws.uniform(0.25, 0.5)
        value = value if light is not None else self.draws.uniform(0.4, 0.95)
        return _rgb(self.draws.uniform(), self.draws.uniform(0.35, 0.9), value)

    def sprite(self, label: str, x: float, y: float, side: float, mirrored: bool = False) -> None:
        """Pastes a sprite with its centre at (x, y), sides as shares of the canvas."""
        pixels = max(1, round(side * self.pixels))
        image = _sized(label, self.artist(label), pixels, mirrored)
        self.canvas.paste(image, (round(x * self.pixels - pixels / 2), round(y * self.pixels - pixels / 2)), image)

    def shape(self, x: float, y: float, side: float, paint: Callable[[Pen], None]) -> None:
        """Vector art in a square of its own with its centre at (x, y)."""
        pixels = max(1, round(side * self.pixels))
        square = Image.new("RGBA", (pixels * _OVER, pixels * _OVER), (0, 0, 0, 0))
        paint(Pen(ImageDraw.Draw(square), pixels * _OVER))
        square = square.resize((pixels, pixels), Image.Resampling.BOX)
        self.canvas.paste(square, (round(x * self.pixels - pixels / 2), round(y * self.pixels - pixels / 2)), square)


@dataclasses.dataclass(frozen=True)
class Pen:
    """Shapes in a unit square."""

    pen: ImageDraw.ImageDraw
    side: int

    def _at(self, *values: float) -> list[float]:
        return [v * self.side for v in values]

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Colour | None) -> None:
        self.pen.rectangle(self._at(x0, y0, x1, y1), fill=fill, outline=_EDGE, width=round(0.03 * self.side))

    def disc(self, x0: float, y0: float, x1: float, y1: float, fill: Colour | None, edge: Colour = _EDGE) -> None:
        self.pen.ellipse(self._at(x0, y0, x1, y1), fill=fill, outline=edge, width=round(0.03 * self.side))

    def polygon(self, points: Sequence[tuple[float, float]], fill: Colour | None, width: float = 0.03) -> None:
        self.pen.polygon([tuple(self._at(*p)) for p in points], fill=fill, outline=_EDGE, width=round(width * self.side))

    def line(self, points: Sequence[tuple[float, float]], fill: Colour, width: float) -> None:
        self.pen.line([tuple(self._at(*p)) for p in points], fill=fill, width=max(1, round(width * self.side)))

    def word(self, text: str, size: float, fill: Colour) -> None:
        font = _font(round(size * self.side))
        middle, bold = (self.side / 2, self.side / 2), round(0.012 * self.side)
        self.pen.text(middle, text, font=font, fill=fill, anchor="mm", stroke_width=bold)


@functools.lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


@functools.lru_cache(maxsize=16_384)
def _sized(label: str, artist: str, pixels: int, mirrored: bool) -> Image.Image:
    image = sprite(label, artist).resize((pixels, pixels), Image.Resampling.BILINEAR)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def ground(pixels: int, hue: float, draws: Draws, difficulty: Difficulty) -> Image.Image:
    """A background of about this hue, lighter at one end, with specks on it."""
    hue += draws.uniform(-difficulty.hue, difficulty.hue)
    saturation, value, fall = draws.uniform(0.2, 0.5), draws.uniform(0.72, 0.95), draws.uniform(-0.15, 0.15)
    strip = Image.new("RGB", (1, 2))
    strip.putpixel((0, 0), _rgb(hue, saturation, min(1.0, value + fall)))
    strip.putpixel((0, 1), _rgb(hue, saturation, min(1.0, value - fall)))
    canvas = strip.resize((pixels, pixels), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(canvas)
    for _ in range(draws.below(difficulty.clutter + 1)):
        x, y, r = draws.uniform() * pixels, draws.uniform() * pixels, draws.uniform(0.01, 0.025) * pixels
        pen.ellipse((x - r, y - r, x + r, y + r), fill=_rgb(hue, saturation, value * draws.uniform(0.6, 0.85)))
    return canvas


# One function a pattern: (brush, label of the subject's sprite or kind of shape, label of the companion's sprite, fact)


def orientation(b: Brush, subject: str, companion: str, fact: str) -> None:
    x, y = b.near(0.5, 0.5)
    b.sprite(subject, x, y, b.size() + 0.1, mirrored=fact == "right")


def presence(b: Brush, subject: str, companion: str, fact: str) -> None:
    """The subject, and somewhere around it a small thing, or not; another small one stands there half of the time."""
    asked, _, there = fact.partition(":")
    corners = b.draws.sample([(x, y) for x in (0.17, 0.83) for y in (0.17, 0.83)], 2)
    places = [b.near(*corner) for corner in corners]
    b.sprite(subject, *b.near(0.5, 0.5), b.size())
    side, other = b.draws.uniform(0.26, 0.32), b.draws.below(2)
    if there == "yes":
        b.sprite(asked, *places[0], side)
    if other:
        b.sprite(companion, *places[1], side)


def quantity(b: Brush, subject: str, companion: str, fact: str) -> None:
    """The cells of the smaller number are among those of the larger one."""
    cells = b.draws.sample([(x, y) for x in range(3) for y in range(3)], 5)
    side = b.draws.uniform(0.24, 0.31)
    shifts = [(b.draws.uniform(-0.03, 0.03), b.draws.uniform(-0.03, 0.03)) for _ in cells]
    for (x, y), (dx, dy) in list(zip(cells, shifts))[: NUMBERS.index(fact) + 2]:
        b.sprite(subject, (2 * x + 1) / 6 + dx, (2 * y + 1) / 6 + dy, side)


def position(b: Brush, subject: str, companion: str, fact: str) -> None:
    """The subject beside the companion; for the opposite fact they change places."""
    (dx, dy), side = SIDES[fact], b.draws.uniform(0.36, 0.44)
    across = b.draws.uniform(-0.2, 0.2)
    x, y = 0.5 + (across if dx == 0 else 0), 0.5 + (across if dy == 0 else 0)
    b.sprite(companion, x - 0.24 * dx, y - 0.24 * dy, side)
    b.sprite(subject, x + 0.24 * dx, y + 0.24 * dy, side)


def _beside(b: Brush, companion: str, paint: Callable[[Pen], None], grow: float = 1.0) -> None:
    """Vector art on one side, a small sprite on the other."""
    side, small = b.size() * grow, b.draws.uniform(0.28, 0.36)
    sign = b.draws.choice((-1, 1))
    x, y = b.near(0.5 + 0.16 * sign, 0.52)
    b.sprite(companion, *b.near(0.5 - 0.32 * sign, 0.7), small)
    b.shape(x, y, side, paint)


def state(b: Brush, subject: str, companion: str, fact: str) -> None:
    dark, light, other = b.colour(light=False), b.colour(light=True), b.colour()
    _beside(b, companion, lambda pen: _STATES[subject](pen, fact, dark, light, other))


def _door(pen: Pen, fact: str, dark: Colour, light: Colour, other: Colour) -> None:
    pen.box(0.2, 0.05, 0.8, 0.95, (25, 25, 25) if fact == "open" else other)
    if fact == "open":  # the leaf stands ajar
        pen.polygon([(0.2, 0.05), (0.5, 0.16), (0.5, 0.98), (0.2, 0.95)], other)
        pen.disc(0.4, 0.5, 0.47, 0.58, light)
    else:
        pen.disc(0.64, 0.5, 0.74, 0.6, light)


def _lamp(pen: Pen, fact: str, dark: Colour, light: Colour, other: Colour) -> None:
    pen.box(0.46, 0.5, 0.54, 0.9, dark)
    pen.box(0.28, 0.87, 0.72, 0.96, dark)
    pen.polygon([(0.34, 0.1), (0.66, 0.1), (0.84, 0.52), (0.16, 0.52)], (255, 236, 120) if fact == "on" else dark)
    if fact == "on":
        for x in (0.22, 0.5, 0.78):
            pen.line([(x, 0.57), (x + (x - 0.5) * 0.3, 0.7)], (255, 236, 120), 0.05)


def _cup(pen: Pen, fact: str, dark: Colour, light: Colour, other: Colour) -> None:
    glass = [(0.2, 0.1), (0.8, 0.1), (0.7, 0.95), (0.3, 0.95)]
    pen.polygon(glass, (235, 245, 250))
    if fact == "full":
        pen.polygon([(0.23, 0.27), (0.77, 0.27), (0.7, 0.93), (0.3, 0.93)], other)
    pen.polygon(glass, None, width=0.05)


def _flag(pen: Pen, fact: str, dark: Colour, light: Colour, other: Colour) -> None:
    pen.line([(0.18, 0.05), (0.18, 0.97)], (60, 60, 60), 0.07)
    top = 0.08 if fact == "raised" else 0.52
    pen.polygon([(0.2, top), (0.88, top + 0.04), (0.88, top + 0.36), (0.2, top + 0.4)], other)


_STATES = {"door": _door, "lamp": _lamp, "glass": _cup, "flag": _flag}


def colour(b: Brush, subject: str, companion: str, fact: str) -> None:
    """A ball and a cube; for the other fact they exchange their colours. `fact` is "ball's colour:cube's colour"."""
    first, second = (COLOURS[name] for name in fact.split(":"))
    side, sign = b.draws.uniform(0.3, 0.38), b.draws.choice((-1, 1))
    ball, cube = b.near(0.5 - 0.24 * sign, 0.35), b.near(0.5 + 0.24 * sign, 0.35)
    small = b.draws.uniform(0.26, 0.34)
    b.shape(*ball, side, lambda pen: pen.disc(0.04, 0.04, 0.96, 0.96, first))
    b.shape(*cube, side, lambda pen: pen.box(0.08, 0.08, 0.92, 0.92, second))
    b.sprite(companion, *b.near(0.5, 0.8), small)


def structure(b: Brush, subject: str, companion: str, fact: str) -> None:
    main, light = b.colour(), b.colour(light=True)
    _beside(b, companion, lambda pen: _STRUCTURES[fact](pen, main, light))


def _striped(pen: Pen, main: Colour, light: Colour) -> None:
    pen.disc(0.05, 0.05, 0.95, 0.95, light)
    for y, half in ((0.26, 0.36), (0.5, 0.43), (0.74, 0.36)):
        pen.line([(0.5 - half, y), (0.5 + half, y)], main, 0.12)


def _dotted(pen: Pen, main: Colour, light: Colour) -> None:
    pen.disc(0.05, 0.05, 0.95, 0.95, light)
    for x, y in ((0.3, 0.33), (0.7, 0.33), (0.5, 0.55), (0.28, 0.7), (0.72, 0.7)):
        pen.disc(x - 0.09, y - 0.09, x + 0.09, y + 0.09, main, main)


def _solid(pen: Pen, main: Colour, light: Colour) -> None:
    pen.disc(0.05, 0.05, 0.95, 0.95, main)
    pen.disc(0.33, 0.33, 0.67, 0.67, light)


def _hollow(pen: Pen, main: Colour, light: Colour) -> None:
    pen.disc(0.05, 0.05, 0.95, 0.95, main)
    pen.disc(0.33, 0.33, 0.67, 0.67, (0, 0, 0, 0))


def _round(pen: Pen, main: Colour, light: Colour) -> None:
    pen.disc(0.05, 0.05, 0.95, 0.95, light)
    pen.disc(0.3, 0.3, 0.7, 0.7, main)


def _pointed(pen: Pen, main: Colour, light: Colour) -> None:
    pen.disc(0.05, 0.05, 0.95, 0.95, light)
    pen.polygon([(0.5, 0.22), (0.76, 0.7), (0.24, 0.7)], main)


_STRUCTURES = {"striped": _striped, "dotted": _dotted, "solid": _solid, "hollow": _hollow, "round": _round, "pointed": _pointed}


def text(b: Brush, subject: str, companion: str, fact: str) -> None:
    """A board with a word on it, over the whole width: letters need the room."""
    board, ink, small = b.colour(light=True), b.colour(light=False), b.draws.uniform(0.26, 0.34)

    def paint(pen: Pen) -> None:
        pen.box(0.02, 0.26, 0.98, 0.74, board)
        pen.word(fact.upper(), 0.42, ink)

    b.sprite(companion, *b.near(0.5, 0.82), small)
    b.shape(*b.near(0.5, 0.34), b.draws.uniform(0.82, 0.9), paint)


def viewpoint(b: Brush, subject: str, companion: str, fact: str) -> None:
    """A box of which one more face is seen, on the side that one looks from."""
    front, shade = b.colour(), b.draws.uniform(0.55, 0.7)
    depth = b.draws.uniform(0.14, 0.2)
    face = tuple(round(c * shade) for c in front)

    def paint(pen: Pen) -> None:
        lo, hi, d, inset = 0.2, 0.8, depth, 0.1
        corners = {"above": [(lo, lo), (lo + inset, lo - d), (hi - inset, lo - d), (hi, lo)],
                   "below": [(lo, hi), (lo + inset, hi + d), (hi - inset, hi + d), (hi, hi)],
                   "left": [(lo, lo), (lo - d, lo + inset), (lo - d, hi - inset), (lo, hi)],
                   "right": [(hi, lo), (hi + d, lo + inset), (hi + d, hi - inset), (hi, hi)]}[fact]
        pen.polygon(corners, face)
        pen.box(lo, lo, hi, hi, front)

    _beside(b, companion, paint, grow=1.1)


PAINTERS: dict[str, Callable[[Brush, str, str, str], None]] = {
    "orientation": orientation, "presence": presence, "state": state, "quantity": quantity, "position": position,
    "colour": colour, "structure": structure, "text": text, "viewpoint": viewpoint,
}
