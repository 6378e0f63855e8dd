"""The numbers of the backward chapters: errors, both gradients of a convolution, finite differences, Adam."""

from dataclasses import replace

import numpy as np

from parallel_lenet import kernels
from parallel_lenet.explain.lesson import Array, Lesson, convolution_of, filters_of, pooling_of, window_of
from parallel_lenet.explain.trace import Step
from parallel_lenet.network.layers import Conv2d, Tanh
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.optimizers import Adam
from parallel_lenet.parameters import Vector

STEP_SIZES = tuple(digit / 10**k for k in range(7) for digit in (1, 0.3))  # 1, 0.3, 0.1, ... 3e-7.
LEARNING_RATE = 0.0001
ADAM_STEPS = 5


def compute(lesson: Lesson) -> None:
    """Keep the error of every layer, and the numbers inside the figures."""
    steps = lesson.trace.steps
    lesson.numbers.keep({"input.error": steps[0].dx})
    for step in steps:
        lesson.numbers.keep({f"{step.name}.error": step.dy})
        lesson.numbers.keep({f"{step.name}.{part}.gradient": g for part, g in step.gradients.items()})
    _dense(lesson)
    _activation(lesson)
    _pooling(lesson)
    if lesson.roles.deep is not None:
        _layer_gradient(lesson, lesson.roles.deep)
        _kernel_gradient(lesson, lesson.roles.deep)
    _finite_differences(lesson)
    _adam(lesson)


def _dense(lesson: Lesson) -> None:
    """The products that make the error of one input of the last dense layer: the input with the largest error."""
    step = lesson.roles.dense
    if step is not None:
        unit = int(np.abs(step.dx).argmax())
        lesson.numbers.keep({"dense.unit": unit, "dense.back": step.parameters["weight"][:, unit] * step.dy})


def _activation(lesson: Lesson) -> None:
    """The slope of the activation's curve at one number."""
    step = lesson.roles.activation
    if step is None:
        return
    y = step.y[lesson.roles.activation_at]
    slope = y.dtype.type(y > 0)
    if isinstance(step.layer, Tanh):
        slope = step.layer.amplitude - y * y / step.layer.amplitude
    lesson.numbers.keep({"activation.slope": slope})


def _pooling(lesson: Lesson) -> None:
    """One error through both kinds of pooling, whichever the network has."""
    step = lesson.roles.last_pool
    if step is None:
        return
    layer = pooling_of(step)
    channel, row, col = lesson.roles.last_pool_at
    kernel = kernels.load(lesson.model.kernel)
    x = np.ascontiguousarray(window_of(step, row, col)[channel : channel + 1, ..., np.newaxis])
    dy = np.ascontiguousarray(step.dy[channel : channel + 1, row : row + 1, col : col + 1, np.newaxis])
    spread = np.empty_like(x)
    kernel.avg_pool2d_gradient(dy, layer.size, layer.stride, spread)
    chosen = np.empty_like(x)
    kernel.max_pool2d_gradient(x, dy, layer.size, layer.stride, chosen)
    lesson.numbers.keep(
        {"unpool.window": x[0, ..., 0], "unpool.average": spread[0, ..., 0], "unpool.maximum": chosen[0, ..., 0]}
    )


def _layer_gradient(lesson: Lesson, step: Step) -> None:
    """The error of the deep convolution's input a second time: gathered, by correlation with the turned filters."""
    gathered = gather(step)
    assert isinstance(step.layer, Conv2d)
    k = step.layer.kernel_size
    padding = step.layer.padding
    place = tuple(int(i) for i in np.unravel_index(np.abs(step.dx).argmax(), step.dx.shape))
    turned = correlate(lesson, step)
    filters = filters_of(step)[:, :, ::-1, ::-1]
    field = spread_out(step)
    window = field[:, place[1] + padding : place[1] + padding + k, place[2] + padding : place[2] + padding + k]
    products = window * filters[:, place[0]]
    lesson.numbers.keep(
        {
            "gathered": gathered,
            "gathered.same": int((gathered == step.dx).sum()),
            "correlated": turned,
            "correlated.difference": np.abs(turned - step.dx).max(),
            "deep.place": np.array(place),
            "scattered": scatter(step, lesson.roles.deep_at),
            "deep.filter": filters_of(step)[lesson.roles.deep_at[0]],
            "deep.turned": filters[lesson.roles.deep_at[0]].copy(),
            "gather.window": window.copy(),
            "gather.products": products,
        }
    )


def scatter(step: Step, place: tuple[int, ...]) -> Array:
    """What one output's error adds to its window: its filter, weighted by the error, ``(c, k, k)``."""
    product: Array = step.dy[place] * filters_of(step)[place[0]]
    return product


def spread_out(step: Step) -> Array:
    """The errors ``(f, rows, cols)`` as the turned filters pass over them.

    A stride leaves ``stride - 1`` zeros between two errors. Around all of them lie ``k - 1`` zeros, so that the filter
    can also touch the outermost errors with one corner only.
    """
    layer = convolution_of(step)
    filters, rows, cols = step.dy.shape
    border = layer.kernel_size - 1
    height, width = (size + 2 * layer.padding + border for size in step.x.shape[1:])
    field = np.zeros((filters, height, width), step.dy.dtype)
    stop = (border + rows * layer.stride, border + cols * layer.stride)
    field[:, border : stop[0] : layer.stride, border : stop[1] : layer.stride] = step.dy
    return field


