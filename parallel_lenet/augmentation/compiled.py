"""The distortion of images, compiled by Numba: the formulas of `warp`, image by image, with the same bits."""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from parallel_lenet.augmentation.warp import DRAWN, TERMS
from parallel_lenet.kernels.compiled import jit_cache
from parallel_lenet.kernels.compiled.jit import DISABLED, as_writable, compiled
from parallel_lenet.random_compiled import key_of, words_of_sample
from parallel_lenet.sample_keys import SampleKeys

Array = NDArray[Any]

_UNIT = np.float32(1 / 127.5)
TAPS = 5  # Rows that are added in one pass over the sums.


def warp(images: Array, keys: SampleKeys, background: float, largest: Array, window: NDArray[np.float32]) -> Array:
    """Distorts images as `warp.warp` does, with the same bits."""
    out = np.empty(images.shape, np.float32)
    is_integer = images.dtype.kind in "iu"
    pixels = images.astype(np.float32)
    _warp(
        pixels,
        keys.samples.astype(np.uint64),
        key_of(keys),
        np.float32(background),
        as_writable(largest),
        window,
        is_integer,
        out,
    )
    return out.astype(images.dtype, copy=False)


def is_kept() -> bool:
    """Whether the code is in memory or on disk."""
    return DISABLED or jit_cache.is_kept(_warp, numba.float32)


@compiled
def _smooth(field: Array, weights: Array, row: int, out: Array) -> None:
    """The weighted sums of a field's rows, each of ``row`` numbers, `TAPS` rows at a time."""
    for p in range(len(out)):
        out[p] = np.float32(0)
    for k in range(0, len(weights), TAPS):
        w0 = weights[k]
        w1 = weights[k + 1]
        w2 = weights[k + 2]
        w3 = weights[k + 3]
        w4 = weights[k + 4]
        f0 = field[k * row :]
        f1 = field[(k + 1) * row :]
        f2 = field[(k + 2) * row :]
        f3 = field[(k + 3) * row :]
        f4 = field[(k + 4) * row :]
        for p in range(len(out)):
            out[p] = ((((out[p] + w0 * f0[p]) + w1 * f1[p]) + w2 * f2[p]) + w3 * f3[p]) + w4 * f4[p]


@compiled
def _warp(
    images: Array,
    samples: Array,
    key: Array,
    background: Any,
    largest: Array,
    window: Array,
    is_integer: bool,
    out: Array,
) -> None:
    n, channels, height, width = images.shape
    size = 2 * height * width
    calls = (DRAWN + size // 8 + 4) // 4 if len(window) else DRAWN // 4
    words = np.empty(4 * calls, np.uint64)
    weights = np.zeros(-(-len(window) // TAPS) * TAPS, np.float32)
    weights[: len(window)] = window
    reach = len(window) // 2
    # `along` has the rows of both fields side by side, `across` their columns. Each has a border of 0.
    across = np.zeros((height + len(weights) - 1, 2 * width), np.float32)
    along = np.zeros((width + len(weights) - 1, 2 * height), np.float32)
    noise = np.empty(size + 8, np.float32)
    smoothed = np.empty(size, np.float32)
    row_length = np.int32(width + 3)
    padded = np.empty((height + 3) * (width + 3), np.float32)
    ys = (np.arange(height) - (height - 1) / 2).astype(np.float32)
    xs = (np.arange(width) - (width - 1) / 2).astype(np.float32)
    corner = np.empty(width, np.int32)
    down = np.empty(width, np.float32)
    right = np.empty(width, np.float32)
    numbers = np.empty(5, np.float64)
    for i in range(n):
        words_of_sample(samples[i], key, words)
        for j in range(5):
            drawn = np.float64(words[j] >> np.uint64(11)) * 2.0**-53 * 2.0 - 1.0
            numbers[j] = drawn * largest[max(0, j - 1)]
        square = numbers[2] * numbers[2]
        sine = 1.0
        cosine = 1.0
        for half in range(TERMS // 2):
            k = TERMS - 2 * half
            sine = 1.0 - square * sine / (k * (k + 1))
            cosine = 1.0 - square * cosine / (k * (k - 1))
        sine = numbers[2] * sine / (1.0 + numbers[3])
        cosine = cosine / (1.0 + numbers[3])
        row_y = np.float32(cosine + sine * numbers[4])
        row_x = np.float32(sine)
        row_0 = np.float32((height - 1) / 2 - numbers[0])
        column_y = np.float32(cosine * numbers[4] - sine)
        column_x = np.float32(cosine)
        column_0 = np.float32((width - 1) / 2 - numbers[1])
        alpha = np.float32(largest[4])
        if len(window):
            for word in range(size // 8 + 1):
                for byte in range(8):
                    bits = np.int32(words[DRAWN + word] >> np.uint64(8 * byte) & np.uint64(255))
                    noise[8 * word + byte] = np.float32(bits) * _UNIT - np.float32(1)
            for r in range(height):
                for c in range(width):
                    along[reach + c, r] = noise[r * width + c]
                    along[reach + c, height + r] = noise[(height + r) * width + c]
            _smooth(along.reshape(-1), weights, 2 * height, smoothed)
            for r in range(height):
                for c in range(width):
                    across[reach + r, c] = smoothed[c * 2 * height + r]
                    across[reach + r, width + c] = smoothed[c * 2 * height + height + r]
            _smooth(across.reshape(-1), weights, 2 * width, smoothed)
        for channel in range(channels):
            for p in range(len(padded)):
                padded[p] = background
            for r in range(height):
                for c in range(width):
                    padded[(r + 1) * row_length + c + 1] = images[i, channel, r, c]
            for r in range(height):
                row_start = row_y * ys[r]
                column_start = column_y * ys[r]
                for c in range(width):
                    row = row_start + row_x * xs[c] + row_0
                    column = column_start + column_x * xs[c] + column_0
                    if len(window):
                        row += alpha * smoothed[2 * width * r + c]
                        column += alpha * smoothed[2 * width * r + width + c]
                    row = np.float32(-1) if row < np.float32(-1) else row
                    row = np.float32(height) if row > np.float32(height) else row
                    column = np.float32(-1) if column < np.float32(-1) else column
                    column = np.float32(width) if column > np.float32(width) else column
                    top = np.floor(row)
                    left = np.floor(column)
                    down[c] = row - top
                    right[c] = column - left
                    corner[c] = (np.int32(top) + 1) * row_length + np.int32(left) + 1
                for c in range(width):
                    above = np.uint64(corner[c])
                    below = above + np.uint64(row_length)
                    next_ = np.uint64(1)
                    upper = padded[above] * (np.float32(1) - right[c]) + padded[above + next_] * right[c]
                    lower = padded[below] * (np.float32(1) - right[c]) + padded[below + next_] * right[c]
                    value = upper * (np.float32(1) - down[c]) + lower * down[c]
                    if is_integer:
                        value = np.floor(value + np.float32(0.5))
                    out[i, channel, r, c] = value
