"""Figures as lists of shapes, drawn twice from one description: as SVG in the page, by matplotlib for slides.

A figure is a row of panels, with a sign such as "=" between two of them. In a narrow window the row wraps, so every
panel stays readable. Colours are names of classes: ``pos`` and ``neg`` tint a number by its sign and size.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import png
from parallel_lenet.explain.numbers import Number, Numbers
from parallel_lenet.report.insides import NEGATIVE, POSITIVE

Array = NDArray[Any]


@dataclass(frozen=True)
class Rect:
    """A box. ``level`` from -1 to 1 tints it by sign and size."""

    x: float
    y: float
    w: float
    h: float
    style: str = "cell"
    level: float | None = None
    id: str = ""
    step: int = 0
    """The step of a playing figure that shows it, or 0: from the beginning. Texts and lines have it too."""
    kind: str = "rect"

    @property
    def tint(self) -> str:
        """The CSS class of the level's sign."""
        return "" if self.level is None else "neg" if self.level < 0 else "pos"

    @property
    def opacity(self) -> float:
        """The opacity of the tint: so weak that black and white text on it can be read."""
        return 1.0 if self.level is None else round(0.62 * min(1.0, abs(self.level)), 3)


@dataclass(frozen=True)
class Text:
    """A line of text, or a number with its bits."""

    x: float
    y: float
    text: str | Number
    style: str = "label"
    anchor: str = "middle"
    id: str = ""
    step: int = 0
    title: str = ""
    """Shown to a mouse that rests on it."""
    kind: str = "text"

    @property
    def number(self) -> Number | None:
        """The number, if it is one."""
        return self.text if isinstance(self.text, Number) else None

    @property
    def drawn_text(self) -> str:
        """The text as it is drawn."""
        return self.text.text if isinstance(self.text, Number) else self.text


@dataclass(frozen=True)
class Line:
    """Straight lines through points. With ``arrow``, a head at the last one."""

    points: tuple[tuple[float, float], ...]
    style: str = "line"
    arrow: bool = False
    id: str = ""
    step: int = 0
    kind: str = "line"

    @property
    def path(self) -> str:
        """The points in SVG's notation."""
        return " ".join(f"{x:.5g},{y:.5g}" for x, y in self.points)

    @property
    def head(self) -> str:
        """The three corners of the arrow's head."""
        (x1, y1), (x2, y2) = self.points[-2:]
        length = max(float(np.hypot(x2 - x1, y2 - y1)), 1e-9)
        ux, uy = (x2 - x1) / length * 6, (y2 - y1) / length * 6
        corners = ((x2, y2), (x2 - ux - uy / 2, y2 - uy + ux / 2), (x2 - ux + uy / 2, y2 - uy - ux / 2))
        return " ".join(f"{x:.5g},{y:.5g}" for x, y in corners)


@dataclass(frozen=True, eq=False)
class Map:
    """A feature map: one coloured pixel per number, or grey ones for stored pixels."""

    x: float
    y: float
    w: float
    h: float
    values: Array
    largest: float = 0.0
    """The absolute value with the strongest colour. 0 takes the largest of the values."""
    grey: bool = False
    id: str = ""
    kind: str = "map"

    @property
    def pixels(self) -> Array:
        """RGBA, uint8: ``(h, w, 4)``. A map of far more numbers than it is wide leaves out rows and columns."""
        step = max(1, int(max(self.values.shape[-2:]) / (2 * max(self.w, self.h, 16))))
        values = self.values[..., ::step, ::step]
        return grey_pixels(values) if self.grey else signed_pixels(values, self.largest)

    @property
    def url(self) -> str:
        """The pixels as a data URL."""
        return "data:image/png;base64," + base64.b64encode(png.encode(self.pixels)).decode()


Shape = Rect | Text | Line | Map


@dataclass(frozen=True)
class Panel:
    """A drawing of its own with a title above and a note below."""

    width: float
    height: float
    shapes: Sequence[Shape]
    title: str = ""
    note: str = ""
    zoom: float = 1.0
    """How many times as large it is shown if there is room."""


@dataclass(frozen=True)
class Figure:
    """Panels, and signs between them: a string is a sign."""

    name: str
    title: str
    alt: str
    parts: Sequence[Panel | str]
    caption: str = ""


