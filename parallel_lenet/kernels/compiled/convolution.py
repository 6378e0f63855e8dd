"""Convolutions: tiles of outputs, of input errors and of weights, each finished in registers before it is stored.

With the batch last, neighbouring images lie side by side in memory, and so do the columns of an image row. So a vector
holds images. In the forward pass it holds any neighbours in a row's run of columns and images. Every lane does what the
simple loop does for its image, in the same order.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.kernels.compiled import tiles
from parallel_lenet.kernels.compiled.biases import bias_gradient_call
from parallel_lenet.kernels.compiled.jit import Call, compiled_for, execute
from parallel_lenet.kernels.compiled.lanes import lanes_from, next_column, store_lane_sums
from parallel_lenet.kernels.compiled.products import narrowest_run, sums_of_products_call
from parallel_lenet.kernels.compiled.sums import add_rows
from parallel_lenet.kernels.compiled.vectors import add_products, add_scaled, store_column, zeros

Array = NDArray[Any]


def _windows(x: Array, stride: int, padding: int) -> Array:
    """``x`` with its border of zeros, in a layout in which neighbouring windows see neighbouring pixels.

    With a stride of s, window c's pixel j is the padded row's pixel ``s * c + j``. So the pixels are dealt out to s * s
    pictures, by row and by column. In each of them windows are one pixel apart. The result has the shape
    ``(s * s * channels, height, width, n)``.
    """
    if stride == 1 and padding == 0:
        return x
    channels, height, width, n = x.shape
    rows, columns = (-(-(size + 2 * padding) // stride) for size in (height, width))
    padded = np.zeros((channels, rows * stride, columns * stride, n), x.dtype)
    padded[:, padding : padding + height, padding : padding + width] = x
    dealt = padded.reshape(channels, rows, stride, columns, stride, n).transpose(2, 4, 0, 1, 3, 5)
    return np.ascontiguousarray(dealt).reshape(stride * stride * channels, rows, columns, n)


@lru_cache(1000)
def _starts(shape: tuple[int, ...], window: tuple[int, int], stride: int) -> Array:
    """For each tap (channel, i, j) of a filter, its position for the first window in the flat result of `_windows`."""
    pictures, height, width, n = shape
    channel, i, j = np.ogrid[: pictures // stride**2, : window[0], : window[1]]
    picture = (i % stride * stride + j % stride) * (pictures // stride**2) + channel
    return np.asarray(((picture * height + i // stride) * width + j // stride) * n).reshape(-1)


def conv2d(x: Array, weight: Array, bias: Array, stride: int, padding: int, out: Array) -> None:
    """Forward, every output its bias and then the products of its window, fused, in the order of the filter's taps::

    y = bias[f]
    for ch, i, j:
        y = fma(x[ch, r * stride + i, c * stride + j, image], weight[f, ch, i, j], y)
    out[f, r, c, image] = y
    """
    _, _, columns, n = out.shape
    if columns * n < narrowest_run(out.itemsize):
        result = np.empty((*out.shape[:-1], narrowest_run(out.itemsize)), out.dtype)
        conv2d(tiles.prepend_zeros(x, result.shape[-1]), weight, bias, stride, padding, result)
        out[...] = result[..., -n:]
        return
    execute(_forward_call(_windows(x, stride, padding), weight, bias, stride, out))


def conv2d_call(x: Array, weight: Array, bias: Array, stride: int, padding: int, out: Array) -> Call | None:
    """The call that does all of it, or None if arrays have to be padded first."""
    if stride != 1 or padding != 0 or out.shape[2] * out.shape[3] < narrowest_run(out.itemsize):
        return None
    return _forward_call(x, weight, bias, stride, out)


def _forward_call(windows: Array, weight: Array, bias: Array, stride: int, out: Array) -> Call:
    starts = _starts(windows.shape, weight.shape[2:], stride)
    row_step = windows.shape[2] * windows.shape[3]
    return sums_of_products_call(windows, starts, row_step, weight, (weight[0].size, 1), bias, out, out.shape[1])


def conv2d_input_gradient(dy: Array, weight: Array, stride: int, padding: int, out: Array) -> None:
    """The layer gradient, every pixel the sum over the windows that saw it, the rightmost tap first::

        dx = 0
        for j in reversed(range(kw)):
            for f, i:
                if an output (r, c) has this pixel at (i, j) of its window:
                    dx = fma(dy[f, r, c, image], weight[f, ch, i, j], dx)
        out[ch, row, column, image] = dx

    With a stride of s, the pixels of every s-th row and column see every s-th tap only. That makes s * s convolutions
    without a stride.
    """
    call = conv2d_input_gradient_call(dy, weight, stride, padding, out)
    if call is not None:
        execute(call)
        return
    _, rows, columns, n = dy.shape
    channels, height, width, _ = out.shape
    errors = tiles.prepend_zeros(dy, tiles.lanes(n, dy.itemsize))
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding, errors.shape[-1]), out.dtype)
    for a in range(min(stride, weight.shape[2])):
        for b in range(min(stride, weight.shape[3])):
            part = np.ascontiguousarray(weight[:, :, a::stride, b::stride])
            seen = np.empty(
                (channels, rows + part.shape[2] - 1, columns + part.shape[3] - 1, errors.shape[-1]), out.dtype
            )
            execute(_input_gradient_call(errors, part, seen))
            pixels = padded[:, a::stride, b::stride]
            pixels[:, : seen.shape[1], : seen.shape[2]] = seen[:, : pixels.shape[1], : pixels.shape[2]]
    out[...] = padded[:, padding : padding + height, padding : padding + width, -n:]


def conv2d_input_gradient_call(dy: Array, weight: Array, stride: int, padding: int, out: Array) -> Call | None:
    """The call that does all of it, or None if arrays have to be padded first."""
    n = dy.shape[-1]
    if stride != 1 or padding != 0 or n < tiles.lanes(n, dy.itemsize):
        return None
    return _input_gradient_call(dy, weight, out)


def _input_gradient_call(dy: Array, weight: Array, out: Array) -> Call:
    channels = weight.shape[1]
    kw = weight.shape[3]
    lanes = tiles.lanes(dy.shape[-1], dy.itemsize)
    most = 6 if tiles.tall(lanes, dy.itemsize) and kw <= 5 and channels >= 6 else 3 if tiles.avx512() else 2
    rows = most if channels >= most and kw <= 8 else 1
    return _input_gradient_loop(rows, kw, lanes), (dy, weight, out)


@cache
def _input_gradient_loop(tile_rows: int, kernel_width: int, lanes: int) -> Callable[..., None]:
    """A tile holds some channels' errors for the ``kernel_width`` pixels of a row that one output pixel saw.

    It slides along the row: when an output column has been added, the tile's first column is finished.
    """

    @compiled_for(tile_rows, kernel_width, lanes)
    def loop(dy: Array, weight: Array, out: Array) -> None:
        filters, rows, columns, n = dy.shape
        channels, height, width, _ = out.shape
        kernel_height = weight.shape[2]
        taps = kernel_height * kernel_width
        for first_channel in range(0, channels, tile_rows):
            ch = min(first_channel, channels - tile_rows)
            for row in range(height):
                first_i = max(0, row - rows + 1)
                end_i = min(kernel_height, row + 1)
                for first in range(0, n, lanes):
                    v = min(first, n - lanes)  # The last vector overlaps the one before.
                    sums = zeros(dy, tile_rows, kernel_width, lanes)
                    place = (ch * height + row) * width * n + v
                    for c in range(columns):
                        for f in range(filters):
                            e = ((f * rows + row - first_i) * columns + c) * n + v
                            w = (f * channels + ch) * taps + first_i * kernel_width
                            for _ in range(first_i, end_i):
                                sums = add_scaled(sums, dy, e, 0, weight, w, taps, 1)
                                e -= columns * n
                                w += kernel_width
                        store_column(sums, out, place, height * width * n)
                        sums = next_column(sums)
                        place += n
                    for _ in range(columns, width):
                        store_column(sums, out, place, height * width * n)
                        sums = next_column(sums)
                        place += n

    return loop


def conv2d_weight_gradient(x: Array, dy: Array, stride: int, padding: int, dw: Array, db: Array) -> None:
    """The kernel gradient, for every image the sum over its outputs in row order, then over the images along a tree::

        for image:
            each[image] = 0
            for r, c:
                each[image] = fma(dy[f, r, c, image], x[ch, r * stride + i, c * stride + j, image], each[image])
        dw[f, ch, i, j] = ((each[0] + each[1]) + (each[2] + each[3])) + ...

    The bias gradient is that of `bias_gradient_call`.
    """
    n = dy.shape[-1]
    lanes = tiles.lanes(n, dy.itemsize)
    skipped = max(0, lanes - n)
    x = _windows(tiles.prepend_zeros(x, lanes), stride, padding)
    dy = tiles.prepend_zeros(dy, lanes)
    execute(bias_gradient_call(dy, skipped, db))
    if stride == 1:
        execute(_weight_gradient_call(x, dy, skipped, dw))
        return
    pictures = x.reshape(stride, stride, dw.shape[1], *x.shape[1:])
    for a in range(min(stride, dw.shape[2])):
        for b in range(min(stride, dw.shape[3])):
            part = np.empty(dw[:, :, a::stride, b::stride].shape, dw.dtype)
            execute(_weight_gradient_call(pictures[a, b], dy, skipped, part))
            dw[:, :, a::stride, b::stride] = part


def conv2d_weight_gradient_calls(
    x: Array, dy: Array, stride: int, padding: int, dw: Array, db: Array
) -> list[Call] | None:
    """The calls that do all of it, or None if arrays have to be padded first."""
    n = dy.shape[-1]
    if stride != 1 or padding != 0 or n < tiles.lanes(n, dy.itemsize):
        return None
    return [bias_gradient_call(dy, 0, db), _weight_gradient_call(x, dy, 0, dw)]


def _weight_gradient_call(x: Array, dy: Array, skipped: int, dw: Array) -> Call:
    """The call for a stride of 1 and no padding. The first ``skipped`` images don't count."""
    lanes = tiles.lanes(dy.shape[-1], dy.itemsize)
    tile = gradient_tile(len(dw), dw.shape[3], tiles.tall(lanes, dy.itemsize))
    return weight_gradient_loop(*tile, lanes), (x, dy, skipped, dw)


