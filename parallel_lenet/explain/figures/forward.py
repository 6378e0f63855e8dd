"""The other figures of the forward chapters."""

import numpy as np

from parallel_lenet.explain.drawing import Figure, Line, Panel, Rect, Shape, Text, largest, map_panel, table_panel
from parallel_lenet.explain.figures.words import class_text, kind, name_of_input, room_for_names, size
from parallel_lenet.explain.lesson import Lesson, pooling_of
from parallel_lenet.explain.trace import Step
from parallel_lenet.network.layers import AvgPool2d, Tanh


def activation(lesson: Lesson, step: Step) -> Figure:
    """The curve of the activation, and one number on it."""
    at = lesson.roles.activation_at
    reach = max(2.5, 1.15 * abs(float(step.x[at])))
    xs = np.linspace(-reach, reach, 81)
    layer = step.layer
    ys = layer.amplitude * np.tanh(xs) if isinstance(layer, Tanh) else np.maximum(xs, 0)
    top = float(max(np.abs(ys).max(), 0.1)) * 1.15
    width, height = 300.0, 190.0

    def place(x: float, y: float) -> tuple[float, float]:
        return (width / 2 + x / reach * width / 2, height / 2 - y / top * height / 2)

    dot = place(float(step.x[at]), float(step.y[at]))
    curve = tuple(place(float(x), float(y)) for x, y in zip(xs, ys, strict=True))
    shapes: list[Shape] = [
        Line(((0, height / 2), (width, height / 2)), "axis"),
        Line(((width / 2, 0), (width / 2, height)), "axis"),
        Line(curve, "curve"),
        Line(((dot[0], height / 2), dot, (width / 2, dot[1])), "guide"),
        Rect(dot[0] - 4, dot[1] - 4, 8, 8, "dot"),
        Text(width - 8, height / 2 - 9, "x", "label"),
        Text(width / 2 + 10, 9, "y", "label"),
    ]
    before = name_of_input(lesson, step)
    value: list[Shape] = [
        Text(70, 18, "x", "label"),
        Text(70, 38, lesson.numbers(before, *at), "strong"),
        Line(((70, 52), (70, 78)), "line", arrow=True),
        Text(70, 96, "y", "label"),
        Text(70, 116, lesson.numbers(step.name, *at), "strong"),
    ]
    return Figure(
        "activation",
        "The activation bends the line",
        f"The curve of {kind(step)}, with the point of one number of {before} marked on it.",
        [Panel(width, height, shapes, kind(step)), Panel(140, 130, value, "one number")],
        "Follow the dotted line: from the number x on the horizontal axis up or down to the curve, then across to y.",
    )


def pooling(lesson: Lesson, step: Step) -> Figure:
    """One window of the first pooling, its mean and its maximum."""
    layer = pooling_of(step)
    numbers = lesson.numbers
    channel, row, col = lesson.roles.pool_at
    used = "average" if isinstance(layer, AvgPool2d) else "maximum"
    results: list[Shape] = []
    for i, (name, words) in enumerate((("average", "mean"), ("maximum", "maximum"))):
        top = 4 + i * 66
        results += [
            Text(80, top + 8, words + (" (this network)" if name == used else ""), "label"),
            Rect(38, top + 20, 84, 28, "result" if name == used else "cell"),
            Text(80, top + 34, numbers(f"pool.{name}"), "strong"),
        ]
    return Figure(
        "pooling",
        "Four numbers become one" if layer.size == 2 else "A window becomes one number",
        f"A {layer.size}×{layer.size} window on map {channel}, its numbers, their mean and their maximum, and the "
        "pooled map.",
        [
            map_panel(
                step.x[channel],
                210,
                title=f"map {channel}",
                note=size(step.x.shape),
                window=(col * layer.stride, row * layer.stride, layer.size, layer.size),
            ),
            table_panel(numbers, "pool.window", title="the window"),
            "→",
            Panel(160, 132, results, "pooled"),
            map_panel(
                step.y[channel], 120, title=f"map {channel} after it", note=size(step.y.shape), window=(col, row, 1, 1)
            ),
        ],
        "Average pooling keeps the mean of the window, max pooling its largest number. There are no weights to learn. "
        "The map becomes smaller, and a stroke may move by a pixel without much change.",
    )


