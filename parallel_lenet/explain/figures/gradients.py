"""The figures of a convolution, backward: the layer gradient and the kernel gradient."""

import numpy as np

from parallel_lenet.explain.backward import spread_out
from parallel_lenet.explain.drawing import Figure, Map, Panel, Rect, Shape, Text, largest, map_panel, table_panel
from parallel_lenet.explain.figures.words import name_of_input, size
from parallel_lenet.explain.lesson import Lesson, convolution_of
from parallel_lenet.explain.trace import Step

PAIRS_SHOWN = 16  # The most filters and channels in the grid of gradients.


def scatter(lesson: Lesson, step: Step) -> Figure:
    """The layer gradient by adding each weighted filter into its window. JavaScript plays it."""
    layer = convolution_of(step)
    numbers = lesson.numbers
    f, row, col = lesson.roles.deep_at
    channel = int(numbers["deep.place"][0])
    p = layer.padding
    s = layer.stride
    k = layer.kernel_size
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


def gather(lesson: Lesson, step: Step) -> Figure:
    """One number of the layer gradient, gathered with the filter turned by 180 degrees."""
    layer = convolution_of(step)
    numbers = lesson.numbers
    channel, row, col = (int(i) for i in numbers["deep.place"])
    f = lesson.roles.deep_at[0]
    k = layer.kernel_size
    p = layer.padding
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


def equal(lesson: Lesson, step: Step) -> Figure:
    """The two results side by side."""
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


def kernel_gradient(lesson: Lesson, step: Step) -> Figure:
    """The kernel gradient as the sum of windows weighted by errors. JavaScript plays it."""
    layer = convolution_of(step)
    numbers = lesson.numbers
    place = lesson.weight[1]
    f, row, col = (int(i) for i in numbers["kernel.place"])
    channel = place[1]
    mark = (layer.kernel_size - 1 - place[2], layer.kernel_size - 1 - place[3]) if layer.flip else (place[2], place[3])
    p = layer.padding
    s = layer.stride
    k = layer.kernel_size
    return Figure(
        "kernel-gradient",
        "Kernel gradient: windows, weighted by errors",
        f"Channel {channel} of the input with a window, the error of the output that saw it, the window weighted by "
        f"this error, and the sum of all weighted windows, which is the gradient of filter {f}, channel {channel}.",
        [
            map_panel(
                np.pad(step.x[channel], p),
                136,
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
                104,
                title="output errors",
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


def mismatch(lesson: Lesson, step: Step) -> Figure:
    """Every pair of an output error and an input channel has a gradient of its own."""
    gradient = lesson.numbers["kernel.sum"][:PAIRS_SHOWN, :PAIRS_SHOWN]
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
    width = 48.0 + filters * (side + 4)
    height = 48.0 + inputs * (side + 4)
    total = step.gradients["weight"].shape
    return Figure(
        "mismatch",
        f"{total[1]} channels in, {total[0]} errors back",
        f"A grid: the {total[1]} input channels down the left side, the {total[0]} output errors along the top, and in "
        f"each cell the {total[2]}×{total[3]} gradient that belongs to this pair.",
        [Panel(width, height, shapes, f"{total[1]} × {total[0]} gradients of {total[2]}×{total[3]}", zoom=1.5)],
        f"Left: the {total[1]} maps that came in. Top: the {total[0]} maps of errors that came back. Each pair has its "
        "own gradient. Read down a column for one filter's gradient. The error of an input channel is another sum: "
        f"each of the {total[0]} errors slid over with its filter, as in the chapter before. The framed cell is the "
        "gradient of the figure before.",
    )
