"""The tutorial's second part: the same functions as matrix products.

im2col copies the window that each output value sees into a column of a matrix. A convolution is then one product,
``weight (f, c·k·k) @ columns (c·k·k, oh·ow·n)``. Since the batch comes last, a row of that matrix is ``oh`` runs of
``ow·n`` consecutive numbers of the input (for stride 1). So copying is cheap, and nothing is transposed.
Source: Chellapilla, Puri, Simard, "High performance convolutional neural networks for document processing" (2006), 3.1.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LEAF = None  # BLAS decides the order in which the images of a call are added.
SHARD_SIZE = 32  # Larger shards exceed the cache (columns take 80 KB per image), smaller ones need more calls.


def prepare_images(images: Array, scale: float | Array, shift: float | Array, out: Array) -> None:
    """All images at once: the border is a constant, the middle a transposed copy."""
    factor, border = (np.asarray(each, out.dtype).reshape(-1, 1, 1, 1) for each in (scale, shift))
    height, width = images.shape[2:]
    top = (out.shape[1] - height) // 2
    left = (out.shape[2] - width) // 2
    out[:] = border
    middle = out[:, top : top + height, left : left + width, :]
    np.multiply(images.transpose(1, 2, 3, 0), factor, out=middle)
    middle += border


def _pad(x: Array, padding: int) -> Array:
    """The batch with ``padding`` zeros around each image, or the batch itself if there is no padding."""
    if padding == 0:
        return x
    return np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))


def _taps(kh: int, kw: int, rows: int, columns: int, stride: int) -> list[tuple[int, int, slice, slice]]:
    """For each tap, a place (i, j) of a window: the rows and columns of the input that it sees."""
    return [
        (i, j, slice(i, i + rows * stride, stride), slice(j, j + columns * stride, stride))
        for i in range(kh)
        for j in range(kw)
    ]


def im2col(x: Array, kh: int, kw: int, rows: int, columns: int, stride: int) -> Array:
    """Windows as columns: ``x (c, h, w, n)`` -> ``(c·kh·kw, rows·columns·n)``."""
    channels, _, _, n = x.shape
    matrix = np.empty((channels, kh, kw, rows, columns, n), x.dtype)
    for i, j, down, across in _taps(kh, kw, rows, columns, stride):
        matrix[:, i, j] = x[:, down, across]
    return matrix.reshape(channels * kh * kw, rows * columns * n)


def col2im(matrix: Array, kh: int, kw: int, rows: int, columns: int, stride: int, out: Array) -> None:
    """The transpose of im2col: each column is added back into its window of ``out (c, h, w, n)``."""
    channels, _, _, n = out.shape
    taps = matrix.reshape(channels, kh, kw, rows, columns, n)
    out[:] = 0
    for i, j, down, across in _taps(kh, kw, rows, columns, stride):
        out[:, down, across] += taps[:, i, j]


def conv2d(x: Array, weight: Array, bias: Array, stride: int, padding: int, out: Array) -> None:
    """Forward: filters times columns, plus the bias of each filter."""
    filters, rows, columns, n = out.shape
    kh, kw = weight.shape[2:]
    matrix = im2col(_pad(x, padding), kh, kw, rows, columns, stride)
    result = out.reshape(filters, rows * columns * n)
    np.matmul(weight.reshape(filters, -1), matrix, out=result)
    result += bias[:, None]


def conv2d_input_gradient(dy: Array, weight: Array, stride: int, padding: int, out: Array) -> None:
    """The layer gradient: filters transposed times the error gives columns, added back by col2im."""
    filters, rows, columns, _ = dy.shape
    channels, height, width, n = out.shape
    kh, kw = weight.shape[2:]
    matrix = weight.reshape(filters, -1).T @ dy.reshape(filters, -1)
    if padding == 0:
        col2im(matrix, kh, kw, rows, columns, stride, out)
        return
    padded = np.empty((channels, height + 2 * padding, width + 2 * padding, n), out.dtype)
    col2im(matrix, kh, kw, rows, columns, stride, padded)
    out[:] = padded[:, padding : padding + height, padding : padding + width]


def conv2d_weight_gradient(x: Array, dy: Array, stride: int, padding: int, dw: Array, db: Array) -> None:
    """The kernel gradient: error times columns transposed. The bias adds the errors."""
    filters, rows, columns, _ = dy.shape
    kh, kw = dw.shape[2:]
    matrix = im2col(_pad(x, padding), kh, kw, rows, columns, stride)
    error = dy.reshape(filters, -1)
    np.matmul(error, matrix.T, out=dw.reshape(filters, -1))
    np.sum(error, axis=1, out=db)


def avg_pool2d(x: Array, size: int, stride: int, out: Array) -> None:
    """Forward: the sum over the taps of the window, divided by their number."""
    _, rows, columns, _ = out.shape
    out[:] = 0
    for _, _, down, across in _taps(size, size, rows, columns, stride):
        out += x[:, down, across]
    out /= size * size


def avg_pool2d_gradient(dy: Array, size: int, stride: int, out: Array) -> None:
    """Backward: the error divided by the window's area, added at each tap."""
    _, rows, columns, _ = dy.shape
    share = dy / (size * size)
    out[:] = 0
    for _, _, down, across in _taps(size, size, rows, columns, stride):
        out[:, down, across] += share


