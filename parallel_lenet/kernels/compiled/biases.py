"""Gradients of biases: all errors of a filter or of a unit, added up."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled import tiles
from parallel_lenet.kernels.compiled.jit import Call, compiled_for
from parallel_lenet.kernels.compiled.lanes import lanes_from, store_lane_sums
from parallel_lenet.kernels.compiled.sums import add_rows
from parallel_lenet.kernels.compiled.vectors import load, plus, zeros

Array = NDArray[Any]


def bias_gradient_call(dy: Array, skipped: int, db: Array) -> Call:
    """The call that adds the errors ``dy (filters, ..., n)``: of every image in order, then the images along a tree::

        for image:
            each[image] = 0
            for pixel:
                each[image] += dy[f, pixel, image]
        db[f] = ((each[0] + each[1]) + (each[2] + each[3])) + ...

    The first ``skipped`` images don't count. The images must fill a vector.
    """
    n = dy.shape[-1]
    rows = next(rows for rows in (6, 2, 1) if rows <= len(db))
    return _loop(rows, tiles.lanes(n, dy.itemsize)), (dy.reshape(len(db), -1, n), skipped, db)


@cache
def _loop(tile_rows: int, lanes: int) -> Callable[..., None]:
    """A tile holds some filters' sums, each lane one image's. Blocks of images follow one another.

    The last block overlaps the one before. Only its lanes of new images count.
    """

    @compiled_for(tile_rows, lanes)
    def loop(dy: Array, skipped: int, db: Array) -> None:
        filters, pixels, n = dy.shape
        blocks = (n + lanes - 1) // lanes
        sums = np.empty((blocks, filters), dy.dtype)
        for block in range(blocks):
            v = min(block * lanes, n - lanes)
            to_skip = block * lanes - v + skipped
            for first_filter in range(0, filters, tile_rows):
                f = min(first_filter, filters - tile_rows)
                errors = zeros(dy, tile_rows, 1, lanes)
                for pixel in range(pixels):
                    errors = plus(errors, load(dy, (f * pixels + pixel) * n + v, pixels * n, 0, tile_rows, 1, lanes))
                if to_skip:
                    errors = lanes_from(errors, to_skip)
                store_lane_sums(errors, sums, block * filters + f, 1)
        add_rows(sums)
        for f in range(filters):
            db[f] = sums[0, f]

    return loop
