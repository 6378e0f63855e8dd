"""Pooling: a vector holds neighbouring images' pixels at one place of a window.

The loops are compiled for the size of the windows, so that the loops over their pixels are unrolled. The last vector of
images overlaps the one before, whose work it repeats, if no two windows share a pixel.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled import tiles
from parallel_lenet.kernels.compiled.jit import Call, compiled_for, execute
from parallel_lenet.kernels.compiled.lanes import larger, where_largest, where_not_largest
from parallel_lenet.kernels.compiled.vectors import load, plus, scale_rows, store, zeros

Array = NDArray[Any]


def _execute(
    planner: Callable[..., Call | None], arrays: tuple[Array, ...], size: int, stride: int, out: Array
) -> None:
    """Execute the planner's call, with images of zeros before the others if these don't fill the last vector."""
    call = planner(*arrays, size, stride, out)
    if call is not None:
        execute(call)
        return
    n = out.shape[-1]
    lanes = tiles.lanes(0, out.itemsize)
    images = -(-n // lanes) * lanes
    result = np.empty((*out.shape[:-1], images), out.dtype)
    _execute(planner, tuple(tiles.prepend_zeros(array, images) for array in arrays), size, stride, result)
    out[...] = result[..., -n:]


def _call(
    loop: Callable[[int, int], Callable[..., None]], small: Array, size: int, stride: int, *arguments: Any
) -> Call | None:
    """The call that does all of it.

    None if the images don't fill a vector, or if windows overlap and the images don't fill the last vector.
    ``small`` has a number for each window.
    """
    n = small.shape[-1]
    lanes = whole_lanes(n, small.itemsize) or (tiles.lanes(n, small.itemsize) if stride >= size else n + 1)
    return (loop(size, lanes), (*arguments, stride)) if lanes <= n else None


def whole_lanes(n: int, itemsize: int) -> int | None:
    """The lanes of the widest vector whose multiple is ``n`` images, or None if there is none."""
    sizes = tiles.lanes(n, itemsize), tiles.lanes(0, itemsize)
    return next((lanes for lanes in sizes if n % lanes == 0), None)


@cache
def share(size: int, dtype: np.dtype[Any]) -> Array:
    """The factor of each pixel in its window's mean, as an array ``(1,)``."""
    return np.array([1 / (size * size)], dtype)


def avg_pool2d(x: Array, size: int, stride: int, out: Array) -> None:
    """Forward: the window's pixels in row order, added, times 1 / size^2."""
    _execute(avg_pool2d_call, (x,), size, stride, out)


def avg_pool2d_call(x: Array, size: int, stride: int, out: Array) -> Call | None:
    """The call that does all of it, or None if images have to be added first."""
    return _call(_avg_pool2d, out, size, stride, x, out, share(size, out.dtype))


@cache
def _avg_pool2d(size: int, lanes: int) -> Callable[..., None]:
    @compiled_for(size, lanes)
    def loop(x: Array, out: Array, share: Array, stride: int) -> None:
        channels, rows, columns, n = out.shape
        _, height, width, _ = x.shape
        for channel in range(channels):
            for r in range(rows):
                for c in range(columns):
                    corner = ((channel * height + r * stride) * width + c * stride) * n
                    place = ((channel * rows + r) * columns + c) * n
                    for image in range(0, n, lanes):
                        v = min(image, n - lanes)
                        total = load(x, corner + v, 0, 0, 1, 1, lanes)
                        for i in range(size):
                            for j in range(i == 0, size):
                                pixel = corner + (i * width + j) * n + v
                                total = plus(total, load(x, pixel, 0, 0, 1, 1, lanes))
                        store(scale_rows(total, share, 0, 0), out, place + v, 0, 0)

    return loop


def avg_pool2d_gradient(dy: Array, size: int, stride: int, out: Array) -> None:
    """Backward: each error times 1 / size^2, added to all of its window's pixels. The windows follow in row order."""
    _execute(avg_pool2d_gradient_call, (dy,), size, stride, out)


def avg_pool2d_gradient_call(dy: Array, size: int, stride: int, out: Array) -> Call | None:
    """The call that does all of it, or None if images have to be added first."""
    return _call(_avg_pool2d_gradient, dy, size, stride, dy, out, share(size, out.dtype))


