"""Turns ink on a field of any size into a digit like MNIST's. `digit.js` computes exactly the same pixels.

MNIST was made as follows. The digit's box is scaled, with its proportions, until its longer side is 20 pixels. It is
placed on 28 x 28 pixels of background with its centre of mass at the centre. All numbers here are whole: a pixel of the
result is a mean of the pixels below it, rounded half up.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FIELD = 28  # Pixels per side of MNIST's images.
BOX = 20  # Pixels of the digit's longer side.


def digit(ink: Array, image_size: tuple[int, int] = (FIELD, FIELD)) -> Array | None:
    """The digit, uint8 of ``image_size``, from ``ink``, uint8 ``(height, width)``, or None if there is almost no ink.

    Ink is 0 where the paper shows, and the darkest ink of the result is 255. On a field of another size than 28 x 28
    the box is as large in proportion to the field's shorter side.
    """
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return None
    box_ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    box = max(1, _rounded_quotient(BOX * min(image_size), FIELD))
    pixels = _scale(box_ink, box)
    if not pixels.any():
        return None
    pixels = _stretch(pixels)
    result = np.zeros(image_size, np.uint8)
    top, left = (_start(pixels.sum(axis=1 - axis, dtype=np.int64), image_size[axis]) for axis in (0, 1))
    result[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return result


def _rounded_quotient(numerator: int, denominator: int) -> int:
    """The quotient of whole numbers, rounded half up."""
    return (2 * numerator + denominator) // (2 * denominator)


def _scale(ink: Array, box: int) -> Array:
    """The ink with its longer side ``box``: each pixel is the mean of the area that it covers."""
    longer = max(ink.shape)
    height, width = (max(1, _rounded_quotient(side * box, longer)) for side in ink.shape)
    down = _overlaps(ink.shape[0], height)
    across = _overlaps(ink.shape[1], width)
    # Whole numbers below 2^53, so no order of additions changes them.
    sums = (down @ ink.astype(np.float64) @ across.T).astype(np.int64)
    area = ink.shape[0] * ink.shape[1]
    means: Array = (2 * sums + area) // (2 * area)
    return means


def _overlaps(old: int, new: int) -> Array:
    """How much of each old pixel each new one covers, ``(new, old)``, in units of ``1 / new`` of an old pixel."""
    starts = np.arange(new)[:, np.newaxis] * old
    pixels = np.arange(old) * new
    overlaps = np.minimum(starts + old, pixels + new) - np.maximum(starts, pixels)
    return np.asarray(np.maximum(overlaps, 0), np.float64)


def _stretch(ink: Array) -> Array:
    """The ink scaled so that its darkest pixel is 255: thin strokes become lighter when they are made smaller."""
    darkest = int(ink.max())
    return (2 * 255 * ink + darkest) // (2 * darkest)


def _start(sums: Array, field: int) -> int:
    """The box's first pixel on an axis of ``field`` pixels. Its centre of mass is at the centre if the box fits there.

    The centre is pixel 14 of 0 to 27, as in MNIST.
    """
    mass = int(sums.sum())
    moment = int((sums * np.arange(len(sums))).sum())
    return min(max(_rounded_quotient(field // 2 * mass - moment, mass), 0), field - len(sums))
