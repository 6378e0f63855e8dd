"""The figures as pictures for slides, 1600 pixels wide, by matplotlib."""

import io
import os
import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from parallel_lenet import optional
from parallel_lenet.explain.drawing import Figure, Line, Map, Panel, Rect, Shape, Text
from parallel_lenet.explain.figures import figures
from parallel_lenet.explain.lesson import Lesson
from parallel_lenet.files import write_atomically
from parallel_lenet.report.insides import NEGATIVE, POSITIVE

WIDTH = 1600  # Pixels.
SHAPE = 9 / 16  # Height by width of a slide: the arrangement in rows that comes nearest to it is chosen.
ROOMS = range(480, 1300, 40)  # Widths of a row to choose from, in units of a drawing.
MARGIN = 24.0
GAP = 16.0
SIGN = 22.0
TITLE = 46.0
HEAD = 20.0
NOTE = 18.0

RIGHT_TO_LEFT = {"R", "AL", "RLE", "RLO", "RLI"}

INK = "#1c2127"
MUTED = "#59636e"
LINE = "#cfd4da"
PAPER = "#ffffff"
ACCENT = "#2459a8"
BAD = "#b83a43"
FILLS = {
    "cell": PAPER, "node": PAPER, "result": "#d7e0ee", "hit": "#a8bcdc", "wrong": "#eec6c9", "bar": "#c5d3e8",
    "dot": "#d95f02", "dot2": "#286ed2", "block": "none",
}  # fmt: skip
EDGES = {
    "cell": LINE, "void": LINE, "frame": LINE, "node": MUTED, "block": ACCENT, "result": ACCENT, "hit": ACCENT,
    "wrong": BAD, "window": INK, "mark": INK, "second": INK,
}  # fmt: skip
STROKES = {"axis": LINE, "curve": "#d95f02", "curve2": "#286ed2", "secant": INK}
SIZES = {
    "tick": 10.5, "small": 10.0, "bit": 9.5, "code": 10.5, "strong": 13.5, "sign": 14.0, "value": 11.5, "name": 11.5,
}  # fmt: skip


def draw(lesson: Lesson) -> dict[str, bytes]:
    """A PNG file for each figure by its name, numbered in order. Raises ExtraError if matplotlib is missing."""
    drawn = figures(drawable(lesson))
    return {f"{i:02}-{figure.name}.png": picture(figure) for i, figure in enumerate(drawn, start=1)}


def drawable(lesson: Lesson) -> Lesson:
    """The lesson with numbers for the classes whose names matplotlib can't write. Raises as `draw` does."""
    if lesson.class_names is None:
        return lesson
    names = map(lesson.name_of, range(lesson.model.classes))
    return replace(lesson, class_names=tuple(name if _can_draw(name) else "" for name in names))


def _can_draw(text: str) -> bool:
    """Whether matplotlib has the signs in its font and writes them from left to right, as it writes every text."""
    fonts = optional.load("report", "matplotlib", "pictures for slides", "matplotlib.font_manager")
    used = [fonts.get_font(fonts.findfont(f"DejaVu Sans:{weight}")) for weight in ("regular", "bold")]
    return not any(unicodedata.bidirectional(each) in RIGHT_TO_LEFT for each in text) and all(
        font.get_char_index(ord(each)) for font in used for each in text
    )


