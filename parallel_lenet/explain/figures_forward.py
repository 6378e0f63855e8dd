"""The figures of the forward chapters."""

import numpy as np

from parallel_lenet.explain.drawing import Figure, Line, Map, Panel, Rect, Shape, Text, largest, map_panel, table_panel
from parallel_lenet.explain.lesson import Array, Lesson
from parallel_lenet.explain.trace import Step
from parallel_lenet.network.layers import AvgPool2d, Conv2d, Dense, Flatten, MaxPool2d, ReLU, Tanh

MAPS_SHOWN = 16  # Channels of a layer that a figure has room for.
PARTS_SHOWN = 8


def size(shape: tuple[int, ...]) -> str:
    """``28×28×6``, rows by columns by channels, as the tutorial writes shapes; ``120`` for a vector."""
    return "×".join(map(str, (*shape[1:], shape[0]))) if len(shape) == 3 else "×".join(map(str, shape))


def kind(step: Step) -> str:
    """What a layer does, in two or three words."""
    layer = step.layer
    if isinstance(layer, Conv2d):
        return f"convolution {layer.kernel_size}×{layer.kernel_size}"
    if isinstance(layer, AvgPool2d | MaxPool2d):
        return f"{'average' if isinstance(layer, AvgPool2d) else 'max'} pooling {layer.size}×{layer.size}"
    return {Dense: "dense", Flatten: "flatten", Tanh: "tanh", ReLU: "ReLU"}[type(layer)]


def name_of_input(lesson: Lesson, step: Step) -> str:
    """The name of the array that a layer reads."""
    before = lesson.trace.steps.index(step) - 1
    return "input" if before < 0 else lesson.trace.steps[before].name


def architecture(lesson: Lesson) -> Figure:
    """Every layer with what it makes of this image."""
    steps = lesson.trace.steps
    parts: list[Panel | str] = [_outputs(steps[0].x, "input")]
    i = 0
    while i < len(steps):
        words, y = [kind(steps[i])], steps[i].y
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
        "Read from left to right. Orange stands for positive numbers, blue for negative ones, and no colour for zero. "
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
        x, top = 1 + i % columns * side, 1 + i // columns * side
        shapes += [Map(x, top, side - 3, side - 3, values, largest(y)), Rect(x, top, side - 3, side - 3, "frame")]
    note = size(y.shape) + (f" (first {MAPS_SHOWN})" if len(y) > MAPS_SHOWN else "")
    return Panel(max(columns * side, 96.0), rows * side, shapes, title, note)


def image(lesson: Lesson) -> Figure:
    """The stored pixels, and what the network makes of them before its first layer."""
    pixels, prepared = lesson.trace.pixels, lesson.trace.steps[0].x
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


def convolution(lesson: Lesson) -> Figure | None:
    """One window of the first convolution, number by number; JavaScript moves it."""
    step = lesson.roles.conv
    if step is None:
        return None
    layer, numbers = step.layer, lesson.numbers
    assert isinstance(layer, Conv2d)
    f, row, col = lesson.roles.conv_at
    k, p = layer.kernel_size, layer.padding
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
                230,
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
                196,
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


def output_shape(lesson: Lesson) -> Figure:
    """Three ways to lay windows on the same 7×7 input."""
    cases = ((1, 0, "stride 1"), (2, 0, "stride 2"), (1, 1, "padding 1"))
    parts: list[Panel | str] = []
    for stride, padding, title in cases:
        rows = Conv2d(1, 3, stride, padding).output_shape((1, 7, 7))[1]
        side, total = 20.0, 7 + 2 * padding
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
        "Three drawings of a 3×3 window on a 7×7 input: with stride 1 the output has 5×5 numbers, with stride 2 it has "
        "3×3, with a padding of one zero on each side it has 7×7.",
        parts,
        "The first window is framed in full, the second one dashed. The small grid beside each input is the output: "
        "one cell per window.",
    )


