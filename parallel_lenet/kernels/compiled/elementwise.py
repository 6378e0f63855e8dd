"""What is done to every number alone: pixels to inputs, activations and their gradients.

The loops are plain ones: with no sum in them, the compiler makes vectors of them itself, and no bit depends on how.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled.functions import tanh32, tanh64
from parallel_lenet.kernels.compiled.jit import compiled, own
from parallel_lenet.kernels.compiled.vectors import fma

Array = NDArray[Any]


def prepare_images(images: Array, scale: float, shift: float, out: Array) -> None:
    """Every pixel to its place: fma(pixel, scale, shift), all of them of the dtype of out; the border is ``shift``."""
    _prepare_images(own(images), np.array([scale, shift], out.dtype), out)


@compiled
def _prepare_images(images: Array, factors: Array, out: Array) -> None:
    n, channels, height, width = images.shape
    scale, shift = factors[0], factors[1]
    top, left = (out.shape[1] - height) // 2, (out.shape[2] - width) // 2
    out[:] = shift
    for channel in range(channels):
        for r in range(height):
            for c in range(width):
                y = out[channel, top + r, left + c]
                for i in range(n):
                    y[i] = fma(out.dtype.type(images[i, channel, r, c]), scale, shift)


def tanh(x: Array, amplitude: float, out: Array) -> None:
    """Forward: y = amplitude * tanh(x)."""
    if out is not x:
        out[:] = x
    loop = _tanh32 if out.dtype == np.float32 else _tanh64
    loop(out.reshape(-1), out.dtype.type(amplitude))


@compiled
def _tanh32(y: Array, amplitude: Any) -> None:
    for p in range(len(y)):
        y[p] = amplitude * tanh32(y[p])


@compiled
def _tanh64(y: Array, amplitude: Any) -> None:
    for p in range(len(y)):
        y[p] = amplitude * tanh64(y[p])


def tanh_gradient(y: Array, dy: Array, amplitude: float, out: Array) -> None:
    """Backward: amplitude * (1 - tanh(x)^2) = amplitude - y^2 / amplitude, times the error."""
    if out is not dy:
        out[:] = dy
    number = out.dtype.type
    _tanh_gradient(own(y).reshape(-1), number(amplitude), number(1 / amplitude), out.reshape(-1))


@compiled
def _tanh_gradient(y: Array, amplitude: Any, inverse: Any, out: Array) -> None:
    for p in range(len(y)):
        out[p] *= fma(-(y[p] * y[p]), inverse, amplitude)


def relu(x: Array, out: Array) -> None:
    """Forward: y = max(x, 0); NaN stays NaN."""
    if out is not x:
        out[:] = x
    _relu(out.reshape(-1))


@compiled
def _relu(y: Array) -> None:
    zero = y.dtype.type(0)
    for p in range(len(y)):
        y[p] = zero if y[p] <= zero else y[p]


def relu_gradient(y: Array, dy: Array, out: Array) -> None:
    """Backward: the error passes where the output is positive."""
    if out is not dy:
        out[:] = dy
    _relu_gradient(own(y).reshape(-1), out.reshape(-1))


@compiled
def _relu_gradient(y: Array, out: Array) -> None:
    zero = y.dtype.type(0)
    for p in range(len(y)):
        out[p] = out[p] if y[p] > zero else zero
