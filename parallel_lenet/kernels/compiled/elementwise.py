"""Computations number by number: pixels to inputs, activations and their gradients.

Most loops are plain: they contain no sum, so the compiler may use vectors as it likes without changing a bit.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled import tiles
from parallel_lenet.kernels.compiled.functions import half_tanh32, tanh64
from parallel_lenet.kernels.compiled.jit import Call, compiled, compiled_for, execute
from parallel_lenet.kernels.compiled.lanes import transpose
from parallel_lenet.kernels.compiled.scalars import fma
from parallel_lenet.kernels.compiled.vectors import convert, load, spread, store, times_plus

Array = NDArray[Any]


def prepare_images(images: Array, scale: float | Array, shift: float | Array, out: Array) -> None:
    """Every pixel, converted to the dtype of out, to its place. The border is ``shift``::

    out[ch, top + r, left + c, image] = fma(images[image, ch, r, c], scale[ch], shift[ch])
    """
    execute(prepare_images_call(images, scale, shift, out))


def prepare_images_call(images: Array, scale: float | Array, shift: float | Array, out: Array) -> Call:
    """The call that does all of it."""
    lanes = tiles.lanes(min(images.shape[0], images.shape[3]), out.itemsize)
    factors = np.empty((len(out), 2), out.dtype)
    factors[:, 0] = scale
    factors[:, 1] = shift
    return _prepare_images(lanes), (images, factors.reshape(-1), out)


@cache
def _prepare_images(lanes: int) -> Callable[..., None]:
    """A tile holds neighbouring pixels of a row of some images, and is transposed. The last overlaps the one before.

    If the images are fewer or narrower than a tile, each number is computed by itself.
    """

    @compiled_for(lanes)
    def loop(images: Array, factors: Array, out: Array) -> None:
        n, channels, height, width = images.shape
        _, rows, columns, _ = out.shape
        top, left = (rows - height) // 2, (columns - width) // 2
        number = out.dtype.type
        for channel in range(channels):
            at_scale = 2 * channel
            at_shift = 2 * channel + 1
            for r in range(rows):
                for c in range(columns):
                    if not (top <= r < top + height and left <= c < left + width):
                        for image in range(n):
                            out[channel, r, c, image] = factors[at_shift]
            for r in range(height):
                place = ((channel * rows + top + r) * columns + left) * n
                if n < lanes or width < lanes:
                    for c in range(width):
                        for image in range(n):
                            pixel = number(images[image, channel, r, c])
                            out[channel, top + r, left + c, image] = fma(pixel, factors[at_scale], factors[at_shift])
                    continue
                for first in range(0, n, lanes):
                    v = min(first, n - lanes)
                    for first_column in range(0, width, lanes):
                        c = min(first_column, width - lanes)
                        start = ((v * channels + channel) * height + r) * width + c
                        pixels = convert(load(images, start, channels * height * width, 0, lanes, 1, lanes), out)
                        scale = spread(factors, at_scale, 0, lanes, 1, lanes)
                        shift = spread(factors, at_shift, 0, lanes, 1, lanes)
                        store(transpose(times_plus(pixels, scale, shift)), out, place + c * n + v, n, 0)

    return loop


def in_place(x: Array, out: Array) -> bool:
    """Whether the two arrays begin at the same address."""
    return bool(x.__array_interface__["data"][0] == out.__array_interface__["data"][0])


def tanh(x: Array, amplitude: float, out: Array) -> None:
    """Forward: y = amplitude * tanh(x)."""
    if not in_place(x, out):
        out[:] = x
    execute(_tanh_call(out, amplitude))


def tanh_call(x: Array, amplitude: float, out: Array) -> Call | None:
    """The call that does all of it, or None if it is not in place."""
    return _tanh_call(out, amplitude) if in_place(x, out) else None


def _tanh_call(y: Array, amplitude: float) -> Call:
    if y.dtype == np.float32:
        return _tanh32, (y.reshape(-1), 2 * np.float32(amplitude))
    return _tanh64, (y.reshape(-1), np.float64(amplitude))


@compiled
def _tanh32(y: Array, twice_the_amplitude: Any) -> None:
    for p in range(len(y)):
        y[p] = twice_the_amplitude * half_tanh32(y[p])


@compiled
def _tanh64(y: Array, amplitude: Any) -> None:
    for p in range(len(y)):
        y[p] = amplitude * tanh64(y[p])


def tanh_gradient(y: Array, dy: Array, amplitude: float, out: Array) -> None:
    """Backward: amplitude * (1 - tanh(x)^2) = amplitude - y^2 / amplitude, times the error."""
    if not in_place(dy, out):
        out[:] = dy
    execute(_tanh_gradient_call(y, amplitude, out))


def tanh_gradient_call(y: Array, dy: Array, amplitude: float, out: Array) -> Call | None:
    """The call that does all of it, or None if it is not in place."""
    return _tanh_gradient_call(y, amplitude, out) if in_place(dy, out) else None


def _tanh_gradient_call(y: Array, amplitude: float, out: Array) -> Call:
    number = out.dtype.type
    return _tanh_gradient, (y.reshape(-1), number(amplitude), number(1 / amplitude), out.reshape(-1))


@compiled
def _tanh_gradient(y: Array, amplitude: Any, inverse: Any, out: Array) -> None:
    for p in range(len(y)):
        out[p] *= fma(-(y[p] * y[p]), inverse, amplitude)


def relu(x: Array, out: Array) -> None:
    """Forward: y = max(x, 0). NaN stays NaN."""
    if not in_place(x, out):
        out[:] = x
    execute((_relu, (out.reshape(-1),)))


def relu_call(x: Array, out: Array) -> Call | None:
    """The call that does all of it, or None if it is not in place."""
    return (_relu, (out.reshape(-1),)) if in_place(x, out) else None


@compiled
def _relu(y: Array) -> None:
    zero = y.dtype.type(0)
    for p in range(len(y)):
        y[p] = zero if y[p] <= zero else y[p]


def relu_gradient(y: Array, dy: Array, out: Array) -> None:
    """Backward: the error passes where the output is positive."""
    if not in_place(dy, out):
        out[:] = dy
    execute(_relu_gradient_call(y, out))


def relu_gradient_call(y: Array, dy: Array, out: Array) -> Call | None:
    """The call that does all of it, or None if it is not in place."""
    return _relu_gradient_call(y, out) if in_place(dy, out) else None


def _relu_gradient_call(y: Array, out: Array) -> Call:
    return _relu_gradient, (y.reshape(-1), out.reshape(-1))


@compiled
def _relu_gradient(y: Array, out: Array) -> None:
    zero = y.dtype.type(0)
    for p in range(len(y)):
        out[p] = out[p] if y[p] > zero else zero
