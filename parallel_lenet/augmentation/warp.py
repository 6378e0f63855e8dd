"""The distortion of images, in NumPy: which random numbers, where each pixel comes from, and interpolation.

All of it is additions, multiplications and divisions in a fixed order, so that `compiled` and every machine get the
same bits.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet.sample_keys import SampleKeys

Array = NDArray[Any]
Singles = NDArray[np.float32]

DRAWN = 8  # Words of each image before those of the elastic distortion. The last three are not used.
TERMS = 22  # Of the Taylor series of sine and cosine: their errors up to pi are below 1e-11.


def warp(images: Array, keys: SampleKeys, background: float, largest: Array, window: Singles) -> Array:
    """Distorted images; see `Augment`. ``largest`` are its first five numbers, the rotation in radians.

    Rows and columns are counted from the image's centre. Each image draws a shift, an angle a, a factor s and a shear
    h; each pixel draws a displacement (u, v). The pixel in row y and column x comes from

        row     y cos(a) / s + (x + h y) sin(a) / s - shift_down  + alpha u
        column  (x + h y) cos(a) / s - y sin(a) / s - shift_right + alpha v
    """
    height, width = images.shape[2:]
    numbers = keys.uniform(-1, 1, (DRAWN,)) * largest[[0, 0, 1, 2, 3, 0, 0, 0]]
    sine, cosine = sine_and_cosine(numbers[:, 2])
    sine = sine / (1 + numbers[:, 3])
    cosine = cosine / (1 + numbers[:, 3])
    shear = numbers[:, 4]

    def per_image(numbers: Array) -> Singles:
        return np.asarray(numbers).astype(np.float32).reshape(-1, 1, 1)

    y = per_image(np.arange(height) - (height - 1) / 2).reshape(1, height, 1)
    x = per_image(np.arange(width) - (width - 1) / 2).reshape(1, 1, width)
    rows = per_image(cosine + sine * shear) * y + per_image(sine) * x
    rows = rows + per_image((height - 1) / 2 - numbers[:, 0])
    columns = per_image(cosine * shear - sine) * y + per_image(cosine) * x
    columns = columns + per_image((width - 1) / 2 - numbers[:, 1])
    if len(window):
        alpha = np.float32(largest[4])
        bend = displacements(keys, height, width, window)
        rows = rows + alpha * bend[:, 0]
        columns = columns + alpha * bend[:, 1]
    return interpolate(images, rows, columns, background)


def sine_and_cosine(angle: Array) -> tuple[Array, Array]:
    """Sine and cosine of angles from -pi to pi: the Taylor series, added from the last term to the first."""
    square = angle * angle
    sine = np.ones_like(angle)
    cosine = sine
    for k in range(TERMS, 0, -2):
        sine = 1 - square * sine / (k * (k + 1))
        cosine = 1 - square * cosine / (k * (k - 1))
    return angle * sine, cosine


def displacements(keys: SampleKeys, height: int, width: int, window: Singles) -> Singles:
    """Smoothed random displacements ``(n, 2, h, w)``: rows, then columns.

    They come from bytes: eight from each word, the lowest first.
    """
    size = 2 * height * width
    words = keys.words(DRAWN + -(-size // 8))[DRAWN:]
    shifts = np.arange(0, 64, 8, dtype=np.uint64).reshape(1, 8, 1)
    values = (words[:, np.newaxis] >> shifts) & np.uint64(255)
    values = values.reshape(-1, len(keys))[:size].T.reshape(-1, 2, height, width)
    field = values.astype(np.float32) * np.float32(1 / 127.5) - np.float32(1)
    for axis in (3, 2):
        field = smooth(field, window, axis)
    return field


def smooth(field: Singles, window: Singles, axis: int) -> Singles:
    """The field's weighted sums over a window along an axis, in the order of the weights. Outside it is 0."""
    reach = len(window) // 2
    size = field.shape[axis]
    widths = [(0, 0)] * 4
    widths[axis] = (reach, reach)
    padded = np.pad(field, widths)
    total = np.zeros_like(field)
    for k, weight in enumerate(window):
        part = [slice(None)] * 4
        part[axis] = slice(k, k + size)
        total += weight * padded[tuple(part)]
    return total


def interpolate(images: Array, rows: Singles, columns: Singles, background: float) -> Array:
    """The images ``(n, c, h, w)`` at the positions ``(n, h, w)``, by the four pixels around each."""
    n, channels, height, width = images.shape
    padded = np.full((n, channels, height + 3, width + 3), background, np.float32)
    padded[:, :, 1 : height + 1, 1 : width + 1] = images
    top, down = _index_and_fraction(rows, height)
    left, right = _index_and_fraction(columns, width)
    plane = (np.arange(n).reshape(n, 1, 1, 1), np.arange(channels).reshape(1, channels, 1, 1))
    top = top[:, np.newaxis]
    left = left[:, np.newaxis]
    down = down[:, np.newaxis]
    right = right[:, np.newaxis]
    one = np.float32(1)
    upper = padded[(*plane, top, left)] * (one - right) + padded[(*plane, top, left + 1)] * right
    lower = padded[(*plane, top + 1, left)] * (one - right) + padded[(*plane, top + 1, left + 1)] * right
    result = upper * (one - down) + lower * down
    if images.dtype.kind in "iu":
        result = np.floor(result + np.float32(0.5))
    warped: Array = result.astype(images.dtype)
    return warped


def _index_and_fraction(positions: Singles, size: int) -> tuple[NDArray[np.int64], Singles]:
    """The padded index of the pixel before each position, and how far after it the position is, from 0 to below 1."""
    inside = np.minimum(np.maximum(positions, np.float32(-1)), np.float32(size))
    floor = np.floor(inside)
    return floor.astype(np.int64) + 1, inside - floor