def gather(step: Step) -> Array:
    """The input's error by gathering: each adds up the errors of all outputs that saw it, in the order of the scatter.

    The terms are the same and so is their order: filter by filter, row by row. So are the bits.
    """
    layer = convolution_of(step)
    field = spread_out(step)
    k = layer.kernel_size
    padding = layer.padding
    turned = filters_of(step)[:, :, ::-1, ::-1]
    channels, height, width = step.x.shape
    dx = np.zeros((channels, height + 2 * padding, width + 2 * padding), step.dx.dtype)
    for f in range(len(field)):
        for i in range(k):
            for j in range(k):
                errors = field[f, i : i + dx.shape[1], j : j + dx.shape[2]]
                dx += errors * turned[f, :, i, j, np.newaxis, np.newaxis]
    return np.ascontiguousarray(dx[:, padding : padding + height, padding : padding + width])


def correlate(lesson: Lesson, step: Step) -> Array:
    """The input's error once more: ``conv2d``, the forward function, over the errors with the turned filters."""
    layer = convolution_of(step)
    turned = np.ascontiguousarray(filters_of(step)[:, :, ::-1, ::-1].transpose(1, 0, 2, 3))
    channels, height, width = step.x.shape
    padding = layer.padding
    y = np.empty((channels, height + 2 * padding, width + 2 * padding, 1), step.dx.dtype)
    kernel = kernels.load(lesson.model.kernel)
    field = np.ascontiguousarray(spread_out(step)[..., np.newaxis])
    kernel.conv2d(field, turned, np.zeros(channels, y.dtype), 1, 0, y)
    return np.ascontiguousarray(y[:, padding : padding + height, padding : padding + width, 0])


def _kernel_gradient(lesson: Lesson, step: Step) -> None:
    """What the window with the largest error of its filter adds to the followed weight's gradient."""
    assert isinstance(step.layer, Conv2d)
    f = lesson.weight[1][0]
    row, col = (int(i) for i in np.unravel_index(np.abs(step.dy[f]).argmax(), step.dy[f].shape))
    window = window_of(step, row, col)
    gradient = step.gradients["weight"]
    lesson.numbers.keep(
        {
            "kernel.place": np.array([f, row, col]),
            "kernel.window": window,
            "kernel.weighted": step.dy[f, row, col] * window,
            "kernel.sum": gradient[:, :, ::-1, ::-1].copy() if step.layer.flip else gradient,
        }
    )


def loss(model: Sequential, parameters: Vector, lesson: Lesson) -> float:
    """The loss of the lesson's image."""
    return model.loss_and_gradient(parameters, lesson.images[:1], lesson.labels[:1], None).loss_sum


def _finite_differences(lesson: Lesson) -> None:
    """The slope of the loss, by smaller and smaller steps of one weight, in the network's dtype and in float64."""
    index = lesson.weight_index
    for name, dtype in (("difference", lesson.model.dtype), ("difference64", "float64")):
        model = replace(lesson.model, dtype=dtype)
        parameters = lesson.parameters.astype(dtype)
        losses = np.empty((2, len(STEP_SIZES)))
        distances = np.empty(len(STEP_SIZES))
        for k, h in enumerate(STEP_SIZES):
            ends = []
            for side, sign in enumerate((1, -1)):
                moved = parameters.copy()
                moved[index] += parameters.dtype.type(sign * h)
                ends.append(float(moved[index]))
                losses[side, k] = loss(model, moved, lesson)
            distances[k] = ends[0] - ends[1]
        with np.errstate(divide="ignore", invalid="ignore"):  # A step too small to move the weight at all.
            slopes = (losses[0] - losses[1]) / distances
        lesson.numbers.keep({f"{name}.slope": slopes})
    lesson.numbers.keep({"difference64.above": losses[0], "difference64.below": losses[1]})
    gradient = np.empty_like(parameters)  # The exact one, for comparison: in float64.
    model.loss_and_gradient(parameters, *_own_image(lesson), gradient)
    lesson.numbers.keep({"difference.step": np.array(STEP_SIZES), "difference64.gradient": gradient[index]})


def _adam(lesson: Lesson) -> None:
    """A few steps of Adam on this one image: the followed weight and the loss after each."""
    model = lesson.model
    index = lesson.weight_index
    optimizer = Adam(LEARNING_RATE, fused=False)
    parameters = lesson.parameters
    state = optimizer.init(lesson.parameters)
    rows: dict[str, list[float]] = {name: [] for name in ("weight", "loss", "gradient", "first", "second", "change")}
    gradient = np.empty_like(parameters)
    for _ in range(ADAM_STEPS):
        rows["loss"].append(model.loss_and_gradient(parameters, *_own_image(lesson), gradient).loss_sum)
        rows["weight"].append(parameters[index])
        rows["gradient"].append(gradient[index])
        updated, state = optimizer.update(parameters, gradient, state)
        rows["first"].append(state.slots["first_moment"][index])
        rows["second"].append(state.slots["second_moment"][index])
        rows["change"].append(updated[index] - parameters[index])
        parameters = updated
    rows["weight"].append(parameters[index])
    rows["loss"].append(loss(model, parameters, lesson))
    lesson.numbers.keep({f"adam.{name}": np.array(values) for name, values in rows.items()})
    scores = model.scores(parameters, lesson.images[:1])[0]
    lesson.numbers.keep({"adam.probabilities": np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()})


def _own_image(lesson: Lesson) -> tuple[Array, Array]:
    return lesson.images[:1], lesson.labels[:1]
