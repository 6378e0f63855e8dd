"""The figures of the backward chapters, but for the convolution's."""

import numpy as np

from parallel_lenet.explain.drawing import Figure, Line, Map, Panel, Rect, Shape, Text, largest, map_panel, table_panel
from parallel_lenet.explain.figures.words import class_text, name_of_input, room_for_names, size
from parallel_lenet.explain.lesson import Array, Lesson, pooling_of
from parallel_lenet.explain.trace import Step
from parallel_lenet.network.layers import AvgPool2d


def error(lesson: Lesson) -> Figure:
    """The error of the last layer: probabilities minus the right answer."""
    numbers = lesson.numbers
    scores = lesson.trace.steps[-1].name
    room = room_for_names(lesson)
    xs = (24 + room / 2, *(x + room for x in (104, 166, 226, 300)))
    words = ("class", "probability", "", "wanted", "error")
    shapes: list[Shape] = [Text(x, 8, word, "label") for x, word in zip(xs, words, strict=True)]
    strongest = largest(lesson.trace.steps[-1].dy)
    for i, k in enumerate(lesson.classes):
        y = 32 + 24 * i
        if k == lesson.label:
            shapes.append(Rect(1, y - 12, 338 + room, 24, "mark"))
        shapes += [
            class_text(lesson, k, xs[0], y),
            Text(xs[1], y, numbers("probabilities", k), "value"),
            Text(xs[2], y, "−", "sign"),
            Text(xs[3], y, "1" if k == lesson.label else "0", "value"),
            Text(258 + room, y, "=", "sign"),
            Rect(272 + room, y - 11, 58, 22, "cell", float(numbers[f"{scores}.error"][k]) / strongest),
            Text(xs[4], y, numbers(f"{scores}.error", k), "value"),
        ]
    return Figure(
        "error",
        "The error of each score",
        f"For each class: its probability, what it should have been, and the difference, which is the error. Class "
        f"{lesson.name_of(lesson.label)} should have been 1, all others 0.",
        [Panel(342 + room, 32 + 24 * len(lesson.classes), shapes)],
        "A blue error says: this score should rise. An orange one says: this score should fall. The errors add up to "
        "0.",
    )


def dense_backward(lesson: Lesson, step: Step) -> Figure:
    """The last dense layer backward: the outer product, and one input's error."""
    numbers = lesson.numbers
    unit = int(numbers["dense.unit"])
    before = name_of_input(lesson, step)
    shown = lesson.classes if len(lesson.classes) == len(step.dy) else _strongest(numbers["dense.back"])
    strongest = largest(numbers["dense.back"])
    shapes: list[Shape] = [
        *(Text(x, 8, word, "label") for x, word in ((22, "output"), (82, "error"), (164, "weight"), (246, "product"))),
    ]
    for i, k in enumerate(shown):
        y = 32 + 24 * i
        shapes += [
            Text(22, y, str(k), "label"),
            Text(82, y, numbers(f"{step.name}.error", k), "value"),
            Text(122, y, "×", "sign"),
            Text(164, y, numbers(f"{step.name}.weight", k, unit), "value"),
            Text(205, y, "=", "sign"),
            Rect(216, y - 11, 60, 22, "cell", float(numbers["dense.back"][k]) / strongest),
            Text(246, y, numbers("dense.back", k), "value"),
        ]
    bottom = 32 + 24 * len(shown)
    shapes += [
        Line(((210, bottom - 6), (282, bottom - 6))),
        Text(120, bottom + 8, "sum: the input's error", "label"),
        Text(246, bottom + 8, numbers(f"{before}.error", unit), "strong"),
    ]
    gradient = step.gradients["weight"]
    rows, cols = gradient.shape
    height = min(max(170.0 * rows / max(rows, 10), 40.0), 170.0)
    outer: list[Shape] = [
        Map(1, 8, 12, height, step.dy[:, np.newaxis], largest(step.dy)),
        Rect(1, 8, 12, height, "frame"),
        Map(24, height + 20, 250, 12, step.x[np.newaxis], largest(step.x)),
        Rect(24, height + 20, 250, 12, "frame"),
        Map(24, 8, 250, height, gradient, largest(gradient)),
        Rect(24, 8, 250, height, "frame"),
    ]
    return Figure(
        "dense-backward",
        "A dense layer backward",
        f"On the left the errors of the outputs, weighted by the weights of input {unit}, add up to its error. On the "
        f"right the {rows}×{cols} gradient of the weights: each error, down the left side, times each input, along the "
        "bottom.",
        [
            Panel(286, bottom + 20, shapes, f"the error of input {unit}", "same weights, other direction"),
            Panel(276, height + 34, outer, "the gradient of all weights", f"errors ({rows}) × inputs ({cols})"),
        ],
        "Left: the error returns along the weights that the forward pass used. Right: a weight's gradient is the error "
        "of its output times its input, so the picture is striped in rows and columns.",
    )


