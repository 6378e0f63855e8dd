"""The figures of the backward chapters."""

import numpy as np

from parallel_lenet.explain.backward import ADAM_STEPS, STEP_SIZES, spread_out
from parallel_lenet.explain.drawing import Figure, Line, Map, Panel, Rect, Shape, Text, largest, map_panel, table_panel
from parallel_lenet.explain.figures_forward import MAPS_SHOWN, name_of_input, size
from parallel_lenet.explain.lesson import Array, Lesson
from parallel_lenet.network.layers import AvgPool2d, Conv2d, MaxPool2d


def error(lesson: Lesson) -> Figure:
    """The error of the last layer: probabilities minus the right answer."""
    numbers, scores = lesson.numbers, lesson.trace.steps[-1].name
    xs = (24, 104, 166, 226, 300)
    words = ("class", "probability", "", "wanted", "error")
    shapes: list[Shape] = [Text(x, 8, word, "label") for x, word in zip(xs, words, strict=True)]
    strongest = largest(lesson.trace.steps[-1].dy)
    for i, k in enumerate(lesson.classes):
        y = 32 + 24 * i
        if k == lesson.label:
            shapes.append(Rect(1, y - 12, 338, 24, "mark"))
        shapes += [
            Text(xs[0], y, str(k), "strong" if k == lesson.label else "value"),
            Text(xs[1], y, numbers("probabilities", k), "value"),
            Text(xs[2], y, "−", "sign"),
            Text(xs[3], y, "1" if k == lesson.label else "0", "value"),
            Text(258, y, "=", "sign"),
            Rect(272, y - 11, 58, 22, "cell", float(numbers[f"{scores}.error"][k]) / strongest),
            Text(xs[4], y, numbers(f"{scores}.error", k), "value"),
        ]
    return Figure(
        "error",
        "The error of each score",
        f"For each class: its probability, what it should have been, and the difference, which is the error. Class "
        f"{lesson.label} should have been 1, all others 0.",
        [Panel(342, 32 + 24 * len(lesson.classes), shapes)],
        "A blue error says: this score should rise. An orange one says: this score should fall. The errors add up to "
        "0.",
    )


def dense_backward(lesson: Lesson) -> Figure | None:
    """The last dense layer backward: the outer product, and one input's error."""
    step = lesson.roles.dense
    if step is None:
        return None
    numbers = lesson.numbers
    unit = int(numbers["dense.unit"])
    before = name_of_input(lesson, step)
    shown = lesson.classes if len(lesson.classes) == len(step.dy) else _strongest(numbers["dense.back"])
    strongest = largest(numbers["dense.back"])
    shapes: list[Shape] = [
        *(Text(x, 8, word, "label") for x, word in ((22, "output"), (86, "error"), (154, "weight"), (232, "product"))),
    ]
    for i, k in enumerate(shown):
        y = 32 + 24 * i
        shapes += [
            Text(22, y, str(k), "label"),
            Text(86, y, numbers(f"{step.name}.error", k), "value"),
            Text(119, y, "×", "sign"),
            Text(154, y, numbers(f"{step.name}.weight", k, unit), "value"),
            Text(188, y, "=", "sign"),
            Rect(202, y - 11, 60, 22, "cell", float(numbers["dense.back"][k]) / strongest),
            Text(232, y, numbers("dense.back", k), "value"),
        ]
    bottom = 32 + 24 * len(shown)
    shapes += [
        Line(((196, bottom - 6), (268, bottom - 6))),
        Text(120, bottom + 8, "sum: the input's error", "label"),
        Text(232, bottom + 8, numbers(f"{before}.error", unit), "strong"),
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
            Panel(272, bottom + 20, shapes, f"the error of input {unit}", "same weights, other direction"),
            Panel(276, height + 34, outer, "the gradient of all weights", f"errors ({rows}) × inputs ({cols})"),
        ],
        "Left: the error returns along the weights that the forward pass used. Right: a weight's gradient is the error "
        "of its output times its input, so the picture is striped in rows and columns.",
    )


