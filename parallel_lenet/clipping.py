"""The norm of a gradient, and clipping by it."""

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.arithmetic import sum_of_squares
from parallel_lenet.checks import ABOVE_ZERO, real_number
from parallel_lenet.slices import ONE_THREAD, Threads

Vector: TypeAlias = NDArray[np.floating[Any]]

NORM_BLOCK = 8192  # Numbers: OpenBLAS uses several threads from 10,000 on.
TINY = 1e-30  # In a sum of float32 squares below this, many squares may have become 0.


def global_norm(gradient: Vector, threads: Threads = ONE_THREAD) -> float:
    """Return the Euclidean norm of a vector with a relative error of about 1e-6, for reports: 9 us for LeNet-5.

    BLAS decides the last bits. It gets `NORM_BLOCK` numbers at a time, because OpenBLAS starts threads for more. If the
    norm is finite, so is every number of the vector. If squares would overflow or become 0, they are added in float64,
    as in `clip_by_global_norm`.
    """

    def square_sum(part: slice) -> float:
        vector = gradient[part]
        blocks = [vector[start : start + NORM_BLOCK] for start in range(0, len(vector), NORM_BLOCK)]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return sum(float(np.dot(block, block)) for block in blocks)

    total = 0.0
    for squares in threads.map(square_sum, gradient.size):
        total += squares
    norm = math.nan if math.isnan(total) else norm_of_squares(total)
    return math.sqrt(sum_of_squares(gradient, threads)) if norm is None else norm


def norm_of_squares(total: float) -> float | None:
    """The norm of a vector whose squares add up to ``total``, or None if squares may have overflowed or become 0."""
    return math.sqrt(total) if TINY < total < math.inf else None


def clip_by_global_norm(gradient: Vector, max_norm: float, threads: Threads = ONE_THREAD) -> tuple[Vector, float]:
    """Return the gradient, scaled down to the Euclidean norm `max_norm` if its norm is larger, and its old norm.

        g <- g * max_norm / |g|    if |g| > max_norm

    A gradient that is short enough is returned itself, not a copy. So is one whose norm is NaN or infinite: scaling it
    would hide the fault, which the returned norm shows. An infinite `max_norm` never clips. Raises ValueError unless
    `max_norm` is above 0.

    Source: Pascanu et al. 2013, algorithm 1. PyTorch's `clip_grad_norm_` divides by `|g| + 1e-6`, so it stays slightly
    below. TensorFlow's `clip_by_global_norm` and Keras's `global_clipnorm` agree with the paper. Keras's `clipnorm` is
    something else, a limit for each variable separately.
    """
    max_norm = real_number("max_norm", max_norm, ABOVE_ZERO)
    # In float64 the squares of float32 numbers neither overflow nor vanish. Those of float64 numbers may overflow. Then
    # the norm is infinite.
    norm = math.sqrt(sum_of_squares(gradient, threads))
    if not max_norm < norm < math.inf:
        return gradient, norm
    # The factor can be too small for float32 even if the products are not, so each is computed in float64 and rounded
    # once.
    clipped = np.empty_like(gradient)

    def scale(part: slice) -> None:
        np.multiply(gradient[part], max_norm / norm, out=clipped[part], dtype=np.float64, casting="same_kind")

    threads.map(scale, gradient.size)
    return clipped, norm
