"""The numbers of the forward chapters."""

import numpy as np

from parallel_lenet import kernels
from parallel_lenet.explain.lesson import Array, Lesson, convolution_of, filters_of, pooling_of, window_of
from parallel_lenet.network.layers import Conv2d
from parallel_lenet.network.losses import softmax_cross_entropy


def compute(lesson: Lesson) -> None:
    """Keep the output of every layer, and the numbers inside the figures."""
    numbers = lesson.numbers
    steps = lesson.trace.steps
    images = lesson.model.images
    mean, std = np.array(images.mean), np.array(images.std)  # Numbers, or one for each channel.
    numbers.keep({"pixels": lesson.trace.pixels, "pixels.mean": mean, "pixels.std": std, "input": steps[0].x})
    for step in steps:
        numbers.keep({step.name: step.y, **{f"{step.name}.{part}": p for part, p in step.parameters.items()}})
    _convolution(lesson)
    _channels(lesson)
    _pooling(lesson)
    _dense(lesson)
    _softmax(lesson)


def _convolution(lesson: Lesson) -> None:
    step = lesson.roles.conv
    if step is None:
        return
    assert isinstance(step.layer, Conv2d)
    f, row, col = lesson.roles.conv_at
    window = window_of(step, row, col)
    y = np.empty((*step.y.shape, 1), step.y.dtype)
    no_bias = np.zeros(len(y), y.dtype)
    image = np.ascontiguousarray(step.x[..., np.newaxis])
    kernels.load(lesson.model.kernel).conv2d(image, filters_of(step), no_bias, step.layer.stride, step.layer.padding, y)
    lesson.numbers.keep({"products.sum": y[f, row, col, 0]})
    lesson.numbers.keep({"window": window, "filter": filters_of(step)[f], "products": window * filters_of(step)[f]})


def _channels(lesson: Lesson) -> None:
    """What each channel adds to one number of the deep convolution: the same convolution with only that channel."""
    step = lesson.roles.deep
    if step is None:
        return
    layer = convolution_of(step)
    f, row, col = lesson.roles.deep_at
    kernel = kernels.load(lesson.model.kernel)
    parts = np.empty(step.x.shape[0], step.x.dtype)
    for channel in range(len(parts)):
        y = np.empty((1, *step.y.shape[1:], 1), step.y.dtype)
        image = np.ascontiguousarray(step.x[channel : channel + 1, ..., np.newaxis])
        weight = np.ascontiguousarray(filters_of(step)[f : f + 1, channel : channel + 1])
        kernel.conv2d(image, weight, np.zeros(1, y.dtype), layer.stride, layer.padding, y)
        parts[channel] = y[0, row, col, 0]
    lesson.numbers.keep({"channel.sums": parts})


def _pooling(lesson: Lesson) -> None:
    """Mean and maximum of one window, by both kinds of pooling, whichever the network has."""
    step = lesson.roles.pool
    if step is None:
        return
    layer = pooling_of(step)
    channel, row, col = lesson.roles.pool_at
    kernel = kernels.load(lesson.model.kernel)
    pooled = {}
    for name, pool in (("average", kernel.avg_pool2d), ("maximum", kernel.max_pool2d)):
        y = np.empty((*step.y.shape, 1), step.y.dtype)
        pool(np.ascontiguousarray(step.x[..., np.newaxis]), layer.size, layer.stride, y)
        pooled[f"pool.{name}"] = y[channel, row, col, 0]
    lesson.numbers.keep({"pool.window": window_of(step, row, col)[channel], **pooled})


def _dense(lesson: Lesson) -> None:
    """The products that make the score of the right class."""
    step = lesson.roles.dense
    if step is not None:
        unit = lesson.label if step is lesson.trace.steps[-1] else int(np.abs(step.y).argmax())
        products = step.parameters["weight"][unit] * step.x
        lesson.numbers.keep({"dense.products": products, "dense.order": np.argsort(-np.abs(products), kind="stable")})


def _softmax(lesson: Lesson) -> None:
    """The rows of the table. The kernel subtracts 1 at the target, so two targets give all probabilities."""
    logits = lesson.trace.steps[-1].y
    probabilities = np.empty_like(logits)
    for target in (lesson.label, (lesson.label + 1) % len(logits)):
        error, _ = _error(lesson, target)
        others = np.arange(len(logits)) != target
        probabilities[others] = error[others]
    shifted = logits - logits.max()
    lesson.numbers.keep(
        {
            "shifted": shifted,
            "exponentials": np.exp(shifted),
            "exponentials.sum": np.exp(shifted).sum(),
            "probabilities": probabilities,
            "loss": lesson.trace.loss,
        }
    )


def _error(lesson: Lesson, target: int) -> tuple[Array, float]:
    logits = lesson.trace.steps[-1].y[:, np.newaxis]
    error = np.empty_like(logits)
    kernel = kernels.load(lesson.model.kernel)
    loss, _ = softmax_cross_entropy(kernel, np.ascontiguousarray(logits), np.array([target]), error)
    return error[:, 0], loss
