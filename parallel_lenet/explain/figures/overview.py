"""The figures of the whole network, of the image, and of shapes."""

import numpy as np

from parallel_lenet.explain.drawing import Figure, Map, Panel, Rect, Shape, largest, map_panel
from parallel_lenet.explain.figures.words import kind, size
from parallel_lenet.explain.lesson import Array, Lesson
from parallel_lenet.network.layers import Conv2d, ReLU, Tanh

MAPS_SHOWN = 16  # The most channels of a layer in a figure.


def architecture(lesson: Lesson) -> Figure:
    """Every layer with what it makes of this image."""
    steps = lesson.trace.steps
    parts: list[Panel | str] = [_outputs(steps[0].x, "input")]
    i = 0
    while i < len(steps):
        words = [kind(steps[i])]
        y = steps[i].y
        while i + 1 < len(steps) and isinstance(steps[i + 1].layer, Tanh | ReLU):
            i += 1
            words.append(kind(steps[i]))
            y = steps[i].y
        parts += ["→", _outputs(y, ", ".join(words))]
        i += 1
    return Figure(
        "architecture",
        "The whole network at work",
        f"The layers of the network in order, from the input {size(steps[0].x.shape)} to {len(steps[-1].y)} scores, "
        "each with the numbers it computes for this image as small coloured maps.",
        parts,
        "Read along the arrows. Orange stands for positive numbers, blue for negative ones, and no colour for zero. "
        "The label under each box is its shape: rows × columns × channels.",
    )


def _outputs(y: Array, title: str) -> Panel:
    shapes: list[Shape] = []
    if y.ndim == 1:
        strip = y[:, np.newaxis]
        shapes = [Map(23, 1, 20, 132, strip, largest(y)), Rect(23, 1, 20, 132, "frame")]
        return Panel(66, 134, shapes, title, size(y.shape))
    shown = y[:MAPS_SHOWN]
    columns = int(np.ceil(np.sqrt(len(shown))))
    columns = 2 if len(shown) == 6 else columns
    rows = -(-len(shown) // columns)
    side = min(132 / rows, 132 / columns) if columns > 1 else 132.0
    side = max(side, 30.0)
    for i, values in enumerate(shown):
        x = 1 + i % columns * side
        top = 1 + i // columns * side
        shapes += [Map(x, top, side - 3, side - 3, values, largest(y)), Rect(x, top, side - 3, side - 3, "frame")]
    note = size(y.shape) + (f" (first {MAPS_SHOWN})" if len(y) > MAPS_SHOWN else "")
    return Panel(max(columns * side, 96.0), rows * side, shapes, title, note)


def image(lesson: Lesson) -> Figure:
    """The stored pixels, and what the network makes of them before its first layer."""
    pixels = lesson.trace.pixels
    prepared = lesson.trace.steps[0].x
    colours = pixels if len(pixels) == 3 else pixels[0]
    return Figure(
        "image",
        "The image before the first layer",
        f"On the left the stored image, {size(pixels.shape)}; on the right the same image as the network sees it, "
        f"{size(prepared.shape)}, with its pixels normalised.",
        [
            map_panel(colours, 210, title="as stored", note=size(pixels.shape), grey=True),
            "→",
            map_panel(prepared[0], 240, title="as the network sees it", note=size(prepared.shape)),
        ],
        "The pixels are the same. They only stand on a larger field and are measured on another scale.",
    )


def output_shape(lesson: Lesson) -> Figure:
    """Three ways to lay windows on the same 7×7 input."""
    cases = ((1, 0, "stride 1"), (2, 0, "stride 2"), (1, 1, "padding 1"))
    parts: list[Panel | str] = []
    for stride, padding, title in cases:
        rows = Conv2d(1, 3, stride, padding).output_shape((1, 7, 7))[1]
        side = 20.0
        total = 7 + 2 * padding
        shapes: list[Shape] = []
        for i, j in np.ndindex(total, total):
            border = not (padding <= i < padding + 7 and padding <= j < padding + 7)
            shapes.append(Rect(1 + j * side, 1 + i * side, side, side, "void" if border else "cell"))
        for n in range(2):
            shapes.append(Rect(1 + n * stride * side, 1, 3 * side, 3 * side, "window" if n == 0 else "second"))
        left = (total + 1.2) * side
        for i, j in np.ndindex(rows, rows):
            shapes.append(Rect(left + j * side, 1 + i * side, side, side, "result" if i or j > 1 else "hit"))
        width = left + rows * side + 2
        parts.append(Panel(width, total * side + 2, shapes, title, f"7×7 → {rows}×{rows}"))
    return Figure(
        "output-shape",
        "How many windows fit",
        "Three drawings of a 3×3 window on a 7×7 input. The output has 5×5 numbers with stride 1, 3×3 with stride 2, "
        "and 7×7 with a padding of one zero on each side.",
        parts,
        "The first window is framed in full, the second one dashed. The small grid beside each input is the output: "
        "one cell per window.",
    )