def _strongest(values: Array) -> list[int]:
    return sorted(int(i) for i in np.argsort(-np.abs(values), kind="stable")[:10])


def activation_backward(lesson: Lesson) -> Figure | None:
    """One error through the activation."""
    step = lesson.roles.activation
    if step is None:
        return None
    at, before = lesson.roles.activation_at, name_of_input(lesson, step)
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


def pooling_backward(lesson: Lesson) -> Figure | None:
    """One error on its way back through average and max pooling."""
    step = lesson.roles.last_pool
    if step is None:
        return None
    layer, numbers = step.layer, lesson.numbers
    assert isinstance(layer, AvgPool2d | MaxPool2d)
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


def scatter(lesson: Lesson) -> Figure | None:
    """The layer gradient by adding each weighted filter into its window; JavaScript plays it."""
    step = lesson.roles.deep
    if step is None:
        return None
    layer, numbers = step.layer, lesson.numbers
    assert isinstance(layer, Conv2d)
    f, row, col = lesson.roles.deep_at
    channel = int(numbers["deep.place"][0])
    p, s, k = layer.padding, layer.stride, layer.kernel_size
    return Figure(
        "scatter",
        "Layer gradient, by scatter",
        f"The errors of map {f} with one of them framed, filter {f} for channel {channel}, the filter weighted by this "
        f"error, and the errors of input channel {channel} with the window into which it is added.",
        [
            map_panel(
                step.dy[f],
                150,
                title="errors of the output",
                note=f"map {f} of {size(step.dy.shape)}",
                id="scatter-dy",
                window=(col, row, 1, 1),
                window_id="scatter-mark",
                strongest=largest(step.dy),
            ),
            Panel(
                84,
                46,
                [
                    Rect(4, 8, 76, 30, "result"),
                    Text(42, 23, numbers(f"{step.name}.error", f, row, col), "strong", id="scatter-error"),
                ],
                "one error",
            ),
            "×",
            table_panel(
                numbers, "deep.filter", (channel,), title="the filter", note=f"its slice {channel}", id="scatter-w"
            ),
            "=",
            table_panel(numbers, "scattered", (channel,), title="weighted filter", id="scatter-p"),
            "→",
            map_panel(
                np.pad(step.dx[channel], p),
                190,
                title="added into the window",
                note=f"channel {channel} of {size(step.dx.shape)}, all errors added",
                id="scatter-dx",
                window=(col * s, row * s, k, k),
                window_id="scatter-window",
            ),
        ],
        f"The error is spread over the window as the filter says, and added to what is there already. The last "
        f"map is the sum over all {step.dy.size:,} errors of the output.",
    )


def gather(lesson: Lesson) -> Figure | None:
    """One number of the layer gradient, gathered with the filter turned by 180 degrees."""
    step = lesson.roles.deep
    if step is None:
        return None
    layer, numbers = step.layer, lesson.numbers
    assert isinstance(layer, Conv2d)
    channel, row, col = (int(i) for i in numbers["deep.place"])
    f = lesson.roles.deep_at[0]
    k, p = layer.kernel_size, layer.padding
    return Figure(
        "gather",
        "Layer gradient, by gather",
        f"The errors of map {f} on a field of zeros, the {k}×{k} window of them that touches one input, the filter "
        "turned by 180 degrees, and their products.",
        [
            map_panel(
                spread_out(step)[f],
                190,
                title="errors, with a border of zeros",
                note=f"map {f}",
                window=(col + p, row + p, k, k),
                strongest=largest(step.dy),
            ),
            table_panel(numbers, "gather.window", (f,), title="the window", note="errors that saw this input"),
            "×",
            table_panel(numbers, "deep.turned", (channel,), title="the filter, turned", note="by 180 degrees"),
            "=",
            table_panel(numbers, "gather.products", (f,), title="the products", note=f"of map {f}"),
        ],
        f"The window holds the errors of all outputs that used input ({row}, {col}) of channel {channel}. The turned "
        f"filter holds the weight that each of them used. All products of all {len(step.dy)} maps add up to this "
        "input's error.",
    )