def max_pool2d(x: Array, size: int, stride: int, out: Array) -> None:
    """Forward: the largest value of the taps."""
    _, rows, columns, _ = out.shape
    (_, _, down, across), *rest = _taps(size, size, rows, columns, stride)
    out[:] = x[:, down, across]
    for _, _, down, across in rest:
        np.maximum(out, x[:, down, across], out=out)


def max_pool2d_gradient(x: Array, dy: Array, size: int, stride: int, out: Array) -> None:
    """Backward: tap by tap in row order, the error goes to the first one that holds the maximum."""
    channels, rows, columns, n = dy.shape
    largest = np.empty_like(dy)
    max_pool2d(x, size, stride, largest)
    waiting = np.ones((channels, rows, columns, n), bool)
    out[:] = 0
    for _, _, down, across in _taps(size, size, rows, columns, stride):
        tap = x[:, down, across]
        here = waiting & ((tap == largest) | np.isnan(tap))
        out[:, down, across] += np.where(here, dy, 0)
        waiting &= ~here


def tanh(x: Array, amplitude: float, out: Array) -> None:
    """Forward: amplitude * tanh(x)."""
    np.tanh(x, out=out)
    if amplitude != 1:
        out *= amplitude


def tanh_gradient(y: Array, dy: Array, amplitude: float, out: Array) -> None:
    """Backward: dy * (amplitude - y^2 / amplitude)."""
    slope = y * y
    slope *= -1 / amplitude
    slope += amplitude
    np.multiply(dy, slope, out=out)


def relu(x: Array, out: Array) -> None:
    """Forward: max(x, 0)."""
    np.maximum(x, 0, out=out)


def relu_gradient(y: Array, dy: Array, out: Array) -> None:
    """Backward: the error if the output is positive, else 0 (not error * 0, which is NaN for an infinite error)."""
    np.copyto(out, dy)
    out[~(y > 0)] = 0


def dense(x: Array, weight: Array, bias: Array, out: Array) -> None:
    """Forward: W x + b for all images."""
    np.matmul(weight, x, out=out)
    out += bias[:, None]


def dense_input_gradient(dy: Array, weight: Array, out: Array) -> None:
    """Backward to the input: W^T dy."""
    np.matmul(weight.T, dy, out=out)


def dense_weight_gradient(x: Array, dy: Array, dw: Array, db: Array) -> None:
    """Backward to the parameters: dy x^T, and dy summed over the images."""
    np.matmul(dy, x.T, out=dw)
    np.sum(dy, axis=1, out=db)


def softmax(logits: Array, out: Array) -> None:
    """All images at once, as in `softmax_cross_entropy`."""
    np.exp(logits - logits.max(axis=0), out=out)
    out /= out.sum(axis=0)


def softmax_cross_entropy(
    logits: Array, targets: Array, weights: Array, d_logits: Array, smoothing: float = 0.0
) -> tuple[float, int]:
    """All images at once: log(sum(exp(z))) - z[target], with the largest logit of each taken off."""
    each = np.arange(logits.shape[1])
    correct = int(np.count_nonzero(logits.argmax(axis=0) == targets))
    shifted = logits - logits.max(axis=0)
    np.exp(shifted, out=d_logits)
    sums = d_logits.sum(axis=0)
    losses = np.log(sums) - shifted[targets, each]
    d_logits /= sums
    d_logits[targets, each] -= 1 - smoothing
    if smoothing > 0:
        losses = (1 - smoothing) * losses + smoothing * (np.log(sums) - shifted.mean(axis=0))
        d_logits -= smoothing / len(logits)
    losses *= weights
    d_logits *= weights
    return float(losses.sum(dtype=np.float64)), correct
