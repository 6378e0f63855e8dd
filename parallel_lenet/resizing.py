"""Resizes images. Each new pixel is the mean of the area that it covers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

CHUNK = 1 << 18  # Numbers of images that are resized together.


def area_means(values: Array, height: int, width: int) -> Array:
    """The values ``(h, w, ...)`` on a grid of that size, each the mean of the area that it covers."""
    for axis, new in enumerate((height, width)):
        old = values.shape[axis]
        if old != new:
            edges = np.linspace(0, old, new + 1)
            low = np.minimum(edges.astype(np.intp), old - 1)
            part = (edges - low).reshape(-1, *(1,) * (values.ndim - 1))
            lines = np.moveaxis(values, axis, 0)
            sums = np.concatenate([np.zeros((1, *lines.shape[1:])), np.cumsum(lines, axis=0, dtype=np.float64)])
            means = np.diff(sums[low] + part * (sums[low + 1] - sums[low]), axis=0) * (new / old)
            values = np.moveaxis(means, 0, axis)
    return values


def resize(images: Array, height: int, width: int) -> Array:
    """Images ``(n, h, w)`` or ``(n, c, h, w)`` in another size. Whole numbers are rounded."""
    if images.shape[-2:] == (height, width):
        return images
    result = np.empty((*images.shape[:-2], height, width), images.dtype)
    together = max(1, CHUNK * len(images) // images.size)
    for start in range(0, len(images), together):
        part = images[start : start + together]
        means = area_means(np.moveaxis(part, (-2, -1), (0, 1)), height, width)
        if images.dtype.kind in "iu":
            means = np.rint(means)
        result[start : start + together] = np.moveaxis(means, (0, 1), (-2, -1))
    return result