def equal(lesson: Lesson) -> Figure | None:
    """The two results side by side."""
    step = lesson.roles.deep
    if step is None:
        return None
    numbers = lesson.numbers
    channel, row, col = (int(i) for i in numbers["deep.place"])
    before = name_of_input(lesson, step)
    parts: list[Panel | str] = []
    for words, name, values in (
        ("by scatter", f"{before}.error", step.dx),
        ("by gather", "gathered", numbers["gathered"]),
    ):
        drawn = map_panel(values[channel], 170, window=(col, row, 1, 1))
        number = numbers(name, channel, row, col)
        shapes = [
            *drawn.shapes,
            Text(86, drawn.height + 16, number, "strong"),
            Text(86, drawn.height + 36, f"bits {number.bits}", "code"),
        ]
        parts += [Panel(172, drawn.height + 48, shapes, words, f"channel {channel} of {size(step.dx.shape)}"), "="]
    return Figure(
        "equal",
        "Two ways, one result",
        "Two equal maps: the errors of one input channel, computed by scatter and by gather, with the same framed "
        "number and its bits under each.",
        parts[:-1],
        "Not only the pictures are equal. The number at the framed place has the same bits."
        if numbers["gathered"][channel, row, col] == step.dx[channel, row, col]
        else "The pictures are equal. The numbers differ in their last bits only: the two added in different orders.",
    )


def kernel_gradient(lesson: Lesson) -> Figure | None:
    """The kernel gradient as the sum of windows weighted by errors; JavaScript plays it."""
    step = lesson.roles.deep
    if step is None:
        return None
    layer, numbers = step.layer, lesson.numbers
    assert isinstance(layer, Conv2d)
    place = lesson.weight[1]
    f, row, col = (int(i) for i in numbers["kernel.place"])
    channel = place[1]
    mark = (layer.kernel_size - 1 - place[2], layer.kernel_size - 1 - place[3]) if layer.flip else (place[2], place[3])
    p, s, k = layer.padding, layer.stride, layer.kernel_size
    return Figure(
        "kernel-gradient",
        "Kernel gradient: windows, weighted by errors",
        f"Channel {channel} of the input with a window, the error of the output that saw it, the window weighted by "
        f"this error, and the sum of all weighted windows, which is the gradient of filter {f}, channel {channel}.",
        [
            map_panel(
                np.pad(step.x[channel], p),
                170,
                title="input of the layer",
                note=f"channel {channel} of {size(step.x.shape)}",
                id="kernel-x",
                window=(col * s, row * s, k, k),
                window_id="kernel-window",
            ),
            table_panel(numbers, "kernel.window", (channel,), title="the window", id="kernel-p"),
            "×",
            map_panel(
                step.dy[f],
                130,
                title="error of the output",
                note=f"map {f} of {size(step.dy.shape)}",
                window=(col, row, 1, 1),
                window_id="kernel-mark",
                strongest=largest(step.dy),
            ),
            "=",
            table_panel(numbers, "kernel.weighted", (channel,), title="weighted window", id="kernel-w"),
            "→",
            table_panel(
                numbers,
                "kernel.sum",
                (f, channel),
                title="sum of all weighted windows",
                note=f"the gradient of filter {f}, channel {channel}",
                id="kernel-sum",
                marked=[mark],
            ),
        ],
        f"The filter saw {step.dy[f].size} windows, so its gradient is the sum of {step.dy[f].size} weighted windows. "
        "The framed number in the last table is the gradient of the weight that the rest of this page follows.",
    )


