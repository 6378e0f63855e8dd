"""Two layers in one loop, if a recorded pass has one right after the other: memory is read and written once.

The bits are those of the two loops.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled.elementwise import in_place
from parallel_lenet.kernels.compiled.jit import Call, compiled_for
from parallel_lenet.kernels.compiled.pooling import share, whole_lanes
from parallel_lenet.kernels.compiled.vectors import load, scale_rows, spread, store, times, times_plus

Array = NDArray[Any]


def avg_pool2d_gradient_tanh_gradient(
    first: tuple[Any, ...], second: tuple[Any, ...]
) -> tuple[Call, Array, Array] | None:
    """Backward through a pooling and the tanh before it, if the windows cover the image::

        y[pixel] = dy[window] * share * fma(-(y[pixel] * y[pixel]), 1 / amplitude, amplitude)

    The result goes to ``y``, which is not needed any more and is in the processor's cache.
    """
    dy, size, stride, spread_dy = first
    y, error, amplitude, out = second
    whole = stride == size and tuple(length * size for length in dy.shape[1:3]) == y.shape[1:3]
    lanes = whole_lanes(dy.shape[-1], dy.itemsize)
    if not whole or lanes is None or not in_place(spread_dy, error):
        return None
    number = out.dtype.type
    slope = np.array([amplitude, -number(1 / amplitude)], out.dtype)
    return (_pooled_tanh_gradient(size, lanes), (dy, y, slope, share(size, out.dtype))), out, y


@cache
def _pooled_tanh_gradient(size: int, lanes: int) -> Callable[..., None]:
    @compiled_for(size, lanes)
    def loop(dy: Array, y: Array, slope: Array, share: Array) -> None:
        channels, rows, columns, n = dy.shape
        width = columns * size
        amplitude = spread(slope, 0, 0, 1, 1, lanes)
        minus_inverse = spread(slope, 1, 0, 1, 1, lanes)
        for row in range(channels * rows):
            for c in range(columns):
                corner = (row * size * width + c * size) * n
                place = (row * columns + c) * n
                for v in range(0, n, lanes):
                    error = scale_rows(load(dy, place + v, 0, 0, 1, 1, lanes), share, 0, 0)
                    for i in range(size):
                        for j in range(size):
                            pixel = corner + (i * width + j) * n + v
                            activation = load(y, pixel, 0, 0, 1, 1, lanes)
                            gradient = times_plus(times(activation, activation), minus_inverse, amplitude)
                            store(times(error, gradient), y, pixel, 0, 0)

    return loop


PAIRS = {("avg_pool2d_gradient", "tanh_gradient"): avg_pool2d_gradient_tanh_gradient}
"""By two kernel functions: the one that returns a call for both, the array that was wanted and the one written."""