def _strongest(values: Array) -> list[int]:
    return sorted(int(i) for i in np.argsort(-np.abs(values), kind="stable")[:10])


def activation_backward(lesson: Lesson, step: Step) -> Figure:
    """One error through the activation."""
    at = lesson.roles.activation_at
    before = name_of_input(lesson, step)
    parts: list[Panel | str] = []
    for sign, words, number, style in (
        ("", "error of y", lesson.numbers(f"{step.name}.error", *at), "cell"),
        ("×", "slope at x", lesson.numbers("activation.slope"), "cell"),
        ("=", "error of x", lesson.numbers(f"{before}.error", *at), "result"),
    ):
        box: list[Shape] = [Rect(1, 1, 90, 32, style), Text(46, 17, number, "strong")]
        parts += [sign, Panel(92, 34, box, words)] if sign else [Panel(92, 34, box, words)]
    return Figure(
        "activation-backward",
        "The activation backward",
        f"The error of one number after {step.name}, times the slope of the curve there, is the error before it.",
        parts,
        "This is the number whose way forward stands in the chapter on the activation.",
    )


def pooling_backward(lesson: Lesson, step: Step) -> Figure:
    """One error on its way back through average and max pooling."""
    layer = pooling_of(step)
    numbers = lesson.numbers
    channel, row, col = lesson.roles.last_pool_at
    average = isinstance(layer, AvgPool2d)
    strongest = abs(float(step.dy[channel, row, col])) or 1.0
    down, right = divmod(int(numbers["unpool.window"].argmax()), layer.size)
    start: list[Shape] = [
        Rect(16, 14, 76, 32, "result"),
        Text(54, 30, numbers(f"{step.name}.error", channel, row, col), "strong"),
    ]
    return Figure(
        "pooling-backward",
        "Pooling backward",
        f"The error of one pooled number. Average pooling gives a part of it to each place of the {layer.size}×"
        f"{layer.size} window, max pooling gives all of it to the place of the maximum.",
        [
            map_panel(
                step.dy[channel],
                120,
                title=f"errors of map {channel}",
                note=size(step.dy.shape),
                window=(col, row, 1, 1),
            ),
            Panel(108, 60, start, "one error"),
            "→",
            table_panel(
                numbers,
                "unpool.average",
                title="average: spread",
                note="this network" if average else "for comparison",
                strongest=strongest,
            ),
            table_panel(
                numbers,
                "unpool.maximum",
                title="max: to the largest",
                note="for comparison" if average else "this network",
                strongest=strongest,
                marked=[(down, right)],
            ),
            table_panel(numbers, "unpool.window", title="forward, the window held", marked=[(down, right)]),
        ],
        f"The mean of {layer.size * layer.size} numbers moves by a {_part(layer.size * layer.size)} of what one of "
        "them moves, so each gets that part of the error. The maximum follows only the largest number, framed, which "
        "gets all of it.",
    )


def _part(n: int) -> str:
    return {4: "quarter", 9: "ninth"}.get(n, f"1/{n} part")