def mismatch(lesson: Lesson) -> Figure | None:
    """Every pair of an output error and an input channel has a gradient of its own."""
    step = lesson.roles.deep
    if step is None:
        return None
    gradient = lesson.numbers["kernel.sum"][:MAPS_SHOWN, :MAPS_SHOWN]
    filters, inputs = gradient.shape[:2]
    side = 30.0
    shapes: list[Shape] = []
    for c in range(inputs):
        top = 48 + c * (side + 4)
        shapes += [Map(1, top, side, side, step.x[c], largest(step.x)), Rect(1, top, side, side, "frame")]
    for f in range(filters):
        left = 48 + f * (side + 4)
        shapes += [Map(left, 1, side, side, step.dy[f], largest(step.dy)), Rect(left, 1, side, side, "frame")]
        for c in range(inputs):
            top = 48 + c * (side + 4)
            shapes += [
                Map(left, top, side, side, gradient[f, c], largest(gradient)),
                Rect(left, top, side, side, "frame"),
            ]
    f, c = lesson.weight[1][:2]
    if f < filters and c < inputs:
        shapes.append(Rect(46 + f * (side + 4), 46 + c * (side + 4), side + 4, side + 4, "window"))
    width, height = 48.0 + filters * (side + 4), 48.0 + inputs * (side + 4)
    total = step.gradients["weight"].shape
    return Figure(
        "mismatch",
        f"{total[1]} channels in, {total[0]} errors back",
        f"A grid: the {total[1]} input channels down the left side, the {total[0]} output errors along the top, and in "
        f"each cell the {total[2]}×{total[3]} gradient that belongs to this pair.",
        [Panel(width, height, shapes, f"{total[1]} × {total[0]} gradients of {total[2]}×{total[3]}", zoom=1.5)],
        f"Left: the {total[1]} maps that came in. Top: the {total[0]} maps of errors that came back. Each pair has its "
        "own gradient. Read down a column for one filter's gradient. Add along a row, over all errors, for the error "
        "of one input channel. The framed cell is the gradient of the figure before.",
    )


def difference(lesson: Lesson) -> Figure:
    """The loss as a function of one weight, with the two points that the slope is measured between."""
    numbers = lesson.numbers
    above, below = numbers["difference64.above"], numbers["difference64.below"]
    points = [(0.0, lesson.trace.loss)]
    points += [(-h, float(loss)) for h, loss in zip(STEP_SIZES, below, strict=True)]
    points += [(h, float(loss)) for h, loss in zip(STEP_SIZES, above, strict=True)]
    curve = sorted(points)
    low, high = min(y for _, y in curve), max(y for _, y in curve)
    width, height = 300.0, 180.0
    unit = (high - low) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return (width / 2 + x * (width / 2 - 10), height - 12 - (y - low) / unit * (height - 30))

    first = 2  # A step of 0.1.
    left, right = place(-STEP_SIZES[first], float(below[first])), place(STEP_SIZES[first], float(above[first]))
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
    width, height, lowest = 300.0, 180.0, -12.0
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
    bars: list[Shape] = [Text(x, 8, word, "label") for x, word in ((18, "class"), (96, "before"), (226, "after"))]
    for i, k in enumerate(lesson.classes):
        y = 30 + 20 * i
        bars.append(Text(18, y, str(k), "strong" if k == lesson.label else "value"))
        for x, name in ((44, "probabilities"), (174, "adam.probabilities")):
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
            Panel(296, 30 + 20 * len(lesson.classes), bars, "probabilities"),
        ],
        f"After {ADAM_STEPS} small steps on this one image the network is surer that it shows class {lesson.label}.",
    )


def figures(lesson: Lesson) -> list[Figure]:
    """Those that this network has something to show for, in the page's order."""
    made = (
        error(lesson),
        dense_backward(lesson),
        activation_backward(lesson),
        pooling_backward(lesson),
        scatter(lesson),
        gather(lesson),
        equal(lesson),
        kernel_gradient(lesson),
        mismatch(lesson),
        difference(lesson),
        adam(lesson),
    )
    return [figure for figure in made if figure is not None]