def channels(lesson: Lesson) -> Figure | None:
    """One number of the deep convolution as the sum of what each input channel adds."""
    step = lesson.roles.deep
    if step is None:
        return None
    layer, numbers = step.layer, lesson.numbers
    assert isinstance(layer, Conv2d)
    f, row, col = lesson.roles.deep_at
    k, p, s = layer.kernel_size, layer.padding, layer.stride
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
            Text(47, top + 66, numbers("channel.sums", channel), "strong"),
        ]
        parts += (
            ["+", Panel(94, top + 76, shapes, f"channel {channel}")]
            if parts
            else [Panel(94, top + 76, shapes, f"channel {channel}")]
        )
    if len(step.x) > PARTS_SHOWN:
        parts += ["+", Panel(60, 40, [Text(30, 20, f"{len(step.x) - PARTS_SHOWN} more", "label")])]
    answer: list[Shape] = [
        Text(60, 18, "bias", "label"),
        Text(60, 36, numbers(f"{step.name}.bias", f), "strong"),
        Line(((10, 52), (110, 52))),
        Text(60, 72, f"output {f}, {row}, {col}", "label"),
        Rect(22, 84, 76, 28, "result"),
        Text(60, 98, numbers(step.name, f, row, col), "strong"),
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


def activation(lesson: Lesson) -> Figure | None:
    """The curve of the activation, and one number on it."""
    step = lesson.roles.activation
    if step is None:
        return None
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


def pooling(lesson: Lesson) -> Figure | None:
    """One window of the first pooling, its mean and its maximum."""
    step = lesson.roles.pool
    if step is None:
        return None
    layer, numbers = step.layer, lesson.numbers
    assert isinstance(layer, AvgPool2d | MaxPool2d)
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


def flatten(lesson: Lesson) -> Figure | None:
    """Where one number of a map stands in the vector."""
    step = lesson.roles.flatten
    if step is None or step.x.ndim != 3 or lesson.roles.dense is None:
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
        cells += [Rect(1 + j * 46, 1 + i * 26, 46, 26, "cell", level), Text(24 + j * 46, 14 + i * 26, number, "value")]
    cells.append(Rect(1 + (col - left) * 46, 1 + (row - top) * 26, 46, 26, "mark"))
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
            Panel(cols * 46 + 2, rows * 26 + 2, cells, f"map {channel}", f"of {size(step.x.shape)}"),
            "→",
            Panel(116, 132, strip, "the vector", f"{len(step.y)} numbers"),
        ],
        f"Map after map, row after row. The framed number stands at place ({channel} × {step.x.shape[1]} + {row}) × "
        f"{step.x.shape[2]} + {col} = {place}.",
    )


def dense(lesson: Lesson) -> Figure | None:
    """The six largest products of one unit of the last dense layer."""
    step = lesson.roles.dense
    if step is None:
        return None
    numbers = lesson.numbers
    unit = lesson.label if step is lesson.trace.steps[-1] else int(np.abs(step.y).argmax())
    before = name_of_input(lesson, step)
    shown = [int(i) for i in numbers["dense.order"][:6]]
    strongest = largest(numbers["dense.products"])
    shapes: list[Shape] = [
        *(Text(x, 8, word, "label") for x, word in ((26, "input"), (84, "x"), (150, "weight"), (222, "product"))),
    ]
    height = 24 + 28 * len(shown)
    middle = (18 + height) / 2
    for i, j in enumerate(shown):
        y = 32 + 28 * i
        shapes += [
            Text(26, y, str(j), "label"),
            Text(84, y, numbers(before, j), "value"),
            Text(115, y, "×", "sign"),
            Text(150, y, numbers(f"{step.name}.weight", unit, j), "value"),
            Text(184, y, "=", "sign"),
            Rect(196, y - 12, 52, 24, "cell", float(numbers["dense.products"][j]) / strongest),
            Text(222, y, numbers("dense.products", j), "value"),
            Line(((250, y), (292, middle)), "line"),
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
        [Panel(296, height + 24, shapes, f"{len(step.x)} products, the largest first"), "+", Panel(120, 114, answer)],
        f"Each of the {len(step.x)} inputs has its own weight for each of the {len(step.y)} outputs. No window, no "
        f"position: {len(step.y)} × {len(step.x)} = {len(step.y) * len(step.x):,} weights.",
    )


def softmax(lesson: Lesson) -> Figure:
    """From scores to probabilities, class by class."""
    numbers, scores = lesson.numbers, lesson.trace.steps[-1].name
    probabilities = numbers["probabilities"]
    xs = (22, 82, 150, 222, 292)
    words = ("class", "score", "− largest", "exp", "probability")
    shapes: list[Shape] = [Text(x, 8, word, "label") for x, word in zip(xs, words, strict=True)]
    for i, k in enumerate(lesson.classes):
        y = 32 + 24 * i
        if k == lesson.label:
            shapes.append(Rect(1, y - 12, 338, 24, "mark"))
        shapes.append(Rect(256, y - 10, 78 * float(probabilities[k]), 20, "bar"))
        for x, name in zip(xs[1:], (scores, "shifted", "exponentials", "probabilities"), strict=True):
            shapes.append(Text(x, y, numbers(name, k), "value"))
        shapes.append(Text(xs[0], y, str(k), "strong" if k == lesson.label else "value"))
    bottom = 32 + 24 * len(lesson.classes)
    shapes += [
        Text(150, bottom + 4, "sum of all", "label"),
        Text(222, bottom + 4, numbers("exponentials.sum"), "strong"),
    ]
    return Figure(
        "softmax",
        "From scores to probabilities",
        "For each class: its score, the score minus the largest one, the exponential of that, and its share of the "
        f"sum of all exponentials. The right class, {lesson.label}, is framed.",
        [Panel(342, bottom + 16, shapes)],
        "Each exponential divided by the sum of all is a probability. They are positive and add up to 1. The framed "
        "row is the right class.",
    )


def figures(lesson: Lesson) -> list[Figure]:
    """Those that this network has something to show for, in the page's order."""
    made = (
        architecture(lesson),
        image(lesson),
        convolution(lesson),
        output_shape(lesson),
        channels(lesson),
        activation(lesson),
        pooling(lesson),
        flatten(lesson),
        dense(lesson),
        softmax(lesson),
    )
    return [figure for figure in made if figure is not None]
