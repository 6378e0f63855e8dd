"""Softmax and its cross-entropy, in float64 for logits of any dtype: ten numbers per image take little time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled.functions import exp, log
from parallel_lenet.kernels.compiled.jit import Call, compiled, execute
from parallel_lenet.kernels.compiled.sums import add_rows

Array = NDArray[Any]


def softmax_cross_entropy(
    logits: Array, targets: Array, weights: Array, d_logits: Array, smoothing: float = 0.0
) -> tuple[float, int]:
    """The loss summed over the images, and the number of images whose first largest logit is the target's::

        total = 0
        for k in range(classes):
            exponential[k] = exp(logits[k, image] - largest)
            total += exponential[k]
        d_logits[k, image] = weight[image] * (exponential[k] / total, less 1 at the target)
        loss[image] = weight[image] * (log(total) - (logits[target, image] - largest))

    With label smoothing s above 0, ``s / classes`` is subtracted from each quotient, and ``1 - s`` instead of 1 at the
    target. The loss of an image is then ``(1 - s)`` times the one above, plus ``s / classes`` times the sum of the
    losses for each class as the target, added in order.

    The losses are added along a tree over the images. The shapes are ``logits (k, n)``, ``targets (n,)`` (int64, each 0
    to k - 1) and ``weights (n,)``. ``d_logits (k, n)`` is overwritten. An image with NaN among its logits counts as
    wrong.
    """
    sums = np.empty(2)
    execute(softmax_cross_entropy_call(sums, logits, targets, weights, d_logits, smoothing))
    return float(sums[0]), int(sums[1])


def softmax_cross_entropy_call(
    sums: Array, logits: Array, targets: Array, weights: Array, d_logits: Array, smoothing: float = 0.0
) -> Call:
    """The call that does all of it and writes the two results into ``sums``."""
    return _softmax_cross_entropy, (logits, targets, weights, d_logits, np.float64(smoothing), sums)


def softmax(logits: Array, out: Array) -> None:
    """The probabilities ``exponential[k] / total`` of `softmax_cross_entropy`: ``logits (k, n)`` -> ``out (k, n)``."""
    execute((_softmax, (logits, out)))


@compiled
def _exponentials(logits: Array, largest: Array, exponentials: Array, total: Array) -> None:
    classes, n = logits.shape
    for i in range(n):
        largest[i] = logits[0, i]
        total[i] = 0.0
    for k in range(1, classes):
        for i in range(n):
            z = np.float64(logits[k, i])
            largest[i] = z if z > largest[i] else largest[i]
    for k in range(classes):
        for i in range(n):
            e = exp(np.float64(logits[k, i]) - largest[i])
            exponentials[k, i] = e
            total[i] += e


@compiled
def _softmax(logits: Array, out: Array) -> None:
    classes, n = logits.shape
    largest = np.empty(n)
    total = np.empty(n)
    exponentials = np.empty((classes, n))
    _exponentials(logits, largest, exponentials, total)
    for k in range(classes):
        for i in range(n):
            out[k, i] = exponentials[k, i] / total[i]


@compiled
def _softmax_cross_entropy(
    logits: Array, targets: Array, weights: Array, d_logits: Array, smoothing: float, sums: Array
) -> None:
    classes, n = logits.shape
    share = smoothing / classes
    certain = 1.0 - smoothing
    largest = np.empty(n)
    total = np.empty(n)
    exponentials = np.empty((classes, n))
    losses = np.empty((n, 1))
    _exponentials(logits, largest, exponentials, total)
    for k in range(classes):
        for i in range(n):
            d_logits[k, i] = weights[i] * (exponentials[k, i] / total[i] - share)
    correct = 0
    for i in range(n):
        target = targets[i]
        logarithm = log(total[i])
        loss = logarithm - (np.float64(logits[target, i]) - largest[i])
        if smoothing > 0.0:
            class_losses = 0.0
            for k in range(classes):
                class_losses += logarithm - (np.float64(logits[k, i]) - largest[i])
            loss = certain * loss + share * class_losses
        losses[i, 0] = weights[i] * loss
        d_logits[target, i] = weights[i] * (exponentials[target, i] / total[i] - share - certain)
        first = 0
        for k in range(classes - 1, -1, -1):
            if logits[k, i] == largest[i]:
                first = k
        correct += first == target and total[i] == total[i]
    add_rows(losses)
    sums[0] = losses[0, 0]
    sums[1] = correct
