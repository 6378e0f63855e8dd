"""The nested loops of the tutorial: the specification, to be read.

Each function loops over images, filters, rows and columns, and does at each place what the formula says with one
window of the input. Nothing is arranged for speed beyond that: one image takes about 0.04 s forward and backward. The
other kernels compute the same numbers; the tests hold them to this one.

What sums over the images adds them along a balanced binary tree over their positions, (0 + 1) + (2 + 3) and so on. Each
image's part is computed from an array of its own, so that the number of images beside it changes no bit.

Names: ``x`` is a layer's input, ``y`` its output, ``dy`` the error of the output (the loss's gradient with respect to
it), ``window`` the part of the input that one output value sees.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LEAF = 1
SHARD_SIZE = 1  # An image takes so long that the finest shards balance the workers best and cost nothing.


def prepare_images(images: Array, scale: float, shift: float, out: Array) -> None:
    """Put each image in the middle of a border of zeros, then scale and shift every pixel."""
    n, _, height, width = images.shape
    top, left = (out.shape[1] - height) // 2, (out.shape[2] - width) // 2
    out[:] = 0
    for i in range(n):
        out[:, top : top + height, left : left + width, i] = images[i]
    out *= scale
    out += shift


def _padded(image: Array, padding: int) -> Array:
    """One image ``(c, h, w)`` with ``padding`` zeros on each side."""
    return np.pad(image, ((0, 0), (padding, padding), (padding, padding)))


def conv2d(x: Array, weight: Array, bias: Array, stride: int, padding: int, out: Array) -> None:
    """Forward: y[f, r, c] = sum(window at (r, c) * kernel f) + bias f."""
    filters, rows, columns, n = out.shape
    kh, kw = weight.shape[2:]
    for i in range(n):
        image = _padded(x[..., i], padding)
        for f in range(filters):
            kernel = weight[f]
            for r in range(rows):
                for c in range(columns):
                    top, left = r * stride, c * stride
                    window = image[:, top : top + kh, left : left + kw]
                    out[f, r, c, i] = (window * kernel).sum() + bias[f]


def conv2d_input_gradient(dy: Array, weight: Array, stride: int, padding: int, out: Array) -> None:
    """The layer gradient: each kernel, weighted by the output's error, is added into the input window it saw."""
    filters, rows, columns, n = dy.shape
    channels, height, width, _ = out.shape
    kh, kw = weight.shape[2:]
    for i in range(n):
        error = np.zeros((channels, height + 2 * padding, width + 2 * padding), out.dtype)
        for f in range(filters):
            kernel = weight[f]
            for r in range(rows):
                for c in range(columns):
                    top, left = r * stride, c * stride
                    error[:, top : top + kh, left : left + kw] += dy[f, r, c, i] * kernel
        out[..., i] = error[:, padding : padding + height, padding : padding + width]


def _tree_sum(parts: Sequence[Any]) -> Any:
    """The sum along a balanced binary tree: neighbours, then neighbouring sums; who has no neighbour waits."""
    while len(parts) > 1:
        pairs = [parts[i] + parts[i + 1] for i in range(0, len(parts) - 1, 2)]
        parts = [*pairs, *parts[2 * len(pairs) :]]
    return parts[0]


def conv2d_weight_gradient(x: Array, dy: Array, stride: int, padding: int, dw: Array, db: Array) -> None:
    """The kernel gradient: each input window, weighted by the output's error, is added up; the bias adds the errors."""
    filters, rows, columns, n = dy.shape
    kh, kw = dw.shape[2:]
    weights = np.zeros((n, *dw.shape), dw.dtype)
    biases = np.zeros((n, *db.shape), db.dtype)
    for i in range(n):
        image = _padded(x[..., i], padding)
        error = np.ascontiguousarray(dy[..., i])
        for f in range(filters):
            for r in range(rows):
                for c in range(columns):
                    top, left = r * stride, c * stride
                    window = image[:, top : top + kh, left : left + kw]
                    weights[i, f] += error[f, r, c] * window
            biases[i, f] = error[f].sum()
    dw[:] = _tree_sum(list(weights))
    db[:] = _tree_sum(list(biases))


