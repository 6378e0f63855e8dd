"""A pad to draw on: a part of a page in which the network recognises the reader's drawing.

A page holds three pieces: `pad_html` at the pad's place, ``<style>{{ pad_style() }}</style>`` in its head, and
``<script type="module">{{ pad_script() }}</script>`` at its end. The page loads nothing from outside. The colours
follow the page's text colour and its CSS variable ``--accent``.

- `digit.js` prepares the drawing as `parallel_lenet.pictures` prepares a picture.
- `network.js` is the forward pass of every network of this package's layers.
- `pad.js`, `pad.css` and ``templates/pad.html`` are the visible pad.
"""

import base64
import html
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from parallel_lenet import descriptions
from parallel_lenet.class_names import display_name
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.parameters import Vector
from parallel_lenet.pictures.unit import black_and_white
from parallel_lenet.report import page

MOST_PARAMETERS = 200_000  # About 1.1 MB of the page.
SCRIPTS = ("network.js", "digit.js", "pad.js")

_FOLDER = Path(__file__).parent


def why_not(model: Sequential) -> str | None:
    """A sentence that says why there can't be a pad for this network, or None if there can."""
    unknown = [type(layer).__name__ for layer in model.layers if type(layer) not in descriptions.LAYERS.values()]
    if unknown:
        return f"The pad knows the layers of parallel_lenet, but not {unknown[0]}."
    if model.layout.size > MOST_PARAMETERS:
        return (
            f"The network has {model.layout.size:,} parameters, too many for a page: the pad takes up to "
            f"{MOST_PARAMETERS:,}. The command parallel-lenet predict recognises images with it."
        )
    return None


def pad_html(model: Sequential, parameters: Vector, class_names: Sequence[str] | None = None) -> page.Html:
    """The pad for a network and its parameters, of which the page gets a float32 copy.

    It calls the classes by their names, if they have some. If there can't be one (see `why_not`), it is a paragraph
    that says so. Raises ValueError unless the parameters have the model's size, and ExtraError if jinja2 is missing.
    """
    model.layout.check(parameters)
    reason = why_not(model)
    if reason is not None:
        return page.Html(f"<p>{html.escape(reason)}</p>")
    rows, columns = model.images.height_and_width
    unit = black_and_white(model.images)
    network = {
        "description": model.description,
        "classes": model.classes,
        "black": unit.black,
        "white": unit.white,
        "parameters": base64.b64encode(np.asarray(parameters, "<f4").tobytes()).decode(),
    }
    names = [display_name(class_names, label) for label in range(model.classes)]
    has_names = class_names is not None
    digits = names == [str(label) for label in range(10)]
    return page.part(
        "pad.html",
        network=network | ({"names": names} if has_names else {}),
        has_names=has_names,
        noun="digit" if digits else "picture",
        classes=model.classes,
        rows=rows,
        columns=columns,
        colour=model.images.channels > 1,
    )


def pad_style() -> page.Html:
    """The content of a ``<style>`` element."""
    return page.Html(_file("pad.css"))


def pad_script() -> page.Html:
    """The content of a ``<script type="module">`` element, after the pad."""
    return page.Html("\n".join(map(_file, SCRIPTS)))


@cache
def _file(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")
