"""The tutorial's nested loops: the specification of all kernels, written to be read.

Each function visits every image, filter, row and column, and computes the formula in its docstring. One image takes
about 0.04 s, forward and backward. The other kernels compute the same numbers faster, and the tests compare them with
this module. It has more than 300 lines so that all steps of the tutorial can be read in one place.

==============================================  ==========================================================
paragraph of the tutorial                       function
==============================================  ==========================================================
preparing the images                            `prepare_images`
forward: convolutional layer                    `conv2d`
forward: pooling layer                          `avg_pool2d`, `max_pool2d`
forward: activation                             `tanh`, `relu`
forward: fully connected layer                  `dense`
softmax: scores become probabilities            `softmax`
loss, and the error of the last layer           `softmax_cross_entropy`
backward: fully connected layer                 `dense_input_gradient`, `dense_weight_gradient`
backward: activation                            `tanh_gradient`, `relu_gradient`
backward: pooling layer                         `avg_pool2d_gradient`, `max_pool2d_gradient`
backward: convolution, layer gradient           `conv2d_input_gradient`
backward: convolution, kernel gradient          `conv2d_weight_gradient`
averaging over the batch                        `_tree_sum` adds; the coordinator divides
==============================================  ==========================================================

``parallel-lenet explain`` shows each of these functions at work, with the numbers of a trained network.

Names
    ``x`` is the input of a layer and ``y`` its output. ``dx`` and ``dy`` are their errors: the gradient of the loss
    with respect to ``x`` and to ``y``. ``dw`` and ``db`` are the gradients of weight and bias. A result is written into
    the argument ``out``, whose docstring says which of these it is. ``window`` is the part of ``x`` that one number
    of ``y`` is computed from. Its upper left corner is at ``top``, ``left``.

Shapes
    ``c`` channels, ``h`` rows, ``w`` columns and ``n`` images. There are ``f`` filters with windows of ``kh`` rows and
    ``kw`` columns. An output has ``oh`` rows and ``ow`` columns: ``oh = floor((h + 2 * padding - kh) / stride) + 1``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LEAF = 1
SHARD_SIZE = 1  # An image takes so long that the finest shards balance the workers best and cost nothing.


def prepare_images(images: Array, scale: float | Array, shift: float | Array, out: Array) -> None:
    """Before the first layer: centre each image on a field of zeros, then normalise its pixels.

        y = pixel * scale + shift, each a number, or one for each channel

    ``images (n, c, h, w)`` -> ``out``: y ``(c, H, W, n)``. LeNet-5: 28x28 -> 32x32.
    """
    n, _, height, width = images.shape
    top = (out.shape[1] - height) // 2
    left = (out.shape[2] - width) // 2
    out[:] = 0
    for i in range(n):
        out[:, top : top + height, left : left + width, i] = images[i]
    out *= np.asarray(scale, out.dtype).reshape(-1, 1, 1, 1)
    out += np.asarray(shift, out.dtype).reshape(-1, 1, 1, 1)


def _one_image(x: Array, i: int, padding: int = 0) -> Array:
    """Image ``i`` of the batch, ``(c, h, w)``, with ``padding`` zeros on each side.

    It is a copy, contiguous in memory, because NumPy adds in an order that depends on the memory layout. So the images
    beside this one change no bit of its sums.
    """
    return np.pad(x[..., i], ((0, 0), (padding, padding), (padding, padding)))


def _tree_sum(parts: Sequence[Any]) -> Any:
    """The sum over the images, along a balanced binary tree: ``(0 + 1) + (2 + 3)`` and so on.

    Each round adds neighbours. A part without a neighbour is kept for the next round.
    """
    while len(parts) > 1:
        pairs = [parts[i] + parts[i + 1] for i in range(0, len(parts) - 1, 2)]
        parts = [*pairs, *parts[2 * len(pairs) :]]
    return parts[0]


def conv2d(x: Array, weight: Array, bias: Array, stride: int, padding: int, out: Array) -> None:
    """Forward, convolutional layer: slide each filter over the image, multiply, add up, and add the bias.

        y[f, row, col] = bias[f] + sum of window(row, col) * weight[f]

    ``x (c, h, w, n)``, ``weight (f, c, kh, kw)``, ``bias (f,)`` -> ``out``: y ``(f, oh, ow, n)``.
    LeNet-5: 32x32x1 -> 28x28x6 and 14x14x6 -> 10x10x16. The window spans all channels.
    """
    filters, rows, cols, n = out.shape
    kh, kw = weight.shape[2:]
    for i in range(n):
        image = _one_image(x, i, padding)
        for f in range(filters):
            for row in range(rows):
                for col in range(cols):
                    top = row * stride
                    left = col * stride
                    window = image[:, top : top + kh, left : left + kw]
                    out[f, row, col, i] = (window * weight[f]).sum() + bias[f]


def conv2d_input_gradient(dy: Array, weight: Array, stride: int, padding: int, out: Array) -> None:
    """Backward, convolutional layer, the layer gradient: which error does each input have?

    Add each filter, weighted by the error of one output, into the window that this output saw:

        window(row, col) of dx  +=  dy[f, row, col] * weight[f]

    ``dy (f, oh, ow, n)``, ``weight (f, c, kh, kw)`` -> ``out``: dx ``(c, h, w, n)``.
    LeNet-5: 10x10x16 -> 14x14x6. The errors of all 16 filters meet in each of the 6 channels.
    """
    filters, rows, cols, n = dy.shape
    channels, height, width, _ = out.shape
    kh, kw = weight.shape[2:]
    for i in range(n):
        dx = np.zeros((channels, height + 2 * padding, width + 2 * padding), out.dtype)
        for f in range(filters):
            for row in range(rows):
                for col in range(cols):
                    top = row * stride
                    left = col * stride
                    dx[:, top : top + kh, left : left + kw] += dy[f, row, col, i] * weight[f]
        out[..., i] = dx[:, padding : padding + height, padding : padding + width]


def conv2d_weight_gradient(x: Array, dy: Array, stride: int, padding: int, dw: Array, db: Array) -> None:
    """Backward, convolutional layer, the kernel gradient: add up the windows, weighted by the errors.

        dw[f] = sum over row, col of dy[f, row, col] * window(row, col)
        db[f] = sum over row, col of dy[f, row, col]

    ``x (c, h, w, n)``, ``dy (f, oh, ow, n)`` -> ``dw (f, c, kh, kw)``, ``db (f,)``, both added up over the images.
    LeNet-5: 14x14x6 and 10x10x16 -> 16x6x5x5. Each of the 16 errors meets each of the 6 channels.
    """
    filters, rows, cols, n = dy.shape
    kh, kw = dw.shape[2:]
    dw_of_image = np.zeros((n, *dw.shape), dw.dtype)
    db_of_image = np.zeros((n, *db.shape), db.dtype)
    for i in range(n):
        image = _one_image(x, i, padding)
        error = _one_image(dy, i)
        for f in range(filters):
            for row in range(rows):
                for col in range(cols):
                    top = row * stride
                    left = col * stride
                    window = image[:, top : top + kh, left : left + kw]
                    dw_of_image[i, f] += error[f, row, col] * window
            db_of_image[i, f] = error[f].sum()
    dw[:] = _tree_sum(list(dw_of_image))
    db[:] = _tree_sum(list(db_of_image))


def avg_pool2d(x: Array, size: int, stride: int, out: Array) -> None:
    """Forward, average pooling: the mean of each window, channel by channel.

        y[channel, row, col] = mean of window(row, col)

    ``x (c, h, w, n)`` -> ``out``: y ``(c, oh, ow, n)``. LeNet-5: 28x28x6 -> 14x14x6 and 10x10x16 -> 5x5x16.
    """
    channels, rows, cols, n = out.shape
    for i in range(n):
        image = _one_image(x, i)
        for channel in range(channels):
            for row in range(rows):
                for col in range(cols):
                    top = row * stride
                    left = col * stride
                    window = image[channel, top : top + size, left : left + size]
                    out[channel, row, col, i] = window.sum() / (size * size)


def avg_pool2d_gradient(dy: Array, size: int, stride: int, out: Array) -> None:
    """Backward, average pooling: spread the error of a mean evenly over the window it was the mean of.

        window(row, col) of dx  +=  dy[channel, row, col] / (size * size)

    ``dy (c, oh, ow, n)`` -> ``out``: dx ``(c, h, w, n)``. LeNet-5: 5x5x16 -> 10x10x16 and 14x14x6 -> 28x28x6.
    """
    channels, rows, cols, n = dy.shape
    dx = out
    dx[:] = 0
    for i in range(n):
        for channel in range(channels):
            for row in range(rows):
                for col in range(cols):
                    top = row * stride
                    left = col * stride
                    dx[channel, top : top + size, left : left + size, i] += dy[channel, row, col, i] / (size * size)


def max_pool2d(x: Array, size: int, stride: int, out: Array) -> None:
    """Forward, max pooling: the largest number of each window, channel by channel.

        y[channel, row, col] = max of window(row, col)

    ``x (c, h, w, n)`` -> ``out``: y ``(c, oh, ow, n)``.
    """
    channels, rows, cols, n = out.shape
    for i in range(n):
        image = _one_image(x, i)
        for channel in range(channels):
            for row in range(rows):
                for col in range(cols):
                    top = row * stride
                    left = col * stride
                    out[channel, row, col, i] = image[channel, top : top + size, left : left + size].max()


def max_pool2d_gradient(x: Array, dy: Array, size: int, stride: int, out: Array) -> None:
    """Backward, max pooling: the whole error goes to the place that the maximum came from.

        dx[channel, place of the maximum of window(row, col)]  +=  dy[channel, row, col]

    ``x (c, h, w, n)``, ``dy (c, oh, ow, n)`` -> ``out``: dx ``(c, h, w, n)``. Of equal maxima, the first in row order.
    """
    channels, rows, cols, n = dy.shape
    dx = out
    dx[:] = 0
    for i in range(n):
        image = _one_image(x, i)
        for channel in range(channels):
            for row in range(rows):
                for col in range(cols):
                    top = row * stride
                    left = col * stride
                    place = image[channel, top : top + size, left : left + size].argmax()
                    down, right = divmod(int(place), size)
                    dx[channel, top + down, left + right, i] += dy[channel, row, col, i]


def tanh(x: Array, amplitude: float, out: Array) -> None:
    """Forward, activation: squash every number into -amplitude to amplitude.

        y = amplitude * tanh(x)

    Any shape -> ``out``: y, of the same shape.
    """
    np.tanh(x, out=out)
    out *= amplitude


def tanh_gradient(y: Array, dy: Array, amplitude: float, out: Array) -> None:
    """Backward, activation: the error times the slope of the curve.

        dx = dy * amplitude * (1 - tanh(x)^2) = dy * (amplitude - y^2 / amplitude)

    Any shape -> ``out``: dx, of the same shape.
    """
    out[:] = dy * (amplitude - y * y / amplitude)


def relu(x: Array, out: Array) -> None:
    """Forward, activation: negative numbers become 0.

        y = max(x, 0)

    Any shape -> ``out``: y, of the same shape.
    """
    np.maximum(x, 0, out=out)


def relu_gradient(y: Array, dy: Array, out: Array) -> None:
    """Backward, activation: the error passes where the output is positive.

        dx = dy if y > 0, else 0

    Any shape -> ``out``: dx, of the same shape.
    """
    out[:] = np.where(y > 0, dy, 0)


def dense(x: Array, weight: Array, bias: Array, out: Array) -> None:
    """Forward, fully connected layer: each output is a weighted sum of all inputs, plus a bias.

        y = W x + b

    ``x (inputs, n)``, ``weight (outputs, inputs)``, ``bias (outputs,)`` -> ``out``: y ``(outputs, n)``.
    LeNet-5: 400 -> 120 -> 84 -> 10.
    """
    for i in range(x.shape[1]):
        image = x[:, i].copy()  # Contiguous, as in `_one_image`.
        out[:, i] = weight @ image + bias


def dense_input_gradient(dy: Array, weight: Array, out: Array) -> None:
    """Backward, fully connected layer, the layer gradient: the errors go back along the same weights.

        dx = W^T dy

    ``dy (outputs, n)``, ``weight (outputs, inputs)`` -> ``out``: dx ``(inputs, n)``. LeNet-5: 10 -> 84 -> 120 -> 400.
    """
    for i in range(dy.shape[1]):
        error = dy[:, i].copy()  # Contiguous, as in `_one_image`.
        out[:, i] = weight.T @ error


def dense_weight_gradient(x: Array, dy: Array, dw: Array, db: Array) -> None:
    """Backward, fully connected layer, the weight gradient: each error times each input.

        dw[j, k] = dy[j] * x[k],  in short dW = dy x^T
        db = dy

    ``x (inputs, n)``, ``dy (outputs, n)`` -> ``dw (outputs, inputs)``, ``db (outputs,)``, added up over the images.
    """
    n = x.shape[1]
    dw[:] = _tree_sum([np.outer(dy[:, i], x[:, i]) for i in range(n)])
    db[:] = _tree_sum([dy[:, i] for i in range(n)])


def softmax(logits: Array, out: Array) -> None:
    """Softmax: turn the scores of an image into probabilities, which are positive and add up to 1.

        p[k] = exp(logits[k]) / sum over j of exp(logits[j])

    The largest score is subtracted first. That changes no probability, and no exponential overflows.
    ``logits (k, n)`` -> ``out``: p ``(k, n)``.
    """
    for i in range(logits.shape[1]):
        exponentials = np.exp(logits[:, i] - logits[:, i].max())
        out[:, i] = exponentials / exponentials.sum()


def softmax_cross_entropy(
    logits: Array, targets: Array, weights: Array, d_logits: Array, smoothing: float = 0.0
) -> tuple[float, int]:
    """Loss, and the error of the last layer: the loss is small if the right class has a high probability p (`softmax`).

        loss        = -log(p[target])
        d_logits[k] = p[k] - 1 if k is the target, else p[k]

    With label smoothing s the right answer is a distribution q, so that the network does not learn to be certain: q[k]
    is s / classes, and 1 - s more if k is the target. Without smoothing s is 0, and the formulas are those above.

        loss        = -sum over k of q[k] * log(p[k]) = -(1 - s) * log(p[target]) - s * (mean over k of log(p[k]))
        d_logits[k] = p[k] - q[k]

    Loss and error of an image are multiplied by its weight, which is 1 unless the user gives another one.
    ``logits (k, n)``, ``targets (n,)``, ``weights (n,)`` -> ``d_logits (k, n)``. Returns the loss, added up over the
    images, and the number of images whose largest score is at the target.
    """
    losses = []
    correct = 0
    for i, target in enumerate(targets):
        shifted = logits[:, i] - logits[:, i].max()
        exponentials = np.exp(shifted)
        class_losses = np.log(exponentials.sum()) - shifted  # -log(p)
        loss = class_losses[target]
        if smoothing > 0:
            loss = (1 - smoothing) * loss + smoothing * class_losses.mean()
        losses.append(float(weights[i] * loss))
        correct += int(logits[:, i].argmax() == target)
        d_logits[:, i] = exponentials / exponentials.sum() - smoothing / len(logits)
        d_logits[target, i] -= 1 - smoothing
        d_logits[:, i] *= weights[i]
    return _tree_sum(losses), correct
