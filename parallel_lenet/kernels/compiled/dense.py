"""Dense layers: matrix products in an order of their own, because a BLAS adds in whatever order suits it."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled import tiles
from parallel_lenet.kernels.compiled.jit import own, sized
from parallel_lenet.kernels.compiled.products import narrowest_run, no_bias, sums_of_products
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
    _product(own(x), own(weight), (weight.shape[1], 1), own(bias), out)


def dense_input_gradient(dy: Array, weight: Array, out: Array) -> None:
    """Backward to the input, in the order of the outputs::

    dx = 0
    for o in range(units):
        dx = fma(dy[o, image], weight[o, i], dx)
    out[i, image] = dx
    """
    _product(own(dy), own(weight), (1, weight.shape[1]), no_bias(len(out), out.dtype), out)


def _product(x: Array, weight: Array, steps: tuple[int, int], bias: Array, out: Array) -> None:
    n = x.shape[1]
    lanes = narrowest_run(x.itemsize)
    if n >= lanes:
        sums_of_products(x, _starts(len(x), n), 0, weight, steps, bias, out, 1)
        return
    result = np.empty((len(out), lanes), out.dtype)
    sums_of_products(tiles.filled(x, lanes), _starts(len(x), lanes), 0, weight, steps, bias, result, 1)
    out[...] = result[:, -n:]


def dense_weight_gradient(x: Array, dy: Array, dw: Array, db: Array) -> None:
    """Backward to the parameters, the images' products along a tree::

        each[image] = dy[o, image] * x[i, image]
        dw[o, i] = ((each[0] + each[1]) + (each[2] + each[3])) + ...

    The bias gradient adds ``dy[o, image]`` in the same way.
    """
    lanes = tiles.lanes(len(x), x.itemsize)
    _weight_gradient_loop(lanes)(own(x), own(dy), dw, db)


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
        sums = np.empty((groups, units * lanes), x.dtype)
        for first in range(0, width, lanes):
            i = min(first, width - lanes)  # The last vector overlaps the one before.
            for group in range(groups):
                pixels = load(inputs, group * GROUP * width + i, width, 0, GROUP, 1, lanes)
                for o in range(units):
                    products = scaled(pixels, errors, o * images + group * GROUP, 1)
                    store(rows_sum(products), sums, (group * units + o) * lanes, 0, 0)
            add_rows(sums)
            for o in range(units):
                if features >= lanes:
                    store(load(sums, o * lanes, 0, 0, 1, 1, lanes), dw, o * features + i, 0, 0)
                else:
                    for k in range(features):
                        dw[o, k] = sums[0, o * lanes + k]

    return loop
