"""The figures of a convolution, forward."""

import numpy as np

from parallel_lenet.explain.drawing import Figure, Line, Map, Panel, Rect, Shape, Text, largest, map_panel, table_panel
from parallel_lenet.explain.figures.words import size
from parallel_lenet.explain.lesson import Lesson, convolution_of
from parallel_lenet.explain.numbers import places_of_sum
from parallel_lenet.explain.trace import Step

PARTS_SHOWN = 8  # The most channels whose part in a sum is shown.


def convolution(lesson: Lesson, step: Step) -> Figure:
    """One window of the first convolution, number by number. JavaScript moves it."""
    layer = convolution_of(step)
    numbers = lesson.numbers
    f, row, col = lesson.roles.conv_at
    k = layer.kernel_size
    p = layer.padding
    padded = np.pad(step.x, ((0, 0), (p, p), (p, p)))
    strongest = largest(numbers["products"])
    return Figure(
        "convolution",
        "One window, one number",
        f"A {k}×{k} window on the input, the numbers in it, the numbers of filter {f}, their products, and the output "
        "map with the one number that their sum becomes.",
        [
            map_panel(
                padded[0],
                140,
                title="input",
                note=f"{size(step.x.shape)}{f', with a border of {p}' if p else ''}",
                id="conv-input",
                window=(col * layer.stride, row * layer.stride, k, k),
                window_id="conv-window",
            ),
            table_panel(numbers, "window", (0,), title="the window", note="numbers of the input", id="conv-x"),
            "×",
            table_panel(numbers, "filter", (0,), title="the filter", note="learned weights", id="conv-w"),
            "=",
            table_panel(
                numbers, "products", (0,), title="the products", note="place by place", id="conv-p", strongest=strongest
            ),
            map_panel(
                step.y[f],
                124,
                title="output",
                note=f"map {f} of {size(step.y.shape)}",
                id="conv-output",
                window=(col, row, 1, 1),
                window_id="conv-mark",
            ),
        ],
        "Each place of the window is multiplied by the weight at the same place of the filter. All products are added, "
        "then the bias. The sum is one number of the output, framed in the last map.",
    )


def channels(lesson: Lesson, step: Step) -> Figure:
    """One number of the deep convolution as the sum of what each input channel adds."""
    layer = convolution_of(step)
    numbers = lesson.numbers
    f, row, col = lesson.roles.deep_at
    k = layer.kernel_size
    p = layer.padding
    s = layer.stride
    bias = numbers[f"{step.name}.bias"][f]
    places = places_of_sum(*numbers["channel.sums"][:PARTS_SHOWN], bias, step.y[f, row, col])
    parts: list[Panel | str] = []
    weight = numbers[f"{step.name}.weight"][f]
    if layer.flip:
        weight = weight[:, ::-1, ::-1]
    for channel in range(min(len(step.x), PARTS_SHOWN)):
        values = np.pad(step.x[channel], p)
        scale = 92 / values.shape[1]
        shapes: list[Shape] = [
            Map(1, 1, 92, scale * values.shape[0], values, largest(step.x)),
            Rect(1, 1, 92, scale * values.shape[0], "frame"),
            Rect(1 + col * s * scale, 1 + row * s * scale, k * scale, k * scale, "window"),
        ]
        top = scale * values.shape[0] + 10
        shapes += [
            Text(17, top + 24, "×", "sign"),
            Map(30, top, 48, 48, weight[channel], largest(weight)),
            Rect(30, top, 48, 48, "frame"),
            Text(47, top + 66, numbers("channel.sums", channel, places=places), "strong"),
        ]
        panel = Panel(94, top + 76, shapes, f"channel {channel}")
        parts += ["+", panel] if parts else [panel]
    if len(step.x) > PARTS_SHOWN:
        parts += ["+", Panel(60, 40, [Text(30, 20, f"{len(step.x) - PARTS_SHOWN} more", "label")])]
    answer: list[Shape] = [
        Text(60, 18, "bias", "label"),
        Text(60, 36, numbers(f"{step.name}.bias", f, places=places), "strong"),
        Line(((10, 52), (110, 52))),
        Text(60, 72, f"output {f}, {row}, {col}", "label"),
        Rect(22, 84, 76, 28, "result"),
        Text(60, 98, numbers(step.name, f, row, col, places=places), "strong"),
    ]
    parts += ["+", Panel(120, 120, answer, "sum")]
    return Figure(
        "channels",
        f"One filter sees all {len(step.x)} channels",
        f"For each of the {len(step.x)} input channels: its map with the window, the slice of filter {f} for this "
        "channel, and the sum of their products. All sums and the bias add up to one output number.",
        parts,
        f"A filter has one slice per input channel. The {len(step.x)} sums and the bias make one number of output map "
        f"{f}. The next filter does the same with its own slices, so {len(step.y)} filters give {len(step.y)} maps.",
    )
