"""Softmax cross-entropy: the loss of a classifier, and the error it sends back."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.kernels import Kernels

Array = NDArray[Any]


def softmax_cross_entropy(
    kernels: Kernels, logits: Array, targets: Array, d_logits: Array, weights: Array | None = None
) -> tuple[float, int]:
    """The loss summed over the images, and how many were classified correctly.

    For image i with logits z and class t: ``loss = log(sum_j exp(z_j)) - z_t``, with the largest logit taken off first,
    so that no exponential overflows. The gradient is ``softmax(z) - onehot(t)``.
    Source: Bishop, "Pattern Recognition and Machine Learning" (2006), 4.3.4, equations 4.108 and 4.109.

    ``logits (k, n)``, ``targets (n,)`` integers 0 to k - 1; ``d_logits (k, n)`` is overwritten with the gradient.
    ``weights (n,)``, by default all 1, multiply loss and gradient of each image. The prediction is the first largest
    logit. ValueError names a target that is no class.
    """
    check_labels(targets, *logits.shape)
    weights = np.ones(len(targets), logits.dtype) if weights is None else weights.astype(logits.dtype, copy=False)
    return kernels.softmax_cross_entropy(logits, targets.astype(np.int64, copy=False), weights, d_logits)


def check_labels(targets: Array, classes: int, n: int) -> None:
    """ValueError unless the targets are ``n`` labels of ``classes`` classes: integers from 0 to ``classes - 1``."""
    if targets.shape != (n,):
        raise ValueError(f"targets must have shape ({n},), a label per image, got {targets.shape}")
    if targets.dtype.kind not in "iu":
        raise ValueError(f"class labels must be integers, got {targets.dtype}")
    if targets.min() < 0 or targets.max() >= classes:
        bad = targets[(targets < 0) | (targets >= classes)][0]
        raise ValueError(f"label {bad} is out of range: this network has {classes} classes, 0 to {classes - 1}")