def signed_pixels(values: Array, largest: float = 0.0) -> Array:
    """Pixels for any background: orange for positive numbers, blue for negative ones, transparent for 0."""
    finite = np.nan_to_num(np.asarray(values, np.float64))
    size = largest or float(np.abs(finite).max()) or 1.0
    pixels = np.empty((*finite.shape, 4), np.uint8)
    pixels[..., :3] = np.where((finite < 0)[..., np.newaxis], NEGATIVE, POSITIVE)
    pixels[..., 3] = np.rint(255 * np.clip(np.abs(finite) / size, 0, 1) ** 0.8)
    return pixels


def grey_pixels(values: Array) -> Array:
    """Pixels from black for the smallest to white for the largest number. ``(3, h, w)`` are colours."""
    numbers = np.asarray(values, np.float64)
    low, high = float(numbers.min()), float(numbers.max())
    scaled = np.rint(255 * (numbers - low) / ((high - low) or 1.0)).astype(np.uint8)
    colours = np.moveaxis(scaled, 0, 2) if scaled.ndim == 3 else np.repeat(scaled[..., np.newaxis], 3, axis=2)
    return np.concatenate([colours, np.full((*colours.shape[:2], 1), 255, np.uint8)], axis=2)


def largest(values: Array) -> float:
    """The largest absolute value, or 1 if all numbers are 0."""
    return float(np.abs(np.asarray(values, np.float64)).max()) or 1.0


def table(
    numbers: Numbers,
    name: str,
    index: tuple[int, ...] = (),
    *,
    at: tuple[float, float] = (0, 0),
    cell: tuple[float, float] = (58, 26),
    strongest: float = 0.0,
    id: str = "",
    marked: Iterable[tuple[int, int]] = (),
) -> list[Shape]:
    """The numbers ``name[*index, row, col]`` in tinted cells. Ids are ``id-row-col`` for JavaScript."""
    values = numbers[name][index]
    size = strongest or largest(values)
    shapes: list[Shape] = []
    for row, col in np.ndindex(values.shape):
        x, y = at[0] + col * cell[0], at[1] + row * cell[1]
        key = f"{id}-{row}-{col}" if id else ""
        shapes.append(Rect(x, y, cell[0], cell[1], "cell", float(values[row, col]) / size, f"{key}-box" if key else ""))
        number = numbers(name, *index, row, col)
        shapes.append(Text(x + cell[0] / 2, y + cell[1] / 2, number, "value", id=key))
    for row, col in marked:
        shapes.append(Rect(at[0] + col * cell[0], at[1] + row * cell[1], cell[0], cell[1], "mark"))
    return shapes


def table_panel(
    numbers: Numbers,
    name: str,
    index: tuple[int, ...] = (),
    *,
    title: str = "",
    note: str = "",
    id: str = "",
    strongest: float = 0.0,
    marked: Iterable[tuple[int, int]] = (),
) -> Panel:
    """A panel with one table of numbers."""
    rows, cols = numbers[name][index].shape
    cell = (58.0, 26.0)
    shapes = table(numbers, name, index, at=(1, 1), cell=cell, strongest=strongest, id=id, marked=marked)
    return Panel(cols * cell[0] + 2, rows * cell[1] + 2, shapes, title, note)


def map_panel(
    values: Array,
    width: float,
    *,
    title: str = "",
    note: str = "",
    id: str = "",
    grey: bool = False,
    strongest: float = 0.0,
    window: tuple[float, float, float, float] | None = None,
    window_id: str = "",
) -> Panel:
    """A panel with one feature map ``width`` wide. ``window`` (left, top, width, height, in its pixels) is framed."""
    rows, cols = values.shape[-2:]
    scale = width / cols
    shapes: list[Shape] = [
        Map(1, 1, width, rows * scale, values, strongest, grey, id),
        Rect(1, 1, width, rows * scale, "frame"),
    ]
    if window is not None:
        left, top, w, h = (scale * part for part in window)
        shapes.append(Rect(1 + left, 1 + top, w, h, "window", id=window_id))
    return Panel(width + 2, rows * scale + 2, shapes, title, note)