def write(pictures: dict[str, bytes], folder: str | os.PathLike[str]) -> list[Path]:
    """Write the pictures into ``folder``, which is made if it does not exist, and return their paths."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        write_atomically(target / name, content)
    return [target / name for name in pictures]


def picture(figure: Figure) -> bytes:
    """A figure as PNG: its title, its panels in rows, its caption."""
    matplotlib = optional.load("report", "matplotlib", "pictures for slides")
    module = optional.load("report", "matplotlib", "pictures for slides", "matplotlib.figure")
    rows, zoom, caption, height = min(
        (_layout(figure, room) for room in ROOMS), key=lambda layout: abs(layout.height * layout.zoom / WIDTH - SHAPE)
    )
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["text.parse_math"] = False  # The name of a class may have a dollar sign.
        canvas = module.Figure(figsize=(WIDTH / 100, height * zoom / 100), dpi=100, facecolor=PAPER)
        axes = canvas.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, WIDTH / zoom)
        axes.set_ylim(height, 0)
        axes.axis("off")
        scale = zoom * 72 / 100
        axes.text(MARGIN, 26, figure.title, size=17 * scale, weight="bold", color=INK, va="center")
        top = TITLE
        for row in rows:
            left = MARGIN
            middle = top + _height(row) / 2
            for part in row:
                if isinstance(part, str):
                    axes.text(left + SIGN / 2, middle, part, size=19 * scale, color=MUTED, ha="center", va="center")
                    left += SIGN + GAP / 2
                else:
                    _panel(axes, part, left, middle, scale)
                    left += _width(part) + GAP
            top += _height(row) + GAP
        for i, line in enumerate(caption):
            axes.text(MARGIN, top + 8 + 17 * i, line, size=12 * scale, color=MUTED, va="center")
        stream = io.BytesIO()
        canvas.savefig(stream, format="png", facecolor=PAPER, metadata={"Software": None})
    return stream.getvalue()


def _wrap(text: str, width: int) -> list[str]:
    return re.findall(rf"(?:\S.{{0,{width - 2}}}\S|\S)(?=\s|$)", text)


class _Layout(NamedTuple):
    rows: list[list[Panel | str]]
    zoom: float
    """Pixels per unit."""
    caption: list[str]
    height: float
    """In units."""


def _layout(figure: Figure, room: float) -> _Layout:
    """The panels in rows of at most ``room``, a sign beside the panel after it."""
    rows: list[list[Panel | str]] = [[]]
    used = 0.0
    widest = 0.0
    sign = ""
    for part in figure.parts:
        if isinstance(part, str):
            sign = part
            continue
        needed = _width(part) + GAP + (SIGN + GAP / 2 if sign else 0)
        if rows[-1] and used + needed > room:
            rows.append([])
            used = 0.0
        rows[-1] += [sign, part] if sign else [part]
        used += needed
        sign = ""
        widest = max(widest, used)
    zoom = WIDTH / (max(widest, ROOMS[0]) + 2 * MARGIN)  # A single small panel is not enlarged further.
    caption = _wrap(figure.caption, int(WIDTH / zoom / 8))
    height = TITLE + sum(_height(row) for row in rows) + GAP * len(rows) + 17 * len(caption) + MARGIN + 6
    return _Layout(rows, zoom, caption, height)


def _width(panel: Panel) -> float:
    return max(panel.width, 6.6 * max(len(panel.title), len(panel.note)))


def _height(row: list[Panel | str]) -> float:
    return max(_panel_height(part) for part in row if isinstance(part, Panel))


def _panel_height(panel: Panel) -> float:
    return panel.height + (HEAD if panel.title else 0) + (NOTE if panel.note else 0)


def _panel(axes: Any, panel: Panel, left: float, middle: float, scale: float) -> None:
    top = middle - _panel_height(panel) / 2
    if panel.title:
        axes.text(left, top + 6, panel.title, size=12 * scale, weight="bold", color=INK, va="center")
        top += HEAD
    for shape in panel.shapes:
        _shape(axes, shape, left, top, scale)
    if panel.note:
        axes.text(left, top + panel.height + 10, panel.note, size=11.5 * scale, color=MUTED, va="center")


def _patches() -> Any:
    return optional.load("report", "matplotlib", "pictures for slides", "matplotlib.patches")


def _shape(axes: Any, shape: Shape, left: float, top: float, scale: float) -> None:
    patches = _patches()
    if isinstance(shape, Map):
        axes.imshow(
            shape.pixels,
            extent=(left + shape.x, left + shape.x + shape.w, top + shape.y + shape.h, top + shape.y),
            interpolation="nearest",
            aspect="auto",
            zorder=1,
        )
    elif isinstance(shape, Rect):
        thick = {"window": 2.0, "mark": 2.0, "second": 1.5, "block": 1.5}.get(shape.style, 1.0)
        box = {
            "xy": (left + shape.x, top + shape.y),
            "width": shape.w,
            "height": shape.h,
            "zorder": 2,
            "linewidth": thick * scale,
            "linestyle": "--" if shape.style in ("second", "void") else "-",
        }
        fill = FILLS.get(shape.style, "none")
        edge = EDGES.get(shape.style, "none")
        axes.add_artist(patches.Rectangle(facecolor=fill, edgecolor=edge, **box))
        if shape.level is not None:
            colour = [part / 255 for part in (NEGATIVE if shape.level < 0 else POSITIVE)]
            axes.add_artist(patches.Rectangle(facecolor=(*colour, shape.opacity), edgecolor="none", **box))
    elif isinstance(shape, Text):
        axes.text(
            left + shape.x,
            top + shape.y,
            shape.drawn_text,
            size=SIZES.get(shape.style, 12.0) * scale,
            color=MUTED if shape.style in ("label", "tick", "sign", "code") else INK,
            weight="bold" if shape.style in ("strong", "name") else "normal",
            family="monospace" if shape.style in ("bit", "code") else "sans-serif",
            ha={"start": "left", "end": "right"}.get(shape.anchor, "center"),
            va="center",
            zorder=4,
        )
    else:
        _line(axes, shape, left, top, scale)


def _line(axes: Any, shape: Line, left: float, top: float, scale: float) -> None:
    xs = [left + x for x, _ in shape.points]
    ys = [top + y for _, y in shape.points]
    thick = 2.0 if shape.style.startswith("curve") else 1.2
    style = "--" if shape.style == "guide" else "-"
    colour = STROKES.get(shape.style, MUTED)
    axes.plot(xs, ys, color=colour, linewidth=thick * scale, linestyle=style, zorder=3)
    if shape.arrow:
        corners = [tuple(map(float, corner.split(","))) for corner in shape.head.split()]
        axes.add_artist(_patches().Polygon([(left + x, top + y) for x, y in corners], facecolor=MUTED, zorder=3))
