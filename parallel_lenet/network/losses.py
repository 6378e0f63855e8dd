"""Losses: the functions that training makes small, and their gradients."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.kernels import Kernels
from parallel_lenet.tree import tree_total

Array = NDArray[Any]

CROSS_ENTROPY = "softmax_cross_entropy"


class Loss(Protocol):
    """The contract of a loss in `Sequential`, for ``k`` outputs and ``n`` samples."""

    def check(self, targets: Array, k: int, n: int) -> None:
        """Raises ValueError unless these can be targets."""

    def prepare(self, targets: Array, dtype: np.dtype[Any]) -> Array:
        """The targets, C-contiguous, as `compute` takes them."""

    def compute(
        self, kernels: Kernels, outputs: Array, targets: Array, weights: Array, d_outputs: Array
    ) -> tuple[float, int]:
        """The sum of the weighted losses of ``outputs (k, n)``, and how many are correct. Gradient -> ``d_outputs``."""


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """The loss of a classifier, whose targets are labels: see `softmax_cross_entropy`."""

    smoothing: float = 0.0

    def check(self, targets: Array, k: int, n: int) -> None:
        check_labels(targets, k, n)

    def prepare(self, targets: Array, dtype: np.dtype[Any]) -> Array:
        return np.ascontiguousarray(targets, np.int64)

    def compute(
        self, kernels: Kernels, outputs: Array, targets: Array, weights: Array, d_outputs: Array
    ) -> tuple[float, int]:
        return _call(kernels, outputs, targets, weights, d_outputs, self.smoothing)


class SquaredError:
    """The loss of a regression: for outputs y and targets t of a sample, the mean over the k outputs of ``(y - t)^2``.

    That is ``torch.nn.MSELoss`` of each sample. The gradient is ``2 / k * (y - t)``. The squares of a sample are
    added in float64, in order, and the samples along the tree of sums. So the bits are the same on every machine.
    """

    def check(self, targets: Array, k: int, n: int) -> None:
        """Raises ValueError unless the targets are numbers ``(n, k)``, or ``(n,)`` for one output."""
        if targets.shape != (n, k) and not (k == 1 and targets.shape == (n,)):
            shapes = f"({n}, {k})" + (f" or ({n},)" if k == 1 else "")
            labels = f": for class labels, pass np.eye({k})[labels]" if targets.shape == (n,) else ""
            raise ValueError(
                f"targets must have shape {shapes}, the outputs of each sample, got {targets.shape}{labels}"
            )

    def prepare(self, targets: Array, dtype: np.dtype[Any]) -> Array:
        return np.ascontiguousarray(targets, dtype).reshape(len(targets), -1)

    def compute(
        self, kernels: Kernels, outputs: Array, targets: Array, weights: Array, d_outputs: Array
    ) -> tuple[float, int]:
        """The number of correct samples is 0: a regression has none."""
        k = len(outputs)
        np.subtract(outputs, targets.T, out=d_outputs)
        squares = np.square(d_outputs, dtype=np.float64)
        losses = np.add.accumulate(squares, axis=0)[-1] / k * weights
        d_outputs *= 2 / k
        d_outputs *= weights
        return tree_total(losses), 0


LOSSES: dict[str, Loss] = {CROSS_ENTROPY: SoftmaxCrossEntropy(), "squared_error": SquaredError()}


def softmax_cross_entropy(
    kernels: Kernels,
    logits: Array,
    targets: Array,
    d_logits: Array,
    weights: Array | None = None,
    smoothing: float = 0.0,
) -> tuple[float, int]:
    """Returns the loss, summed over the images, and the number of images that were classified correctly.

    For image i with logits z and class t, ``loss = log(sum_j exp(z_j)) - z_t``. The largest logit is subtracted first,
    so that no exponential overflows. The gradient is ``softmax(z) - onehot(t)``.
    Source: Bishop, "Pattern Recognition and Machine Learning" (2006), 4.3.4, equations 4.108 and 4.109.

    With label ``smoothing`` s the target is the distribution ``q = (1 - s) * onehot(t) + s / k`` instead: the loss is
    ``-sum_j q_j log(softmax(z)_j)`` and the gradient ``softmax(z) - q``. That is ``torch.nn.CrossEntropyLoss`` with
    ``label_smoothing=s``. Source: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception Architecture for
    Computer Vision" (2016), section 7.

    ``logits (k, n)``, ``targets (n,)`` integers 0 to k - 1. ``d_logits (k, n)`` is overwritten with the gradient.
    ``weights (n,)``, by default all 1, multiply loss and gradient of each image. The prediction is the first largest
    logit. Raises ValueError for a target that is not a class.
    """
    check_labels(targets, *logits.shape)
    weights = np.ones(len(targets), logits.dtype) if weights is None else weights.astype(logits.dtype, copy=False)
    return _call(kernels, logits, targets.astype(np.int64, copy=False), weights, d_logits, smoothing)


def _call(
    kernels: Kernels, logits: Array, targets: Array, weights: Array, d_logits: Array, smoothing: float
) -> tuple[float, int]:
    """The kernel's loss. A kernel of the user's may have no parameter ``smoothing``."""
    if smoothing > 0:
        return kernels.softmax_cross_entropy(logits, targets, weights, d_logits, smoothing=smoothing)
    return kernels.softmax_cross_entropy(logits, targets, weights, d_logits)


def check_labels(targets: Array, classes: int, n: int) -> None:
    """Raises ValueError unless the targets are ``n`` labels: integers from 0 to ``classes - 1``."""
    if targets.shape != (n,):
        raise ValueError(f"targets must have shape ({n},), one label per image, got {targets.shape}")
    if targets.dtype.kind not in "iu":
        raise ValueError(f"class labels must be integers, got {targets.dtype}")
    if targets.min() < 0 or targets.max() >= classes:
        bad = targets[(targets < 0) | (targets >= classes)][0]
        raise ValueError(f"label {bad} is out of range: this network has {classes} classes, 0 to {classes - 1}")