@cache
def _avg_pool2d_gradient(size: int, lanes: int) -> Callable[..., None]:
    @compiled_for(size, lanes)
    def loop(dy: Array, out: Array, share: Array, stride: int) -> None:
        channels, rows, columns, n = dy.shape
        _, height, width, _ = out.shape
        apart = stride >= size  # No two windows share a pixel.
        if not (apart and rows * size == height and columns * size == width):
            out[:] = 0
        for channel in range(channels):
            for r in range(rows):
                for c in range(columns):
                    corner = ((channel * height + r * stride) * width + c * stride) * n
                    place = ((channel * rows + r) * columns + c) * n
                    for image in range(0, n, lanes):
                        v = min(image, n - lanes)
                        error = scale_rows(load(dy, place + v, 0, 0, 1, 1, lanes), share, 0, 0)
                        for i in range(size):
                            for j in range(size):
                                pixel = corner + (i * width + j) * n + v
                                total = error
                                if not apart:
                                    total = plus(load(out, pixel, 0, 0, 1, 1, lanes), error)
                                store(total, out, pixel, 0, 0)

    return loop


def max_pool2d(x: Array, size: int, stride: int, out: Array) -> None:
    """Forward: the largest of the window's pixels, NaN if it holds one."""
    _execute(max_pool2d_call, (x,), size, stride, out)


def max_pool2d_call(x: Array, size: int, stride: int, out: Array) -> Call | None:
    """The call that does all of it, or None if images have to be added first."""
    return _call(_max_pool2d, out, size, stride, x, out)


@cache
def _max_pool2d(size: int, lanes: int) -> Callable[..., None]:
    @compiled_for(size, lanes)
    def loop(x: Array, out: Array, stride: int) -> None:
        channels, rows, columns, n = out.shape
        _, height, width, _ = x.shape
        for channel in range(channels):
            for r in range(rows):
                for c in range(columns):
                    corner = ((channel * height + r * stride) * width + c * stride) * n
                    place = ((channel * rows + r) * columns + c) * n
                    for image in range(0, n, lanes):
                        v = min(image, n - lanes)
                        largest = load(x, corner + v, 0, 0, 1, 1, lanes)
                        for i in range(size):
                            for j in range(i == 0, size):
                                pixel = corner + (i * width + j) * n + v
                                largest = larger(largest, load(x, pixel, 0, 0, 1, 1, lanes))
                        store(largest, out, place + v, 0, 0)

    return loop


def max_pool2d_gradient(x: Array, dy: Array, size: int, stride: int, out: Array) -> None:
    """Backward: each error to the first pixel of its window, in row order, that is the largest, or NaN.

    Every other pixel of the window gets 0 added.
    """
    _execute(max_pool2d_gradient_call, (x, dy), size, stride, out)


def max_pool2d_gradient_call(x: Array, dy: Array, size: int, stride: int, out: Array) -> Call | None:
    """The call that does all of it, or None if images have to be added first."""
    return _call(_max_pool2d_gradient, dy, size, stride, x, dy, out)


@cache
def _max_pool2d_gradient(size: int, lanes: int) -> Callable[..., None]:
    """The error waits in its lane for its pixel, and is 0 afterwards."""

    @compiled_for(size, lanes)
    def loop(x: Array, dy: Array, out: Array, stride: int) -> None:
        channels, rows, columns, n = dy.shape
        _, height, width, _ = x.shape
        out[:] = 0
        for channel in range(channels):
            for r in range(rows):
                for c in range(columns):
                    corner = ((channel * height + r * stride) * width + c * stride) * n
                    place = ((channel * rows + r) * columns + c) * n
                    for image in range(0, n, lanes):
                        v = min(image, n - lanes)
                        largest = load(x, corner + v, 0, 0, 1, 1, lanes)
                        for i in range(size):
                            for j in range(i == 0, size):
                                pixel = corner + (i * width + j) * n + v
                                largest = larger(largest, load(x, pixel, 0, 0, 1, 1, lanes))
                        waiting = load(dy, place + v, 0, 0, 1, 1, lanes)
                        for i in range(size):
                            for j in range(size):
                                pixel = corner + (i * width + j) * n + v
                                here = load(x, pixel, 0, 0, 1, 1, lanes)
                                before = zeros(out, 1, 1, lanes)
                                if stride < size:
                                    before = load(out, pixel, 0, 0, 1, 1, lanes)
                                error = plus(before, where_largest(here, largest, waiting))
                                store(error, out, pixel, 0, 0)
                                waiting = where_not_largest(here, largest, waiting)

    return loop