def avg_pool2d(x: Array, size: int, stride: int, out: Array) -> None:
    """Forward: y[channel, r, c] = mean(window at (r, c))."""
    channels, rows, columns, n = out.shape
    area = size * size
    for i in range(n):
        image = np.ascontiguousarray(x[..., i])
        for channel in range(channels):
            for r in range(rows):
                for c in range(columns):
                    top, left = r * stride, c * stride
                    window = image[channel, top : top + size, left : left + size]
                    out[channel, r, c, i] = window.sum() / area


def avg_pool2d_gradient(dy: Array, size: int, stride: int, out: Array) -> None:
    """Backward: the error of a mean is spread evenly over the window it was the mean of."""
    channels, rows, columns, n = dy.shape
    area = size * size
    out[:] = 0
    for i in range(n):
        for channel in range(channels):
            for r in range(rows):
                for c in range(columns):
                    top, left = r * stride, c * stride
                    out[channel, top : top + size, left : left + size, i] += dy[channel, r, c, i] / area


def max_pool2d(x: Array, size: int, stride: int, out: Array) -> None:
    """Forward: y[channel, r, c] = max(window at (r, c))."""
    channels, rows, columns, n = out.shape
    for i in range(n):
        image = np.ascontiguousarray(x[..., i])
        for channel in range(channels):
            for r in range(rows):
                for c in range(columns):
                    top, left = r * stride, c * stride
                    out[channel, r, c, i] = image[channel, top : top + size, left : left + size].max()


def max_pool2d_gradient(x: Array, dy: Array, size: int, stride: int, out: Array) -> None:
    """Backward: the error of a maximum goes, whole, to the place the maximum came from."""
    channels, rows, columns, n = dy.shape
    out[:] = 0
    for i in range(n):
        image = np.ascontiguousarray(x[..., i])
        for channel in range(channels):
            for r in range(rows):
                for c in range(columns):
                    top, left = r * stride, c * stride
                    place = image[channel, top : top + size, left : left + size].argmax()
                    row, column = divmod(int(place), size)
                    out[channel, top + row, left + column, i] += dy[channel, r, c, i]


def tanh(x: Array, amplitude: float, out: Array) -> None:
    """Forward: y = amplitude * tanh(x)."""
    np.tanh(x, out=out)
    out *= amplitude


def tanh_gradient(y: Array, dy: Array, amplitude: float, out: Array) -> None:
    """Backward: amplitude * (1 - tanh(x)^2) = amplitude - y^2 / amplitude, times the error."""
    out[:] = dy * (amplitude - y * y / amplitude)


def relu(x: Array, out: Array) -> None:
    """Forward: y = max(x, 0)."""
    np.maximum(x, 0, out=out)


def relu_gradient(y: Array, dy: Array, out: Array) -> None:
    """Backward: the error passes where the output is positive."""
    out[:] = np.where(y > 0, dy, 0)


def dense(x: Array, weight: Array, bias: Array, out: Array) -> None:
    """Forward: y = W x + b."""
    for i in range(x.shape[1]):
        out[:, i] = weight @ x[:, i].copy() + bias


def dense_input_gradient(dy: Array, weight: Array, out: Array) -> None:
    """Backward to the input: W^T dy."""
    for i in range(dy.shape[1]):
        out[:, i] = weight.T @ dy[:, i].copy()


def dense_weight_gradient(x: Array, dy: Array, dw: Array, db: Array) -> None:
    """Backward to the parameters: the outer product dy x^T, and dy, added up over the images."""
    n = x.shape[1]
    dw[:] = _tree_sum([np.outer(dy[:, i], x[:, i]) for i in range(n)])
    db[:] = _tree_sum([dy[:, i] for i in range(n)])


def softmax_cross_entropy(logits: Array, targets: Array, d_logits: Array) -> tuple[float, int]:
    """Forward: loss = -log(softmax(z)[target]); backward: softmax(z), less 1 at the target."""
    losses, correct = [], 0
    for i, target in enumerate(targets):
        shifted = logits[:, i] - logits[:, i].max()
        exponentials = np.exp(shifted)
        losses.append(float(np.log(exponentials.sum()) - shifted[target]))
        correct += int(logits[:, i].argmax() == target)
        d_logits[:, i] = exponentials / exponentials.sum()
        d_logits[target, i] -= 1
    return _tree_sum(losses), correct
