"""Dense layers: matrix products in an order of their own, because a BLAS adds in whatever order suits it."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled import tiles
from parallel_lenet.kernels.compiled.jit import Call, execute, sized
from parallel_lenet.kernels.compiled.products import narrowest_run, no_bias, sums_of_products_call
from parallel_lenet.kernels.compiled.sums import add_rows
from parallel_lenet.kernels.compiled.vectors import load, rows_sum, scaled, store

Array = NDArray[Any]

GROUP = 8  # Images that are multiplied and added in registers, before their sum is stored.


@cache
def _starts(features: int, n: int) -> Array:
    """Where in a flat ``x (features, n)`` each feature has its images."""
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
    filled, result = _narrowest(x, out)
    dense(filled, weight, bias, result)
    out[...] = result[:, -x.shape[1] :]


def dense_call(x: Array, weight: Array, bias: Array, out: Array) -> Call | None:
    """The one call that does it all; None if the images don't fill a vector."""
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
    filled, result = _narrowest(dy, out)
    dense_input_gradient(filled, weight, result)
    out[...] = result[:, -dy.shape[1] :]


def dense_input_gradient_call(dy: Array, weight: Array, out: Array) -> Call | None:
    """The one call that does it all; None if the images don't fill a vector."""
    return _product_call(dy, weight, (1, weight.shape[1]), no_bias(len(out), out.dtype), out)


def _product_call(x: Array, weight: Array, steps: tuple[int, int], bias: Array, out: Array) -> Call | None:
    n = x.shape[1]
    if n < narrowest_run(x.itemsize):
        return None
    return sums_of_products_call(x, _starts(len(x), n), 0, weight, steps, bias, out, 1)


def _narrowest(x: Array, out: Array) -> tuple[Array, Array]:
    """``x`` with as many images as fill a vector, and room for their results."""
    lanes = narrowest_run(x.itemsize)
    return tiles.filled(x, lanes), np.empty((len(out), lanes), out.dtype)


def dense_weight_gradient(x: Array, dy: Array, dw: Array, db: Array) -> None:
    """Backward to the parameters, the images' products along a tree::

        each[image] = dy[o, image] * x[i, image]
        dw[o, i] = ((each[0] + each[1]) + (each[2] + each[3])) + ...

    The bias gradient adds ``dy[o, image]`` in the same way.
    """
    execute(dense_weight_gradient_call(x, dy, dw, db))


def dense_weight_gradient_call(x: Array, dy: Array, dw: Array, db: Array) -> Call:
    """The one call that does it all."""
    return _weight_gradient_loop(tiles.lanes(len(x), x.itemsize)), (x, dy, dw, db)


@cache
def _weight_gradient_loop(lanes: int) -> Callable[..., None]:
    """A vector holds neighbouring features' gradients; `GROUP` images at a time, then the groups along the tree.

    The images that the last group lacks are features of 0 and errors of -0, whose product -0 changes no sum.
    """

    @sized(lanes)
    def loop(x: Array, dy: Array, dw: Array, db: Array) -> None:
        features, n = x.shape
        units = len(dy)
        groups = (n + GROUP - 1) // GROUP
        images, width = groups * GROUP, max(features, lanes)
        inputs = np.zeros((images, width), x.dtype)
        errors = np.empty((units, images), x.dtype)
        biases = np.empty((n, units), x.dtype)
        for i in range(features):
            for image in range(n):
                inputs[image, i] = x[i, image]
        for o in range(units):
            for image in range(n):
                errors[o, image] = dy[o, image]
                biases[image, o] = dy[o, image]
            for image in range(n, images):
                errors[o, image] = -0.0
        add_rows(biases)
        for o in range(units):
            db[o] = biases[0, o]
        whole, single = features >= lanes, groups == 1
        sums = np.empty((groups, units * lanes), x.dtype)
        for first in range(0, width, lanes):
            i = min(first, width - lanes)  # The last vector overlaps the one before.
            for group in range(groups):
                pixels = load(inputs, group * GROUP * width + i, width, 0, GROUP, 1, lanes)
                for o in range(units):
                    total = rows_sum(scaled(pixels, errors, o * images + group * GROUP, 1))
                    if whole and single:
                        store(total, dw, o * features + i, 0, 0)
                    else:
                        store(total, sums, (group * units + o) * lanes, 0, 0)
            if whole and single:
                continue
            add_rows(sums)
            for o in range(units):
                if whole:
                    store(load(sums, o * lanes, 0, 0, 1, 1, lanes), dw, o * features + i, 0, 0)
                else:
                    for k in range(features):
                        dw[o, k] = sums[0, o * lanes + k]

    return loop
