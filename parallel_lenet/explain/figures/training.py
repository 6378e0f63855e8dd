"""The figures of what the gradient is used for: finite differences and Adam."""

import numpy as np

from parallel_lenet.explain.backward import ADAM_STEPS, STEP_SIZES
from parallel_lenet.explain.drawing import Figure, Line, Panel, Rect, Shape, Text, largest
from parallel_lenet.explain.figures.words import class_text, room_for_names
from parallel_lenet.explain.lesson import Lesson


def difference(lesson: Lesson) -> Figure:
    """The loss as a function of one weight, with the two points that the slope is measured between."""
    numbers = lesson.numbers
    above = numbers["difference64.above"]
    below = numbers["difference64.below"]
    points = [(0.0, lesson.trace.loss)]
    points += [(-h, float(loss)) for h, loss in zip(STEP_SIZES, below, strict=True)]
    points += [(h, float(loss)) for h, loss in zip(STEP_SIZES, above, strict=True)]
    curve = sorted(points)
    low = min(y for _, y in curve)
    high = max(y for _, y in curve)
    width, height = 300.0, 180.0
    unit = (high - low) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return (width / 2 + x * (width / 2 - 10), height - 12 - (y - low) / unit * (height - 30))

    first = 2  # The first slope shown is that of a step of 0.1.
    left = place(-STEP_SIZES[first], float(below[first]))
    right = place(STEP_SIZES[first], float(above[first]))
    middle = place(0, lesson.trace.loss)
    shapes: list[Shape] = [
        Line(((0, height - 6), (width, height - 6)), "axis"),
        Line((middle, (middle[0], height - 6)), "guide"),
        Line(tuple(place(x, y) for x, y in curve), "curve"),
        Line((left, right), "secant", id="difference-secant"),
        Rect(left[0] - 4, left[1] - 4, 8, 8, "dot", id="difference-left"),
        Rect(right[0] - 4, right[1] - 4, 8, 8, "dot", id="difference-right"),
        Text(30, 10, "loss ↑", "label"),
        Text(width - 40, height - 16, "weight →", "label"),
    ]
    chart, marks = _errors(lesson)
    return Figure(
        "difference",
        "The gradient, checked without calculus",
        "On the left the loss as a curve over one weight with a line through two of its points. On the right how far "
        "the measured slope is from the gradient for smaller and smaller steps: it falls, then rises again.",
        [
            Panel(width, height, shapes, "loss, if only this weight changes", "from 1 below to 1 above"),
            Panel(width, height, [*chart, *marks], "distance to the gradient", "smaller steps to the right"),
        ],
        "Left: the line through two points of the curve has almost the slope of the curve. Right: smaller steps make "
        "it better at first. Then the two losses agree in all but their last digits, and rounding takes over"
        + ("." if lesson.model.dtype == "float64" else ": early with 32 bits (orange), later with 64 bits (blue)."),
    )


def _errors(lesson: Lesson) -> tuple[list[Shape], list[Shape]]:
    """The distance of each measured slope to the gradient, on logarithmic axes."""
    numbers = lesson.numbers
    gradient = float(numbers["difference64.gradient"])
    width = 300.0
    height = 180.0
    lowest = -12.0
    lines: list[Shape] = [
        Line(((34, height - 20), (width, height - 20)), "axis"),
        Line(((34, 0), (34, height - 20)), "axis"),
    ]
    for power in (0, -3, -6, -9):
        y = 12 + power / lowest * (height - 36)
        lines.append(Text(16, y, f"1e{power}".replace("-", "−") if power else "1", "tick"))
    marks: list[Shape] = []
    both = (("difference", "curve"), ("difference64", "curve2"))
    for name, style in both[lesson.model.dtype == "float64" :]:
        distances = np.abs(numbers[f"{name}.slope"] - gradient)
        points = []
        for k, distance in enumerate(distances):
            if np.isfinite(distance):
                exponent = float(np.clip(np.log10(max(distance, 1e-30)), lowest, 0))
                points.append((44 + k * (width - 54) / (len(STEP_SIZES) - 1), 12 + exponent / lowest * (height - 36)))
        lines.append(Line(tuple(points), style))
        marks += [Rect(x - 2.5, y - 2.5, 5, 5, "dot" if style == "curve" else "dot2") for x, y in points]
    for k in range(0, len(STEP_SIZES), 4):
        x = 44 + k * (width - 54) / (len(STEP_SIZES) - 1)
        lines.append(Text(x, height - 8, f"{STEP_SIZES[k]:g}".replace("-0", "−").replace("-", "−"), "tick"))
    return lines, marks


def adam(lesson: Lesson) -> Figure:
    """The loss over a few steps, and the probabilities before and after."""
    numbers = lesson.numbers
    losses = numbers["adam.loss"]
    width, height = 280.0, 170.0
    top = largest(losses)
    points = tuple(
        (24 + k * (width - 60) / ADAM_STEPS, 26 + (1 - float(y) / top) * (height - 66)) for k, y in enumerate(losses)
    )
    chart: list[Shape] = [Line(((10, height - 34), (width, height - 34)), "axis"), Line(points, "curve")]
    for k, (x, y) in enumerate(points):
        chart += [Rect(x - 3, y - 3, 6, 6, "dot"), Text(x, height - 20, str(k), "tick")]
        if k in (0, ADAM_STEPS):
            chart.append(Text(x + (14 if k == 0 else 0), y - 14, numbers("adam.loss", k), "strong"))
    room = room_for_names(lesson)
    heads = ((18 + room / 2, "class"), (96 + room, "before"), (226 + room, "after"))
    bars: list[Shape] = [Text(x, 8, word, "label") for x, word in heads]
    for i, k in enumerate(lesson.classes):
        y = 30 + 20 * i
        bars.append(class_text(lesson, k, 18 + room / 2, y))
        for x, name in ((44 + room, "probabilities"), (174 + room, "adam.probabilities")):
            bars += [
                Rect(x, y - 8, 118 * float(numbers[name][k]), 16, "bar"),
                Text(x + 60, y, numbers(name, k), "value"),
            ]
    return Figure(
        "adam",
        "Before and after",
        f"On the left the loss falls over {ADAM_STEPS} steps of Adam. On the right the probabilities of all classes "
        "before and after these steps.",
        [
            Panel(width, height, chart, "loss after each step"),
            Panel(296 + room, 30 + 20 * len(lesson.classes), bars, "probabilities"),
        ],
        f"After {ADAM_STEPS} small steps on this one image the network is surer that it shows class "
        f"{lesson.name_of(lesson.label)}.",
    )
