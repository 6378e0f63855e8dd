"""Images in a terminal: two pixels per character, one above the other."""

import os
import shutil
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.display.progress import is_terminal
from parallel_lenet.resizing import area_means

Array = NDArray[Any]

HALVES = " ▄▀█"  # Characters, by whether the lower and the upper pixel are light.
RAMP = " .:-=+*#%@"  # Characters from dark to light, for terminals without these blocks.
GREYS = 24  # Of the 256 colours, from 232 on.


def image_lines(image: Array, stream: TextIO | None) -> list[str]:
    """Lines that show an image of floats ``(h, w)``, from 0, black, to 1. No lines if the stream is not a terminal.

    They are grey if the terminal has colours and NO_COLOR is not set. A narrow terminal gets a smaller image.
    """
    if stream is None or not is_terminal(stream):
        return []
    height, width = image.shape
    columns = min(width, shutil.get_terminal_size().columns)
    rows = max(1, round(height * columns / width / 2))
    image = area_means(image, 2 * rows, columns)
    upper = image[::2]
    lower = image[1::2]
    encoding = (getattr(stream, "encoding", None) or "").lower()
    if not encoding.startswith("utf"):
        shades = np.rint((upper + lower) / 2 * (len(RAMP) - 1)).astype(int)
        return ["".join(RAMP[shade] for shade in row).rstrip() for row in shades]
    if not _has_colours():
        codes = (lower > 0.5) + 2 * (upper > 0.5)
        return ["".join(HALVES[code] for code in row).rstrip() for row in codes]
    return [_colour_cells(*pair) for pair in zip(_greys(upper), _greys(lower), strict=True)]


def _has_colours() -> bool:
    terminal = os.environ.get("TERM", "")
    if os.environ.get("NO_COLOR") or terminal == "dumb":
        return False
    return "256" in terminal or bool(os.environ.get("COLORTERM")) or bool(os.environ.get("WT_SESSION"))


def _greys(image: Array) -> list[list[int]]:
    """The numbers of the colours. The first is the terminal's black."""
    steps = np.rint(image * GREYS).astype(int)
    numbers: list[list[int]] = np.where(steps == 0, 16, 231 + steps).tolist()
    return numbers


def _colour_cells(upper: list[int], lower: list[int]) -> str:
    cells = list[str]()
    before = None
    for colours in zip(upper, lower, strict=True):
        cells.append("▀" if colours == before else f"\x1b[38;5;{colours[0]};48;5;{colours[1]}m▀")
        before = colours
    return "".join(cells) + "\x1b[0m"
