"""Sums of products, the main work of forward passes and dense layers, one tile of results at a time."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled import tiles
from parallel_lenet.kernels.compiled.jit import Call, compiled_for
from parallel_lenet.kernels.compiled.vectors import add_scaled, spread, store

Array = NDArray[Any]


def sums_of_products_call(
    x: Array,
    starts: Array,
    row_step: int,
    weight: Array,
    steps: tuple[int, int],
    bias: Array,
    out: Array,
    rows: int,
) -> Call:
    """The call that makes every result a bias plus numbers of ``x`` times weights.

    They are added in the order of ``starts``, each product fused::

        for f, r, p:                                           # out is (filters, rows, run)
            out[f, r, p] = bias[f]
            for k in range(len(starts)):
                out[f, r, p] = fma(x[starts[k] + r * row_step + p], weight[f * steps[0] + k * steps[1]], out[f, r, p])

    ``x`` and ``weight`` are indexed as flat arrays. A convolution has one start per tap of its filters, one row of
    results per image row, and all columns and images of that row as the run. A dense layer has one start per feature,
    one row, and the images as the run.
    """
    filters = len(bias)
    run = out.size // (filters * rows)
    return _loop_for(filters, run, out.itemsize), (x, starts, row_step, weight, *steps, bias, out, filters, rows, run)


def narrowest_run(itemsize: int) -> int:
    """The shortest run that `sums_of_products_call` can do."""
    return tiles.lanes(0, itemsize)


@cache
def _loop_for(filters: int, run: int, itemsize: int) -> Callable[..., None]:
    """The loop with a tile for this many filters and this run."""
    lanes = tiles.lanes(run, itemsize)
    vectors = run // lanes
    if vectors < 5:
        rows = 8 if filters >= 8 else 4 if filters >= 4 else 1
        if tiles.tall(lanes, itemsize) and filters >= 12:
            rows = tiles.fewest_left_over(filters, (24, 20, 12))
        return _loop(rows, 1, lanes)
    columns = tiles.fewest_left_over(-(-run // lanes), (7, 5) if tiles.avx512() and vectors >= 7 else (5,))
    rows = 4 if tiles.avx512() and columns == 5 else 2
    return _loop(tiles.fewest_left_over(filters, (rows, 2)) if filters > 1 else 1, columns, lanes)


@cache
def _loop(tile_rows: int, tile_columns: int, lanes: int) -> Callable[..., None]:
    """A tile holds some filters' results for some vectors of the run. All products are added before it is stored.

    The last tile of a row, or of the filters, overlaps the one before: it computes the same numbers again.
    """
    width = tile_columns * lanes

    @compiled_for(tile_rows, tile_columns, lanes)
    def loop(
        x: Array,
        starts: Array,
        row_step: int,
        weight: Array,
        filter_step: int,
        product_step: int,
        bias: Array,
        out: Array,
        filters: int,
        rows: int,
        run: int,
    ) -> None:
        products = len(starts)
        for first_filter in range(0, filters, tile_rows):
            f = min(first_filter, filters - tile_rows)
            for r in range(rows):
                for first in range(0, run, width):
                    p = min(first, run - width)
                    sums = spread(bias, f, 1, tile_rows, tile_columns, lanes)
                    w = f * filter_step
                    for k in range(products):
                        s = starts[k] + r * row_step + p
                        sums = add_scaled(sums, x, s, lanes, weight, w, filter_step, 0)
                        w += product_step
                    store(sums, out, (f * rows + r) * run + p, rows * run, lanes)

    return loop


@cache
def no_bias(number: int, dtype: np.dtype[Any]) -> Array:
    """A bias of zeros."""
    return np.zeros(number, dtype)