def gradient_tile(filters: int, kernel_width: int, tall: bool) -> tuple[int, int]:
    """The numbers of filters and of taps in a tile of weights."""
    rows = tiles.fewest_left_over(filters, (4, 3)) if tall and filters >= 6 else min(filters, 2)
    taps = tiles.fewest_left_over(kernel_width, (5, 3, 2)) if kernel_width > 1 else 1
    return rows, taps


@cache
def weight_gradient_loop(tile_rows: int, tile_columns: int, lanes: int) -> Callable[..., None]:
    """A tile holds the gradients of some filters' neighbouring taps, each lane one image's.

    Blocks of images follow one another. The last block overlaps the one before. Only its lanes of new images count.
    """

    @compiled_for(tile_rows, tile_columns, lanes)
    def loop(x: Array, dy: Array, skipped: int, dw: Array) -> None:
        filters, rows, columns, n = dy.shape
        channels, height, width, _ = x.shape
        kernel_height, kernel_width = dw.shape[2:]
        taps = channels * kernel_height * kernel_width
        plane = rows * columns * n
        blocks = (n + lanes - 1) // lanes
        weights = np.empty((blocks, filters * taps), dw.dtype)
        for block in range(blocks):
            v = min(block * lanes, n - lanes)
            to_skip = block * lanes - v + skipped
            for first_filter in range(0, filters, tile_rows):
                f = min(first_filter, filters - tile_rows)
                for kernel_row in range(channels * kernel_height):
                    ch = kernel_row // kernel_height
                    i = kernel_row % kernel_height
                    for first_tap in range(0, kernel_width, tile_columns):
                        j = min(first_tap, kernel_width - tile_columns)
                        sums = zeros(dy, tile_rows, tile_columns, lanes)
                        e = f * plane + v
                        for r in range(rows):
                            s = ((ch * height + r + i) * width + j) * n + v
                            for _ in range(columns):
                                sums = add_products(sums, dy, e, plane, x, s, n)
                                e += n
                                s += n
                        if to_skip:
                            sums = lanes_from(sums, to_skip)
                        place = (block * filters + f) * taps + kernel_row * kernel_width + j
                        store_lane_sums(sums, weights, place, taps)
        add_rows(weights)
        flat = dw.reshape(-1)
        for k in range(filters * taps):
            flat[k] = weights[0, k]

    return loop
