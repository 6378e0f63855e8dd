"""What is done to every number alone: pixels to inputs, activations and their gradients.

The loops are plain ones: with no sum in them, the compiler makes vectors of them itself, and no bit depends on how.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled.functions import tanh32, tanh64
from parallel_lenet.kernels.compiled.jit import Call, compiled, execute
from parallel_lenet.kernels.compiled.vectors import fma

Array = NDArray[Any]


def prepare_images(images: Array, scale: float, shift: float, out: Array) -> None:
    """Every pixel to its place: fma(pixel, scale, shift), all of them of the dtype of out; the border is ``shift``."""
    execute(prepare_images_call(images, scale, shift, out))


def prepare_images_call(images: Array, scale: float, shift: float, out: Array) -> Call:
    """The one call that does it all."""
    return _prepare_images, (images, np.array([scale, shift], out.dtype), out)


def _in_place(x: Array, out: Array) -> bool:
    """Whether they are the same array, or views of the same numbers."""
    return bool(x.__array_interface__["data"][0] == out.__array_interface__["data"][0])


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
    if not _in_place(x, out):
        out[:] = x
    execute(_tanh_call(out, amplitude))


def tanh_call(x: Array, amplitude: float, out: Array) -> Call | None:
    """The one call that does it all; None if it is not in place."""
    return _tanh_call(out, amplitude) if _in_place(x, out) else None


def _tanh_call(y: Array, amplitude: float) -> Call:
    loop = _tanh32 if y.dtype == np.float32 else _tanh64
    return loop, (y.reshape(-1), y.dtype.type(amplitude))


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
    if not _in_place(dy, out):
        out[:] = dy
    execute(_tanh_gradient_call(y, amplitude, out))


def tanh_gradient_call(y: Array, dy: Array, amplitude: float, out: Array) -> Call | None:
    """The one call that does it all; None if it is not in place."""
    return _tanh_gradient_call(y, amplitude, out) if _in_place(dy, out) else None


def _tanh_gradient_call(y: Array, amplitude: float, out: Array) -> Call:
    number = out.dtype.type
    return _tanh_gradient, (y.reshape(-1), number(amplitude), number(1 / amplitude), out.reshape(-1))


@compiled
def _tanh_gradient(y: Array, amplitude: Any, inverse: Any, out: Array) -> None:
    for p in range(len(y)):
        out[p] *= fma(-(y[p] * y[p]), inverse, amplitude)


def relu(x: Array, out: Array) -> None:
    """Forward: y = max(x, 0); NaN stays NaN."""
    if not _in_place(x, out):
        out[:] = x
    execute((_relu, (out.reshape(-1),)))


def relu_call(x: Array, out: Array) -> Call | None:
    """The one call that does it all; None if it is not in place."""
    return (_relu, (out.reshape(-1),)) if _in_place(x, out) else None


@compiled
def _relu(y: Array) -> None:
    zero = y.dtype.type(0)
    for p in range(len(y)):
        y[p] = zero if y[p] <= zero else y[p]


def relu_gradient(y: Array, dy: Array, out: Array) -> None:
    """Backward: the error passes where the output is positive."""
    if not _in_place(dy, out):
        out[:] = dy
    execute(_relu_gradient_call(y, out))


def relu_gradient_call(y: Array, dy: Array, out: Array) -> Call | None:
    """The one call that does it all; None if it is not in place."""
    return _relu_gradient_call(y, out) if _in_place(dy, out) else None


def _relu_gradient_call(y: Array, out: Array) -> Call:
    return _relu_gradient, (y.reshape(-1), out.reshape(-1))


@compiled
def _relu_gradient(y: Array, out: Array) -> None:
    zero = y.dtype.type(0)
    for p in range(len(y)):
        out[p] = out[p] if y[p] > zero else zero
