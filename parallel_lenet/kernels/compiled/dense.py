"""Dense layers: matrix products in a fixed order, because the order of additions of a BLAS is not fixed."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled import tiles
from parallel_lenet.kernels.compiled.biases import bias_gradient_call
from parallel_lenet.kernels.compiled.jit import Call, compiled_for, execute
from parallel_lenet.kernels.compiled.lanes import rows_sum, transpose
from parallel_lenet.kernels.compiled.products import narrowest_run, no_bias, sums_of_products_call
from parallel_lenet.kernels.compiled.vectors import load, plus, scale_rows, store

Array = NDArray[Any]


@cache
def _starts(features: int, n: int) -> Array:
    """The position of each feature's first image in a flat ``x (features, n)``."""
    return np.arange(features) * n


def dense(x: Array, weight: Array, bias: Array, out: Array) -> None:
    """Forward, every output its bias and then the products in the order of the features, fused::

    y = bias[o]
    for i in range(features):
        y = fma(x[i, image], weight[o, i], y)
    out[o, image] = y
    """
    call = dense_call(x, weight, bias, out)
    if call is not None:
        execute(call)
        return
    padded, result = _narrowest(x, out)
    dense(padded, weight, bias, result)
    out[...] = result[:, -x.shape[1] :]


def dense_call(x: Array, weight: Array, bias: Array, out: Array) -> Call | None:
    """The call that does all of it, or None if the images don't fill a vector."""
    return _product_call(x, weight, (weight.shape[1], 1), bias, out)


def dense_input_gradient(dy: Array, weight: Array, out: Array) -> None:
    """Backward to the input, in the order of the outputs::

    dx = 0
    for o in range(units):
        dx = fma(dy[o, image], weight[o, i], dx)
    out[i, image] = dx
    """
    call = dense_input_gradient_call(dy, weight, out)
    if call is not None:
        execute(call)
        return
    padded, result = _narrowest(dy, out)
    dense_input_gradient(padded, weight, result)
    out[...] = result[:, -dy.shape[1] :]


def dense_input_gradient_call(dy: Array, weight: Array, out: Array) -> Call | None:
    """The call that does all of it, or None if the images don't fill a vector."""
    return _product_call(dy, weight, (1, weight.shape[1]), no_bias(len(out), out.dtype), out)


def _product_call(x: Array, weight: Array, steps: tuple[int, int], bias: Array, out: Array) -> Call | None:
    n = x.shape[1]
    if n < narrowest_run(x.itemsize):
        return None
    return sums_of_products_call(x, _starts(len(x), n), 0, weight, steps, bias, out, 1)


def _narrowest(x: Array, out: Array) -> tuple[Array, Array]:
    """``x`` with enough images to fill a vector, and an array for their results."""
    lanes = narrowest_run(x.itemsize)
    return tiles.prepend_zeros(x, lanes), np.empty((len(out), lanes), out.dtype)


def dense_weight_gradient(x: Array, dy: Array, dw: Array, db: Array) -> None:
    """Backward to the parameters, the images' products along a tree::

        each[image] = dy[o, image] * x[i, image]
        dw[o, i] = ((each[0] + each[1]) + (each[2] + each[3])) + ...

    The bias gradient is that of `bias_gradient_call`.
    """
    calls = dense_weight_gradient_calls(x, dy, dw, db)
    if calls is None:
        lanes = narrowest_run(x.itemsize)
        errors = tiles.prepend_zeros(dy, lanes)
        execute(bias_gradient_call(errors, lanes - dy.shape[1], db), *_weight_gradient_calls(x, dy, dw))
    else:
        execute(*calls)


def dense_weight_gradient_calls(x: Array, dy: Array, dw: Array, db: Array) -> list[Call] | None:
    """The calls that do all of it, or None if the images don't fill a vector."""
    if x.shape[1] < narrowest_run(x.itemsize):
        return None
    return [bias_gradient_call(dy, 0, db), *_weight_gradient_calls(x, dy, dw)]


def _weight_gradient_calls(x: Array, dy: Array, dw: Array) -> list[Call]:
    features, n = x.shape
    group = 16 if tiles.avx512() and n > 8 else 8
    lanes = tiles.lanes(features, x.itemsize)
    inputs = np.zeros((-(-n // group) * group, max(features, lanes)), x.dtype)
    return [
        (_transpose(tiles.lanes(min(features, n), x.itemsize)), (x, inputs)),
        (_weight_gradient_loop(group, lanes), (inputs, dy, dw)),
    ]


@cache
def _transpose(lanes: int) -> Callable[..., None]:
    """``out[j, i] = x[i, j]``: one tile at a time. The last tiles overlap those before.

    Number by number if x is smaller than a tile.
    """

    @compiled_for(lanes)
    def loop(x: Array, out: Array) -> None:
        rows, columns = x.shape
        width = out.shape[1]
        if rows < lanes or columns < lanes:
            for i in range(rows):
                for j in range(columns):
                    out[j, i] = x[i, j]
            return
        for first_row in range(0, rows, lanes):
            i = min(first_row, rows - lanes)
            for first_column in range(0, columns, lanes):
                j = min(first_column, columns - lanes)
                tile = load(x, i * columns + j, columns, 0, lanes, 1, lanes)
                store(transpose(tile), out, j * width + i, width, 0)

    return loop


@cache
def _weight_gradient_loop(group: int, lanes: int) -> Callable[..., None]:
    """A vector holds neighbouring features' gradients.

    ``group`` images are multiplied and added in registers. Then the groups' sums are added along the tree. The array
    ``inputs (images, features)`` fills the last group with images of 0. Their errors are -0 here: the product -0
    changes no sum.
    """

    @compiled_for(group, lanes)
    def loop(inputs: Array, dy: Array, dw: Array) -> None:
        images, width = inputs.shape
        units, n = dy.shape
        features = dw.shape[1]
        groups = images // group
        errors = dy
        if images > n:
            errors = np.empty((units, images), dy.dtype)
            for o in range(units):
                for image in range(images):
                    errors[o, image] = dy[o, image] if image < n else -0.0
        levels = 1
        while groups >> levels:
            levels += 1
        sums = np.empty((levels, units * lanes), dy.dtype)  # Sums of 2^level groups that have no neighbour yet.
        for first in range(0, width, lanes):
            i = min(first, width - lanes)  # The last vector overlaps the one before.
            for part in range(groups):
                pixels = load(inputs, part * group * width + i, width, 0, group, 1, lanes)
                last = part == groups - 1
                for o in range(units):
                    total = rows_sum(scale_rows(pixels, errors, o * images + part * group, 1))
                    level = 0
                    waiting = part
                    while waiting & 1 or (last and waiting):
                        if waiting & 1:
                            total = plus(load(sums, (level * units + o) * lanes, 0, 0, 1, 1, lanes), total)
                        level += 1
                        waiting >>= 1
                    if not last:
                        store(total, sums, (level * units + o) * lanes, 0, 0)
                    elif features >= lanes:
                        store(total, dw, o * features + i, 0, 0)
                    else:
                        store(total, sums, 0, 0, 0)
                        for k in range(features):
                            dw[o, k] = sums[0, k]

    return loop