def flatten(lesson: Lesson, step: Step) -> Figure | None:
    """Where one number of a map stands in the vector."""
    if step.x.ndim != 3 or lesson.roles.dense is None:
        return None
    numbers = lesson.numbers
    channel, row, col = lesson.roles.flatten_at
    place = int(np.ravel_multi_index((channel, row, col), step.x.shape))
    before = name_of_input(lesson, step)
    rows, cols = (min(n, 5) for n in step.x.shape[1:])
    top, left = (
        max(0, min(at - 2, n - shown)) for at, n, shown in zip((row, col), step.x.shape[1:], (rows, cols), strict=True)
    )
    cells: list[Shape] = []
    for i, j in np.ndindex(rows, cols):
        number = numbers(before, channel, top + i, left + j)
        level = float(step.x[channel, top + i, left + j]) / largest(step.x)
        cells += [Rect(1 + j * 58, 1 + i * 26, 58, 26, "cell", level), Text(30 + j * 58, 14 + i * 26, number, "value")]
    cells.append(Rect(1 + (col - left) * 58, 1 + (row - top) * 26, 58, 26, "mark"))
    strip: list[Shape] = []
    first = max(0, min(place - 2, len(step.y) - 5))
    for i in range(min(5, len(step.y))):
        strip += [
            Text(28, 14 + i * 26, str(first + i), "label"),
            Rect(52, 1 + i * 26, 56, 26, "cell", float(step.y[first + i]) / largest(step.y)),
            Text(80, 14 + i * 26, numbers(step.name, first + i), "value"),
        ]
    strip.append(Rect(52, 1 + (place - first) * 26, 56, 26, "mark"))
    return Figure(
        "flatten",
        "Flatten: the same numbers in one line",
        f"Row {row}, column {col} of map {channel}, and the same number at place {place} of the vector.",
        [
            Panel(cols * 58 + 2, rows * 26 + 2, cells, f"map {channel}", f"of {size(step.x.shape)}"),
            "→",
            Panel(116, 132, strip, "the vector", f"{len(step.y)} numbers"),
        ],
        f"Map after map, row after row. The framed number stands at place ({channel} × {step.x.shape[1]} + {row}) × "
        f"{step.x.shape[2]} + {col} = {place}.",
    )


def dense(lesson: Lesson, step: Step) -> Figure:
    """The six largest products of one unit of the last dense layer."""
    numbers = lesson.numbers
    unit = lesson.label if step is lesson.trace.steps[-1] else int(np.abs(step.y).argmax())
    before = name_of_input(lesson, step)
    shown = [int(i) for i in numbers["dense.order"][:6]]
    strongest = largest(numbers["dense.products"])
    shapes: list[Shape] = [
        *(Text(x, 8, word, "label") for x, word in ((26, "input"), (84, "x"), (164, "weight"), (246, "product"))),
    ]
    height = 24 + 28 * len(shown)
    middle = (18 + height) / 2
    for i, j in enumerate(shown):
        y = 32 + 28 * i
        shapes += [
            Text(26, y, str(j), "label"),
            Text(84, y, numbers(before, j), "value"),
            Text(123, y, "×", "sign"),
            Text(164, y, numbers(f"{step.name}.weight", unit, j), "value"),
            Text(205, y, "=", "sign"),
            Rect(216, y - 12, 60, 24, "cell", float(numbers["dense.products"][j]) / strongest),
            Text(246, y, numbers("dense.products", j), "value"),
            Line(((278, y), (312, middle)), "line"),
        ]
    rest = len(step.x) - len(shown)
    if rest:
        shapes.append(Text(140, height + 12, f"and {rest} more products", "label"))
    answer: list[Shape] = [
        Text(60, 10, "bias", "label"),
        Text(60, 28, numbers(f"{step.name}.bias", unit), "strong"),
        Line(((10, 46), (110, 46))),
        Text(60, 66, f"output {unit}", "label"),
        Rect(20, 78, 80, 28, "result"),
        Text(60, 92, numbers(step.name, unit), "strong"),
    ]
    return Figure(
        "dense",
        "A dense layer: a weighted sum of everything",
        f"The six largest of the {len(step.x)} products that make output {unit} of the last dense layer.",
        [Panel(316, height + 24, shapes, f"{len(step.x)} products, the largest first"), "+", Panel(120, 114, answer)],
        f"Each of the {len(step.x)} inputs has its own weight for each of the {len(step.y)} outputs. No window, no "
        f"position: {len(step.y)} × {len(step.x)} = {len(step.y) * len(step.x):,} weights.",
    )


def softmax(lesson: Lesson) -> Figure:
    """From scores to probabilities, class by class."""
    numbers = lesson.numbers
    scores = lesson.trace.steps[-1].name
    probabilities = numbers["probabilities"]
    room = room_for_names(lesson)
    xs = (22 + room / 2, *(x + room for x in (82, 150, 222, 292)))
    words = ("class", "score", "− largest", "exp", "probability")
    shapes: list[Shape] = [Text(x, 8, word, "label") for x, word in zip(xs, words, strict=True)]
    for i, k in enumerate(lesson.classes):
        y = 32 + 24 * i
        if k == lesson.label:
            shapes.append(Rect(1, y - 12, 338 + room, 24, "mark"))
        shapes.append(Rect(256 + room, y - 10, 78 * float(probabilities[k]), 20, "bar"))
        for x, name in zip(xs[1:], (scores, "shifted", "exponentials", "probabilities"), strict=True):
            shapes.append(Text(x, y, numbers(name, k), "value"))
        shapes.append(class_text(lesson, k, xs[0], y))
    bottom = 32 + 24 * len(lesson.classes)
    shapes += [
        Text(xs[2], bottom + 4, "sum of all", "label"),
        Text(xs[3], bottom + 4, numbers("exponentials.sum"), "strong"),
    ]
    return Figure(
        "softmax",
        "From scores to probabilities",
        "For each class: its score, the score minus the largest one, the exponential of that, and its share of the "
        f"sum of all exponentials. The right class, {lesson.name_of(lesson.label)}, is framed.",
        [Panel(342 + room, bottom + 16, shapes)],
        "Each exponential divided by the sum of all is a probability. They are positive and add up to 1. The framed "
        "row is the right class.",
    )
